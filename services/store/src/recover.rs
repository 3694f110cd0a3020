//! Opening the file, and what happens when it is not what was written.
//!
//! A file that cannot be read is tried twice. A damaged file is renamed, never deleted or repaired in
//! place; the two newest such files are kept for a person to look at. A new file takes its place, and
//! every row of the old one that can still be read and has a good checksum moves over: what only this
//! node knows (reports, checkpoints, the session number), and objects, which the next synchronisation
//! completes. Named values do not move: they may say something about the whole ("all pods are here")
//! that is not true of what was saved. From a file that is older than expected nothing is taken: its
//! reports have been sent.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::{
    Opened, StoreError, StoreOptions,
    check::{self, Inventory},
    connection, disk,
    error::{Class, class},
    ops,
    row::{self, Fault, encoding_number, object_sum, signed},
    schema,
};

/// Set-aside files that are kept.
const KEPT: usize = 2;

/// What failed when the quick check could not read a page.
const CHECK: &str = "check";

/// Between the database's name and the number of a set-aside file.
const SET_ASIDE: &str = ".damaged-";

/// A database that is open and good.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) connection: Connection,
    pub(crate) inventory: Inventory,
    pub(crate) opened: Opened,
}

/// Opens the database; sets a damaged or outdated one aside and makes a new one.
pub(crate) fn open(path: &Path, options: &StoreOptions) -> Result<Ready, StoreError> {
    let existed = std::fs::metadata(path).is_ok_and(|found| found.len() > 0);
    let remembered = disk::read_epoch(path);
    let (reason, older) = match open_twice(path, options) {
        Ok((connection, inventory)) => match remembered {
            Some(epoch) if existed && inventory.epoch < epoch => {
                drop(connection);
                ("an older copy of the database was in its place".to_owned(), true)
            }
            Some(epoch) if !existed => {
                let inventory = Inventory { epoch, ..inventory };
                let opened = Opened::Recovered { reason: "the database file was missing".into() };
                return Ok(Ready { connection, inventory, opened });
            }
            _ => return Ok(Ready { connection, inventory, opened: Opened::Clean }),
        },
        Err(StoreError::Damaged { reason }) => (reason, false),
        Err(other) => return Err(other),
    };
    tracing::error!(%reason, path = %path.display(), "the store is set aside and made anew");
    let old = set_aside(path)?;
    options.metrics.set_aside.inc();
    let (mut connection, _) = open_checked(path, options)?;
    let moved = if older { Moved::default() } else { salvage(&old, &mut connection)? };
    let inventory = check::check(&connection).map_err(broken)?;
    let inventory = Inventory { epoch: inventory.epoch.max(remembered.unwrap_or(0)), ..inventory };
    let reason = format!(
        "{reason}; saved {} objects, {} reports, {} checkpoints",
        moved.objects, moved.reports, moved.checkpoints
    );
    Ok(Ready { connection, inventory, opened: Opened::Recovered { reason } })
}

/// A read that fails once may be a passing fault of the disk; a file that cannot be read twice is as
/// good as damaged, and what can be read of it is saved. A failed write or sync is never tried again.
fn open_twice(path: &Path, options: &StoreOptions) -> Result<(Connection, Inventory), StoreError> {
    use rusqlite::ffi;
    const READ_ERRORS: [i32; 4] =
        [ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_IOERR_CORRUPTFS, ffi::SQLITE_IOERR_DATA];
    let unreadable = |error: &StoreError| match error {
        StoreError::Database(error) => {
            error.sqlite_error().is_some_and(|error| READ_ERRORS.contains(&error.extended_code))
        }
        StoreError::Io { action, .. } => *action == CHECK,
        _ => false,
    };
    match open_checked(path, options) {
        Err(error) if unreadable(&error) => {
            tracing::warn!(error = %skerry_common::chain(&error), path = %path.display(), "the store cannot be read; trying again");
            match open_checked(path, options) {
                Err(error) if unreadable(&error) => {
                    Err(StoreError::Damaged { reason: format!("it cannot be read: {}", skerry_common::chain(&error)) })
                }
                other => other,
            }
        }
        other => other,
    }
}

