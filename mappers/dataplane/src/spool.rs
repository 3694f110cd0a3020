//! What waits on disk for sinks that are away: one SQLite file per mapper.
//!
//! Called by the tasks of sinks, on threads that may block. The file is opened when the first sink asks. Each sink
//! has its own bound in bytes; all have one in age, counted in time in which the mapper runs, so that a clock that
//! jumps drops nothing. What is full drops its oldest values and says how many.
//!
//! A call that returned is on disk (`synchronous=FULL`): it survives a kill and a power cut. A damaged file is set
//! aside and a new one begun. While the file cannot be used, values wait in memory, and it is tried again.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use skerry_mapper_sdk::Value;

use crate::record::{Record, Target};

/// Bytes that wait for one sink where the operator does not say: a million numbers.
pub const DEFAULT_SPOOL_BYTES: u64 = 64 * 1024 * 1024;
/// How long a value waits where the operator does not say: a week without a sink.
pub const DEFAULT_SPOOL_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Rows that are looked at together to make room.
const TRIM_ROWS: i64 = 256;
/// Between two looks for values that are too old.
const AGE_PAUSE: Duration = Duration::from_secs(60);
/// How long a file that cannot be used is left alone.
const RETRY_PAUSE: Duration = Duration::from_secs(30);
/// A small page cache, because the kernel caches the file already; pages are given back; the log file is cut to
/// a mebibyte after a checkpoint.
const SETTINGS: &str = "PRAGMA auto_vacuum = 2; PRAGMA journal_mode = wal; PRAGMA synchronous = full;
    PRAGMA cache_size = -512; PRAGMA mmap_size = 0; PRAGMA journal_size_limit = 1048576;";
/// Rows have numbers of their own: without them a value longer than a quarter of a page takes pages for itself.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS sinks (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE IF NOT EXISTS targets (
        id INTEGER PRIMARY KEY, sink INTEGER NOT NULL, body TEXT NOT NULL, UNIQUE (sink, body)) STRICT;
    CREATE TABLE IF NOT EXISTS pending (
        sink INTEGER NOT NULL, seq INTEGER NOT NULL, target INTEGER NOT NULL, at INTEGER NOT NULL,
        unix_ms INTEGER NOT NULL, kind INTEGER NOT NULL, value ANY NOT NULL, cost INTEGER NOT NULL,
        PRIMARY KEY (sink, seq)) STRICT;";

/// Why the spool cannot be used now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// The folder or the file: does it exist, may this user write it, is there room?
    #[error("cannot use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// SQLite failed.
    #[error("the spool's database failed")]
    Database(#[from] rusqlite::Error),
    /// What is written is not what we write.
    #[error("the spool has a row that cannot be read")]
    Row(#[from] serde_json::Error),
    /// It failed a moment ago.
    #[error("the spool could not be used a moment ago")]
    Waiting,
}

/// What waits for a sink, the oldest first, each with its number.
pub(crate) type Waiting = Vec<(i64, Record)>;

/// The number of the last value, and how many were dropped to make room.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) last: i64,
    pub(crate) dropped: u64,
}

/// See the module documentation. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    path: PathBuf,
    bytes: u64,
    age: Duration,
    inner: Arc<Mutex<State>>,
}

#[derive(Debug)]
enum State {
    Closed { retry_at: Option<Instant> },
    Open(Box<Database>),
}

#[derive(Debug)]
struct Database {
    connection: Connection,
    /// Bytes and the last number of each sink, by its id.
    sinks: HashMap<i64, Held>,
    names: HashMap<String, i64>,
    /// Seconds on the spool's own clock, which goes on only while somebody runs.
    base: i64,
    begun: Instant,
    looked: Option<Instant>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    last: i64,
}

impl Spool {
    /// In this folder, which is made when it is needed.
    pub(crate) fn new(folder: &Path, bytes: u64, age: Duration) -> Self {
        let inner = Arc::new(Mutex::new(State::Closed { retry_at: None }));
        Self { path: folder.join("spool.db"), bytes, age, inner }
    }

