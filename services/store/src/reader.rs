//! Reading, on a few read-only connections beside the writer.
//!
//! Each read runs on a blocking thread and sees one consistent snapshot, which holds everything that
//! was acknowledged before it began. At most [`StoreOptions::readers`] run at a time; further readers
//! wait. A failed or damaged read stops the whole store, as a failed write does.
//!
//! [`StoreOptions::readers`]: crate::StoreOptions::readers

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, params};
use skerry_common::{Key, Version};
use tokio::sync::Semaphore;

use crate::{
    PendingReport, StoreError, StoredObject, connection,
    error::{Class, class},
    row::{self, BLOB, CHECKPOINT, EVENT, Fault, LATEST, OBJECT, VALUE, signed},
    writer::Failure,
};

/// The read-only connections.
pub(crate) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
    failure: Failure,
}

impl Readers {
    pub(crate) fn new(path: PathBuf, count: usize, failure: Failure) -> Self {
        Self { path, idle: Mutex::new(Vec::new()), permits: Semaphore::new(count.max(1)), failure }
    }

    /// Runs one read.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.failure.check()?;
        // Never closed, so waiting for a permit cannot fail.
        let _permit = self.permits.acquire().await.ok();
        let readers = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || readers.run(read)).await;
        done.unwrap_or_else(|_| Err(StoreError::Stopped { reason: "a reading task was ended".into() }))
    }

    fn run<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            // Without a free file descriptor no connection opens; that says nothing about the data.
            None => connection::open_reader(&self.path).map_err(|error| match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::CannotOpen) => StoreError::Database(error),
                _ => self.sort(Fault::Sql(error)),
            })?,
        };
        let result = snapshot(&connection, read).map_err(|fault| self.sort(fault));
        if self.failure.check().is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        result
    }

    /// Closes the idle connections.
    pub(crate) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn sort(&self, fault: Fault) -> StoreError {
        match fault {
            Fault::Refused(error) => error,
            Fault::Damaged(reason) | Fault::Unreadable(reason) => {
                self.failure.stop(format!("damaged: {reason}"));
                StoreError::Damaged { reason }
            }
            Fault::Sql(error) => match class(&error) {
                Class::Busy => StoreError::Busy,
                Class::Damaged => {
                    self.failure.stop(format!("damaged: {error}"));
                    StoreError::Damaged { reason: error.to_string() }
                }
                Class::Failed => {
                    self.failure.stop(format!("reading failed: {error}"));
                    StoreError::Database(error)
                }
                Class::Full | Class::Other => StoreError::Database(error),
            },
        }
    }
}

/// Runs a read inside one transaction, so that several statements see the same state.
fn snapshot<T>(connection: &Connection, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
    let transaction = connection.unchecked_transaction()?;
    let result = read(&transaction);
    // Nothing was written; the rollback only ends the snapshot.
    transaction.rollback()?;
    result
}

pub(crate) fn get(connection: &Connection, kind: &str, key: &Key) -> Result<Option<StoredObject>, Fault> {
    let sql = format!("SELECT {OBJECT} FROM objects WHERE kind = ?1 AND namespace = ?2 AND name = ?3");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![kind, key.namespace, key.name])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(row::object(row)?.1))
}

pub(crate) fn list(connection: &Connection, kind: &str, namespace: Option<&str>) -> Result<Vec<StoredObject>, Fault> {
    let sql = format!(
        "SELECT {OBJECT} FROM objects WHERE kind = ?1 AND (?2 IS NULL OR namespace = ?2) ORDER BY namespace, name"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![kind, namespace])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(row::object(row)?.1);
    }
    Ok(found)
}

pub(crate) fn held(connection: &Connection, kind: &str) -> Result<Vec<(Key, Version)>, Fault> {
    // Without the bodies: their checksums were compared at start and are on every use.
    let mut statement = connection
        .prepare_cached("SELECT namespace, name, version FROM objects WHERE kind = ?1 ORDER BY namespace, name")?;
    let mut rows = statement.query(params![kind])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key = Key::new(row.get::<_, Arc<str>>(0)?, row.get::<_, Arc<str>>(1)?);
        found.push((key, Version::new(row.get::<_, Arc<str>>(2)?)));
    }
    Ok(found)
}

pub(crate) fn kinds(connection: &Connection) -> Result<Vec<String>, Fault> {
    let mut statement = connection.prepare_cached("SELECT DISTINCT kind FROM objects ORDER BY kind")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(crate) fn pending(connection: &Connection, after: u64, limit: usize) -> Result<Vec<PendingReport>, Fault> {
    let (after, limit_sql) = (signed(after), i64::try_from(limit).unwrap_or(i64::MAX));
    let mut found = Vec::new();
    let sql = format!("SELECT {EVENT} FROM events WHERE id > ?1 ORDER BY id LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![after, limit_sql])?;
    while let Some(row) = rows.next()? {
        found.push(row::event(row)?.0);
    }
    // Ids first: sorting must not carry the bodies.
    let sql = format!(
        "SELECT {LATEST} FROM latest JOIN
         (SELECT kind AS k, namespace AS s, name AS n FROM latest WHERE id > ?1 ORDER BY id LIMIT ?2)
         ON kind = k AND namespace = s AND name = n"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![after, limit_sql])?;
    while let Some(row) = rows.next()? {
        found.push(row::latest(row)?);
    }
    found.sort_by_key(|pending| pending.id);
    found.truncate(limit);
    Ok(found)
}

pub(crate) fn value(connection: &Connection, name: &str) -> Result<Option<bytes::Bytes>, Fault> {
    let sql = format!("SELECT {BLOB} FROM blobs WHERE scope = ?1 AND key = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_row(params![VALUE, name], |row| Ok(row::blob(row))).optional()?;
    found.map(|blob| blob.map(|(_, _, value)| value)).transpose()
}

pub(crate) fn checkpoints(connection: &Connection, scope: &str) -> Result<Vec<(String, bytes::Bytes)>, Fault> {
    let sql = format!("SELECT {BLOB} FROM blobs WHERE scope = ?1 ORDER BY key");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![format!("{CHECKPOINT}{scope}")])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (_, key, value) = row::blob(row)?;
        found.push((key, value));
    }
    Ok(found)
}