/// Opens, migrates and checks. [`StoreError::Damaged`] when the file is to be set aside.
fn open_checked(path: &Path, options: &StoreOptions) -> Result<(Connection, Inventory), StoreError> {
    connection::create_private(path)?;
    let mut connection = connection::open_writer(path).map_err(|error| broken(Fault::Sql(error)))?;
    schema::refuse_newer(&connection).map_err(unwrap_database)?;
    connection::make_durable(&connection, options).map_err(unwrap_database)?;
    schema::migrate(&mut connection, schema::MIGRATIONS).map_err(unwrap_database)?;
    if !schema::matches(&connection).map_err(|error| broken(Fault::Sql(error)))? {
        return Err(StoreError::Damaged { reason: "its tables are not ours".into() });
    }
    let inventory = check::check(&connection).map_err(|fault| match fault {
        Fault::Unreadable(reason) => StoreError::io(CHECK, path, std::io::Error::other(reason)),
        other => broken(other),
    })?;
    Ok((connection, inventory))
}

fn unwrap_database(error: StoreError) -> StoreError {
    match error {
        StoreError::Database(error) => broken(Fault::Sql(error)),
        other => other,
    }
}

/// What an error at opening means. The directory was probed before, so an error that is neither a full
/// disk nor a failing one comes from the file's content.
fn broken(fault: Fault) -> StoreError {
    match fault {
        Fault::Refused(error) => error,
        Fault::Damaged(reason) | Fault::Unreadable(reason) => StoreError::Damaged { reason },
        Fault::Sql(error) => match class(&error) {
            Class::Full => StoreError::Full { reason: "the disk is full" },
            Class::Busy => StoreError::Busy,
            Class::Failed if error.sqlite_error_code() != Some(rusqlite::ErrorCode::ReadOnly) => {
                StoreError::Database(error)
            }
            Class::Failed | Class::Damaged | Class::Other => StoreError::Damaged { reason: error.to_string() },
        },
    }
}

/// Renames the database and its log, and removes all but the newest set-aside files.
fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let mut numbers = set_aside_numbers(path)?;
    let number = numbers.last().copied().unwrap_or(0).saturating_add(1);
    let target = disk::beside(path, &format!("{SET_ASIDE}{number}"));
    let renamed = |from: &Path, to: &Path| match std::fs::rename(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| StoreError::io("set aside", from, source)),
    };
    // The log first: a crash in between leaves a database without its log, which is set aside again.
    renamed(&disk::beside(path, "-wal"), &disk::beside(&target, "-wal"))?;
    renamed(path, &target)?;
    let _ = std::fs::remove_file(disk::beside(path, "-shm"));
    numbers.push(number);
    let excess = numbers.len().saturating_sub(KEPT);
    for old in numbers.into_iter().take(excess) {
        let old = disk::beside(path, &format!("{SET_ASIDE}{old}"));
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(disk::beside(&old, suffix));
        }
    }
    disk::sync_directory(path).map_err(|source| StoreError::io("sync", disk::directory(path), source))?;
    Ok(target)
}

/// The numbers of the set-aside files, ascending.
fn set_aside_numbers(path: &Path) -> Result<Vec<u64>, StoreError> {
    let directory = disk::directory(path);
    let prefix = format!("{}{SET_ASIDE}", path.file_name().unwrap_or_default().to_string_lossy());
    let entries = std::fs::read_dir(directory).map_err(|source| StoreError::io("read", directory, source))?;
    let mut numbers: Vec<u64> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// How many rows moved over.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    objects: u64,
    reports: u64,
    checkpoints: u64,
}

