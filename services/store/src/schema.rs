//! The tables, and how a file of an older release becomes one of this release.
//!
//! The version is SQLite's `user_version`. Migrations run in one transaction each, in order; a file
//! that is newer than this release is refused before anything is written.

use rusqlite::Connection;

use crate::StoreError;

/// The steps from an empty file to this release. Never change one that was released: append.
pub(crate) const MIGRATIONS: &[&str] = &[
    // `sum` is the checksum of the row's other columns, see `row.rs`. No secondary indexes: they would
    // be a second copy that no checksum covers.
    "CREATE TABLE objects (
        kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        uid TEXT NOT NULL, version TEXT NOT NULL, encoding INTEGER NOT NULL, body BLOB NOT NULL,
        sum INTEGER NOT NULL, PRIMARY KEY (kind, namespace, name)
     ) WITHOUT ROWID;
     CREATE TABLE events (
        id INTEGER PRIMARY KEY, droppable INTEGER NOT NULL,
        kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        uid TEXT NOT NULL, observed_ms INTEGER NOT NULL, traceparent TEXT NOT NULL,
        encoding INTEGER NOT NULL, body BLOB NOT NULL, sum INTEGER NOT NULL
     );
     CREATE TABLE latest (
        kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        id INTEGER NOT NULL, uid TEXT NOT NULL, observed_ms INTEGER NOT NULL, traceparent TEXT NOT NULL,
        encoding INTEGER NOT NULL, body BLOB NOT NULL, sum INTEGER NOT NULL,
        PRIMARY KEY (kind, namespace, name)
     ) WITHOUT ROWID;
     CREATE TABLE blobs (
        scope TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
        sum INTEGER NOT NULL, PRIMARY KEY (scope, key)
     ) WITHOUT ROWID;",
];

/// Marks the file as ours: "Skry".
const APPLICATION_ID: i32 = 0x536b_7279;

/// Brings an opened file to the newest version.
pub(crate) fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let found = version(connection)?;
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    if found > known || found < 0 {
        return Err(StoreError::NewerSchema { found, known });
    }
    for (done, step) in migrations.iter().enumerate().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        let transaction = connection.transaction().map_err(StoreError::Database)?;
        transaction.execute_batch(step).map_err(StoreError::Database)?;
        let version = i64::try_from(done).unwrap_or(i64::MAX).saturating_add(1);
        transaction.pragma_update(None, "user_version", version).map_err(StoreError::Database)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(StoreError::Database)?;
        transaction.commit().map_err(StoreError::Database)?;
    }
    Ok(())
}

/// The version of an opened file; 0 for an empty one.
pub(crate) fn version(connection: &Connection) -> Result<i64, StoreError> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(StoreError::Database)
}

/// Refuses a file of a newer release, before anything is written to it. A file that claims to be newer
/// but has exactly our tables is a damaged one: a release that changes nothing has no new version.
pub(crate) fn refuse_newer(connection: &Connection) -> Result<(), StoreError> {
    let (found, known) = (version(connection)?, i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX));
    if (0..=known).contains(&found) {
        return Ok(());
    }
    if found < 0 || matches(connection).map_err(StoreError::Database)? {
        return Err(StoreError::Damaged { reason: format!("its schema version {found} is not possible") });
    }
    Err(StoreError::NewerSchema { found, known })
}

/// Whether the tables are those that this release writes, by the text that SQLite keeps for each.
pub(crate) fn matches(connection: &Connection) -> rusqlite::Result<bool> {
    let pristine = Connection::open_in_memory()?;
    for step in MIGRATIONS {
        pristine.execute_batch(step)?;
    }
    Ok(tables(connection)? == tables(&pristine)?)
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<(String, Option<String>)>> {
    let mut statement = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}
