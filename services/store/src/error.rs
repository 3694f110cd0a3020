//! What can go wrong with the store, and what to do about it.
//!
//! Errors say whether the caller may try again ([`StoreError::Full`], [`StoreError::Busy`]), must give
//! the input up ([`StoreError::TooLarge`]), or must end the process ([`StoreError::Stopped`]).

use std::{path::PathBuf, sync::Arc};

/// The store's errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room: the disk is full, or the store has reached its limit with nothing left to drop. Nothing
    /// was stored. Free space on the node, or raise the limit; try again when
    /// [`crate::Store::health`] changes. Deleting and confirming still work.
    #[error("the edge store is full: {reason}")]
    Full {
        /// Which limit was reached.
        reason: &'static str,
    },
    /// One row is larger than the store takes. It will never fit; reject it.
    #[error("a row of {size} bytes is larger than {max}")]
    TooLarge {
        /// Size of the row in bytes.
        size: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Another program holds the database for too long. Close it; then try again.
    #[error("the database is locked by another program")]
    Busy,
    /// Another process has opened this store. There must be one owner.
    #[error("the store {} is in use by another process", path.display())]
    InUse {
        /// The store's lock file.
        path: PathBuf,
    },
    /// What was read is not what was written. The process must restart: the start sets the file aside.
    #[error("the store is damaged: {reason}")]
    Damaged {
        /// What was found.
        reason: String,
    },
    /// The file was written by a newer release. Run that release, or remove the file; nothing was changed.
    #[error("the store has schema version {found}, this release knows {known}")]
    NewerSchema {
        /// Version in the file.
        found: i64,
        /// Newest version that this release knows.
        known: i64,
    },
    /// The file system cannot keep the store's promises (network, read-only). Choose a local directory.
    #[error("the directory {} cannot hold the store: {reason}", path.display())]
    Unsuitable {
        /// The directory.
        path: PathBuf,
        /// What it lacks.
        reason: String,
    },
    /// The linked SQLite has a bug that loses data, or a setting did not take effect. Use another build.
    #[error("this SQLite cannot be used: {reason}")]
    Sqlite {
        /// Which version or setting.
        reason: String,
    },
    /// The store has failed earlier, or was closed, and accepts nothing any more. End the process with
    /// an error; the restart reads what is really on disk.
    #[error("the store has stopped: {reason}")]
    Stopped {
        /// Why it stopped.
        reason: Arc<str>,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// SQLite reported an error that has no better name here.
    #[error("the database failed")]
    Database(#[source] rusqlite::Error),
}

impl StoreError {
    /// A short stable name for metrics and machine-readable output.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Full { .. } => "store_full",
            Self::TooLarge { .. } => "store_too_large",
            Self::Busy => "store_busy",
            Self::InUse { .. } => "store_in_use",
            Self::Damaged { .. } => "store_damaged",
            Self::NewerSchema { .. } => "store_newer_schema",
            Self::Unsuitable { .. } => "store_unsuitable",
            Self::Sqlite { .. } => "store_sqlite",
            Self::Stopped { .. } => "store_stopped",
            Self::Io { .. } => "store_io",
            Self::Database(_) => "store_database",
        }
    }

    pub(crate) fn io(action: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// What a SQLite error means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// No room on the disk, or the page limit.
    Full,
    /// Somebody else holds a lock.
    Busy,
    /// The file is not what was written.
    Damaged,
    /// Reading, writing or syncing failed: what is on disk is unknown.
    Failed,
    /// Anything else: a bug or a setting.
    Other,
}

/// Sorts a SQLite error.
pub(crate) fn class(error: &rusqlite::Error) -> Class {
    use rusqlite::ErrorCode;
    // Opening the shared-memory index on a full disk is reported as an I/O error with this code.
    const IOERR_SHMSIZE: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        // A column that does not hold its type was not written by us.
        return match error {
            rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..) => Class::Damaged,
            _ => Class::Other,
        };
    };
    if failure.extended_code == IOERR_SHMSIZE {
        return Class::Full;
    }
    match failure.code {
        ErrorCode::DiskFull => Class::Full,
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Class::Busy,
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Class::Damaged,
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly => Class::Failed,
        _ => Class::Other,
    }
}
