//! The database file: how it is opened, checked and read at start.
//!
//! Called once by `Storage::open`. Invariants: a damaged or newer file is refused and not changed; only
//! one process has the file open (exclusive locking). Limits: all objects are held in memory.
//! A crash while the tables are made leaves an empty database (one transaction).

use crate::error::ServerError;
use rusqlite::Connection;
use serde_json::Value;
use skerry_apimachinery::{Entry, EventType};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The schema this program writes (`PRAGMA user_version`).
const SCHEMA: i64 = 1;

/// The write-ahead log is cut to this size after a checkpoint, in bytes.
const MAX_WAL: i64 = 64 << 20;

/// Objects and tombstones of one resource.
type Stored = (Vec<Arc<Entry>>, Vec<Arc<Entry>>);

/// What was found.
pub(super) struct Loaded {
    /// The newest version ever given.
    pub(super) version: u64,
    /// Deletions up to here are forgotten.
    pub(super) floor: u64,
    /// How many tombstones there are.
    pub(super) tombstones: usize,
    /// Objects and tombstones by storage.
    pub(super) resources: HashMap<Arc<str>, Stored>,
}

pub(super) fn open(path: &Path) -> Result<(Connection, Loaded), ServerError> {
    let failed = |source| ServerError::Database { path: path.to_owned(), source };
    let connection = Connection::open(path).map_err(failed)?;
    prepare(&connection).map_err(failed)?;
    let finding: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if finding != "ok" {
        return Err(ServerError::Damaged { path: path.to_owned(), finding });
    }
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if found > SCHEMA {
        return Err(ServerError::Schema { path: path.to_owned(), found, known: SCHEMA });
    }
    if found == 0 {
        create(&connection).map_err(failed)?;
    }
    let loaded = load(&connection).map_err(failed)?;
    Ok((connection, loaded))
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", MAX_WAL)
}

fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         CREATE TABLE objects(
             storage TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
             version INTEGER NOT NULL, created INTEGER NOT NULL, body BLOB NOT NULL,
             PRIMARY KEY(storage, namespace, name)) STRICT;
         CREATE TABLE tombstones(version INTEGER PRIMARY KEY, created INTEGER NOT NULL, storage TEXT NOT NULL, body BLOB NOT NULL) STRICT;
         CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
         INSERT INTO counters VALUES('version', 1), ('floor', 0);
         PRAGMA user_version = {SCHEMA};
         COMMIT;"
    ))
}

fn load(connection: &Connection) -> rusqlite::Result<Loaded> {
    let counter = |name: &str| {
        connection
            .query_row("SELECT value FROM counters WHERE name = ?1", [name], |row| row.get::<_, i64>(0))
            .map(unsigned)
    };
    let mut loaded =
        Loaded { version: counter("version")?, floor: counter("floor")?, tombstones: 0, resources: HashMap::new() };
    let mut read = connection.prepare("SELECT storage, version, created, body FROM objects")?;
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        let (storage, entry) = entry(row)?;
        loaded.resources.entry(storage).or_default().0.push(entry);
    }
    let mut read = connection.prepare("SELECT storage, version, created, body FROM tombstones")?;
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        let (storage, entry) = entry(row)?;
        loaded.resources.entry(storage).or_default().1.push(entry);
        loaded.tombstones += 1;
    }
    Ok(loaded)
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Arc<str>, Arc<Entry>)> {
    let storage: String = row.get(0)?;
    let (version, created) = (unsigned(row.get(1)?), unsigned(row.get(2)?));
    let body = row.get_ref(3)?.as_blob()?;
    let object: Value = serde_json::from_slice(body)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Blob, Box::new(error)))?;
    let entry = Entry::from_bytes(&storage, &object, body, version, created, EventType::Added);
    Ok((storage.into(), Arc::new(entry)))
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
