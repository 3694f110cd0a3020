//! The only places that open the database, so that no connection lacks a setting.
//!
//! SQLite's settings belong to a connection and may be ignored silently, so each is read back. The
//! caches are small: the kernel caches the file already, and a node has little memory. Memory mapping
//! is off, because a failing disk then kills the process with a signal instead of an error.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use crate::{StoreError, StoreOptions, options::MAX_ROW};

/// How long to wait for a lock that another program (a person with `sqlite3`) holds.
const BUSY: Duration = Duration::from_secs(5);

/// Page cache of the writer in KiB, negative as SQLite wants it.
const WRITER_CACHE: i64 = -512;

/// Page cache of each reader in KiB.
const READER_CACHE: i64 = -256;

/// SQLite itself copies the log back into the database file only when it has this many pages (4 MiB):
/// it ignores errors when it does. The writer does it earlier, and does not.
const CHECKPOINT_PAGES: i64 = 1024;

/// The log file is cut to this size after a checkpoint.
const LOG_LIMIT: i64 = 1024 * 1024;

/// SQLite's default, and the block size of most disks.
const PAGE: u64 = 4096;

/// First version with the fix of the log-reset bug, which corrupts databases.
const FIRST_GOOD: i32 = 3_051_003;

/// A version that was withdrawn.
const WITHDRAWN: i32 = 3_052_000;

/// Refuses versions of SQLite that are known to lose data.
pub(crate) fn check_version(version: i32) -> Result<(), StoreError> {
    if version < FIRST_GOOD || version == WITHDRAWN {
        return Err(StoreError::Sqlite { reason: format!("version {version} has known bugs that lose data") });
    }
    Ok(())
}

/// Makes the file, readable by its owner only: it holds Secrets. SQLite gives its other files the same mode.
pub(crate) fn create_private(path: &Path) -> Result<(), StoreError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|source| StoreError::io("create", path, source))
}

/// The writing connection, before the schema is checked: nothing is written yet.
pub(crate) fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    common(&connection, WRITER_CACHE)?;
    Ok(connection)
}

/// A read-only connection.
pub(crate) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    common(&connection, READER_CACHE)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn common(connection: &Connection, cache: i64) -> rusqlite::Result<()> {
    connection.pragma_update(None, "cache_size", cache)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "temp_store", 2)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // Notices damaged pages when they are read rather than returning nonsense.
    connection.pragma_update(None, "cell_size_check", true)
}

/// Turns the writing connection into what the promises need, and reads every setting back.
pub(crate) fn make_durable(connection: &Connection, options: &StoreOptions) -> Result<(), StoreError> {
    let set = |name: &str, value: i64| connection.pragma_update(None, name, value).map_err(StoreError::Database);
    // Only takes effect on an empty database; lets the file shrink when the disk is full.
    set("auto_vacuum", 2)?;
    // Stepped to its end: the switch is committed only after the row with the mode was returned, and an
    // error of that commit must not be lost.
    let mut mode = String::new();
    connection
        .pragma(None, "journal_mode", "wal", |row| {
            mode = row.get(0)?;
            Ok(())
        })
        .map_err(StoreError::Database)?;
    if mode != "wal" {
        return Err(StoreError::Sqlite { reason: format!("journal_mode is {mode}, not wal") });
    }
    #[cfg(not(test))]
    let synchronous = 2;
    #[cfg(test)]
    let synchronous = if options.weak_sync { 1 } else { 2 };
    set("synchronous", synchronous)?;
    set("wal_autocheckpoint", CHECKPOINT_PAGES)?;
    set("journal_size_limit", LOG_LIMIT)?;
    // Deleted Secrets are overwritten where that costs no further writing.
    set("secure_delete", 2)?;
    // A backstop behind our own accounting: rows, overhead and free pages together.
    let pages = options.max_bytes.saturating_mul(2).max(16 * MAX_ROW) / PAGE;
    set("max_page_count", i64::try_from(pages).unwrap_or(i64::MAX))?;
    for (name, wanted) in [
        ("synchronous", synchronous),
        ("wal_autocheckpoint", CHECKPOINT_PAGES),
        ("cache_size", WRITER_CACHE),
        ("temp_store", 2),
        ("mmap_size", 0),
    ] {
        // mmap_size returns no row when memory mapping is compiled out.
        let found: i64 = match connection.pragma_query_value(None, name, |row| row.get(0)) {
            Err(rusqlite::Error::QueryReturnedNoRows) => 0,
            other => other.map_err(StoreError::Database)?,
        };
        if found != wanted {
            return Err(StoreError::Sqlite { reason: format!("{name} is {found}, not {wanted}") });
        }
    }
    Ok(())
}