    /// Appends values that wait for a sink; drops the oldest of this sink if there is no room.
    pub(crate) fn append(&self, sink: &str, records: &[Record]) -> Result<Appended, SpoolError> {
        let (bytes, age) = (self.bytes, self.age);
        self.with(|open| open.append(sink, records, bytes, age))
    }

    /// The oldest values of a sink.
    pub(crate) fn oldest(&self, sink: &str, records: usize, bytes: u64) -> Result<Waiting, SpoolError> {
        self.with(|open| open.oldest(sink, records, bytes))
    }

    /// A sink has taken everything up to this number.
    pub(crate) fn confirm(&self, sink: &str, number: i64) -> Result<(), SpoolError> {
        self.with(|open| open.confirm(sink, number))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Database) -> Result<T, SpoolError>) -> Result<T, SpoolError> {
        let mut state = self.lock();
        if let State::Closed { retry_at } = &*state {
            if retry_at.is_some_and(|at| at > Instant::now()) {
                return Err(SpoolError::Waiting);
            }
            *state = State::Closed { retry_at: Some(Instant::now() + RETRY_PAUSE) };
            *state = State::Open(Box::new(Database::open(&self.path)?));
        }
        let State::Open(open) = &mut *state else { return Err(SpoolError::Waiting) };
        let result = work(open);
        if result.is_err() {
            // What is known of the file may be wrong now: it is read anew.
            *state = State::Closed { retry_at: Some(Instant::now() + RETRY_PAUSE) };
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Database {
    fn open(path: &Path) -> Result<Self, SpoolError> {
        let io = |source| SpoolError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            // Values may be confidential: readable by their owner only.
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        }
        match Self::read(path) {
            Err(SpoolError::Database(error)) if is_damage(&error) => {
                let aside = path.with_extension("damaged");
                tracing::error!(%error, aside = %aside.display(), "the spool is damaged: it is set aside and begins anew");
                fs::rename(path, aside).map_err(io)?;
                for log in ["db-wal", "db-shm"] {
                    // They may not be there.
                    let _ = fs::remove_file(path.with_extension(log));
                }
                Self::read(path)
            }
            other => other,
        }
    }

    fn read(path: &Path) -> Result<Self, SpoolError> {
        let io = |source| SpoolError::Io { path: path.to_owned(), source };
        OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(io)?;
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch(SETTINGS)?;
        connection.execute_batch(SCHEMA)?;
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)).and_then(|answer| {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            if answer == "ok" { Ok(()) } else { Err(rusqlite::Error::SqliteFailure(code, Some(answer))) }
        })?;
        let mut open = Self {
            connection,
            sinks: HashMap::new(),
            names: HashMap::new(),
            base: 0,
            begun: Instant::now(),
            looked: None,
        };
        open.base = open.connection.query_row("SELECT coalesce(max(at), 0) FROM pending", [], |row| row.get(0))?;
        open.count()?;
        Ok(open)
    }

    /// Reads what each sink holds.
    fn count(&mut self) -> Result<(), SpoolError> {
        let last: HashMap<i64, i64> = self.sinks.iter().map(|(id, held)| (*id, held.last)).collect();
        self.sinks.clear();
        self.names.clear();
        let mut query = self.connection.prepare_cached(
            "SELECT id, name, coalesce(sum(cost), 0), coalesce(max(seq), 0)
             FROM sinks LEFT JOIN pending ON sink = id GROUP BY id",
        )?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        for row in rows {
            let (id, name, bytes, seq): (i64, String, i64, i64) = row?;
            // A number is never used twice, also when everything was confirmed.
            let last = last.get(&id).copied().unwrap_or(0).max(seq);
            self.sinks.insert(id, Held { bytes: u64::try_from(bytes).unwrap_or(0), last });
            self.names.insert(name, id);
        }
        Ok(())
    }

    fn now(&self) -> i64 {
        self.base.saturating_add(i64::try_from(self.begun.elapsed().as_secs()).unwrap_or(i64::MAX))
    }

    fn append(&mut self, sink: &str, records: &[Record], most: u64, age: Duration) -> Result<Appended, SpoolError> {
        let mut dropped = self.forget_old(age)?;
        let now = self.now();
        let transaction = self.connection.transaction()?;
        let id = match self.names.get(sink) {
            Some(id) => *id,
            None => {
                transaction.execute("INSERT INTO sinks (name) VALUES (?)", [sink])?;
                transaction.last_insert_rowid()
            }
        };
        let held = self.sinks.get(&id);
        let (mut last, mut bytes) = held.map_or((0, 0), |held| (held.last, held.bytes));
        // Room is made first, and what would have none is not written: the file grows by no more than what stays.
        let (records, skipped, needed) = newest(records, most);
        last += i64::try_from(skipped).unwrap_or(i64::MAX);
        dropped += u64::try_from(skipped).unwrap_or(0);
        // What is older than something that is dropped goes too.
        let most_before = if skipped > 0 { 0 } else { most.saturating_sub(needed) };
        while bytes > most_before {
            let mut query =
                transaction.prepare_cached("SELECT seq, cost FROM pending WHERE sink = ? ORDER BY seq LIMIT ?")?;
            let rows = query.query_map([id, TRIM_ROWS], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
            let mut upto = None;
            for row in rows {
                let (seq, cost) = row?;
                bytes = bytes.saturating_sub(u64::try_from(cost).unwrap_or(0));
                upto = Some(seq);
                if bytes <= most_before {
                    break;
                }
            }
            let Some(upto) = upto else { break };
            let gone = transaction.execute("DELETE FROM pending WHERE sink = ? AND seq <= ?", [id, upto])?;
            dropped += u64::try_from(gone).unwrap_or(0);
        }
        let mut targets: HashMap<*const Target, i64> = HashMap::new();
        let mut insert = transaction.prepare_cached(
            "INSERT INTO pending (sink, seq, target, at, unix_ms, kind, value, cost) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        for record in records {
            let target = match targets.get(&Arc::as_ptr(&record.target)) {
                Some(target) => *target,
                None => {
                    let target = target_id(&transaction, id, &record.target)?;
                    targets.insert(Arc::as_ptr(&record.target), target);
                    target
                }
            };
            last += 1;
            let cost = record.cost();
            bytes += cost;
            let (kind, value) = to_sql(&record.value);
            let cost = i64::try_from(cost).unwrap_or(i64::MAX);
            insert.execute(params![id, last, target, now, record.unix_ms, kind, value, cost])?;
        }
        drop(insert);
        transaction.commit()?;
        self.names.insert(sink.to_owned(), id);
        self.sinks.insert(id, Held { bytes, last });
        Ok(Appended { last, dropped })
    }

    /// Drops what is too old, of all sinks.
    fn forget_old(&mut self, age: Duration) -> Result<u64, SpoolError> {
        if self.looked.is_some_and(|at| at.elapsed() < AGE_PAUSE) {
            return Ok(0);
        }
        self.looked = Some(Instant::now());
        let oldest = self.now().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let gone = self.connection.execute("DELETE FROM pending WHERE at < ?", [oldest])?;
        if gone > 0 {
            self.count()?;
        }
        Ok(u64::try_from(gone).unwrap_or(0))
    }

    fn oldest(&mut self, sink: &str, records: usize, most: u64) -> Result<Waiting, SpoolError> {
        let Some(id) = self.names.get(sink) else { return Ok(Vec::new()) };
        let mut query = self.connection.prepare_cached(
            "SELECT seq, target, body, unix_ms, kind, value FROM pending JOIN targets ON targets.id = target
             WHERE pending.sink = ? ORDER BY seq LIMIT ?",
        )?;
        let mut targets: HashMap<i64, Arc<Target>> = HashMap::new();
        let mut rows = query.query(params![id, i64::try_from(records).unwrap_or(i64::MAX)])?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let target_id: i64 = row.get(1)?;
            let target = match targets.get(&target_id) {
                Some(target) => Arc::clone(target),
                None => {
                    let target: Arc<Target> = Arc::new(serde_json::from_str(row.get_ref(2)?.as_str().unwrap_or(""))?);
                    targets.insert(target_id, Arc::clone(&target));
                    target
                }
            };
            let value = from_sql(row.get(4)?, row.get(5)?);
            let record = Record { target, value, unix_ms: row.get(3)? };
            bytes += record.cost();
            found.push((row.get(0)?, record));
            if bytes >= most {
                break;
            }
        }
        Ok(found)
    }

    fn confirm(&mut self, sink: &str, number: i64) -> Result<(), SpoolError> {
        let Some(id) = self.names.get(sink).copied() else { return Ok(()) };
        let transaction = self.connection.transaction()?;
        let mut query =
            transaction.prepare_cached("SELECT coalesce(sum(cost), 0) FROM pending WHERE sink = ? AND seq <= ?")?;
        let bytes: i64 = query.query_row([id, number], |row| row.get(0))?;
        drop(query);
        transaction.execute("DELETE FROM pending WHERE sink = ? AND seq <= ?", [id, number])?;
        let left = transaction
            .query_row("SELECT 1 FROM pending WHERE sink = ? LIMIT 1", [id], |row| row.get::<_, i64>(0))
            .optional()?;
        if left.is_none() {
            transaction.execute("DELETE FROM targets WHERE sink = ?", [id])?;
        }
        transaction.commit()?;
        if let Some(held) = self.sinks.get_mut(&id) {
            held.bytes = held.bytes.saturating_sub(u64::try_from(bytes).unwrap_or(0));
        }
        if left.is_none() {
            // What was used is given back when nothing waits any more.
            self.connection.execute_batch("PRAGMA incremental_vacuum")?;
        }
        Ok(())
    }
}