/// Moves every readable row with a good checksum. Each table is read from both ends, because reading
/// stops at a damaged page.
fn salvage(old: &Path, new: &mut Connection) -> Result<Moved, StoreError> {
    let mut moved = Moved::default();
    let Ok(source) = connection::open_reader(old) else { return Ok(moved) };
    let transaction = new.transaction().map_err(StoreError::Database)?;
    let mut failed = None;
    let mut keep = |result: rusqlite::Result<bool>, count: &mut u64| match result {
        Ok(true) => *count = count.saturating_add(1),
        Ok(false) => {}
        Err(error) => failed = Some(error),
    };
    for order in ["ASC", "DESC"] {
        each_good(&source, row::OBJECT, "objects", &format!("kind {order}, namespace {order}, name {order}"), |row| {
            if let Ok((kind, object)) = row::object(row) {
                keep(insert_object(&transaction, &kind, &object), &mut moved.objects);
            }
        });
        each_good(&source, row::EVENT, "events", &format!("id {order}"), |row| {
            if let Ok((pending, droppable)) = row::event(row) {
                let result = absent(&transaction, "events", pending.id).and_then(|new| {
                    ops::insert_event(&transaction, signed(pending.id), &pending.report, droppable).map(|()| new)
                });
                keep(result, &mut moved.reports);
            }
        });
        each_good(&source, row::LATEST, "latest", &format!("kind {order}, namespace {order}, name {order}"), |row| {
            if let Ok(pending) = row::latest(row) {
                let result = absent(&transaction, "latest", pending.id).and_then(|new| {
                    ops::insert_latest(&transaction, signed(pending.id), &pending.report).map(|()| new)
                });
                keep(result, &mut moved.reports);
            }
        });
        each_good(&source, row::BLOB, "blobs", &format!("scope {order}, key {order}"), |row| {
            if let Ok((scope, key, value)) = row::blob(row)
                && scope != row::VALUE
            {
                let result = transaction
                    .query_row("SELECT count(*) FROM blobs WHERE scope = ?1 AND key = ?2", [&scope, &key], |row| {
                        row.get::<_, i64>(0)
                    })
                    .and_then(|found| ops::put_row(&transaction, &scope, &key, &value).map(|()| found == 0));
                keep(result, &mut moved.checkpoints);
            }
        });
    }
    if let Some(error) = failed {
        return Err(broken(Fault::Sql(error)));
    }
    transaction.commit().map_err(|error| broken(Fault::Sql(error)))?;
    Ok(moved)
}

/// Visits rows until the end or the first damaged page.
fn each_good(source: &Connection, columns: &str, table: &str, order: &str, mut visit: impl FnMut(&rusqlite::Row<'_>)) {
    let result = (|| {
        let mut statement = source.prepare(&format!("SELECT {columns} FROM {table} ORDER BY {order}"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            visit(row);
        }
        Ok::<_, rusqlite::Error>(())
    })();
    if let Err(error) = result {
        tracing::warn!(table, %error, "could not read all of the set-aside store");
    }
}

fn absent(connection: &Connection, table: &str, id: u64) -> rusqlite::Result<bool> {
    let sql = format!("SELECT count(*) FROM {table} WHERE id = ?1");
    connection.query_row(&sql, [signed(id)], |row| row.get::<_, i64>(0)).map(|found| found == 0)
}

fn insert_object(connection: &Connection, kind: &str, object: &crate::StoredObject) -> rusqlite::Result<bool> {
    let version = object.version.as_str();
    let sum = object_sum(kind, &object.key, &object.uid, version, object.encoding, &object.body);
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO objects (kind, namespace, name, uid, version, encoding, body, sum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(rusqlite::params![
            kind,
            object.key.namespace,
            object.key.name,
            object.uid,
            version,
            encoding_number(object.encoding),
            &object.body[..],
            sum
        ])
        .map(|changed| changed > 0)
}