/// The newest values that have room in so many bytes, how many older ones there are, and what the newest ones cost.
fn newest(records: &[Record], most: u64) -> (&[Record], usize, u64) {
    let mut cost = 0_u64;
    let fits = |record: &&Record| {
        let more = cost.saturating_add(record.cost());
        let fits = more <= most;
        cost = if fits { more } else { cost };
        fits
    };
    let count = records.iter().rev().take_while(fits).count();
    let skipped = records.len().saturating_sub(count);
    (records.get(skipped..).unwrap_or_default(), skipped, cost)
}

fn target_id(transaction: &Transaction<'_>, sink: i64, target: &Target) -> Result<i64, SpoolError> {
    let body = serde_json::to_string(target)?;
    transaction
        .prepare_cached("INSERT OR IGNORE INTO targets (sink, body) VALUES (?, ?)")?
        .execute(params![sink, body])?;
    let mut query = transaction.prepare_cached("SELECT id FROM targets WHERE sink = ? AND body = ?")?;
    Ok(query.query_row(params![sink, body], |row| row.get(0))?)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

fn to_sql(value: &Value) -> (i64, Sql) {
    match value {
        Value::Int(value) => (0, Sql::Integer(*value)),
        // SQLite has no numbers of this size: its bits are kept.
        Value::Uint(value) => (1, Sql::Integer(value.cast_signed())),
        Value::Float(value) => (2, Sql::Real(*value)),
        Value::Bool(value) => (3, Sql::Integer(i64::from(*value))),
        Value::Text(value) => (4, Sql::Text(value.clone())),
        Value::Bytes(value) => (5, Sql::Blob(value.clone())),
    }
}

fn from_sql(kind: i64, value: Sql) -> Value {
    match (kind, value) {
        (1, Sql::Integer(value)) => Value::Uint(value.cast_unsigned()),
        (3, Sql::Integer(value)) => Value::Bool(value != 0),
        (_, Sql::Integer(value)) => Value::Int(value),
        (_, Sql::Real(value)) => Value::Float(value),
        (_, Sql::Text(value)) => Value::Text(value),
        (_, Sql::Blob(value)) => Value::Bytes(value),
        (_, Sql::Null) => Value::Text(String::new()),
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
