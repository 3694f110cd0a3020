//! Why the server cannot be built or run. Request errors are `skerry_apimachinery::ApiError`.
//!
//! Returned by `Config::build` and `ApiServer::run` to `main` or to `skerry up`, which print the chain.
//! Invariant: no variant carries a key or a token. Limits: none.

use std::path::PathBuf;

/// What `build` and `run` fail with.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A directory or file cannot be read or written. Check its owner and mode.
    #[error("cannot use {path}")]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The listen address cannot be bound. It is in use, or not an address of this machine.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The database cannot be opened. Another server may hold it (one process per data directory), or the
    /// disk failed.
    #[error("cannot open the database {path}")]
    Database {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rusqlite::Error,
    },
    /// The database failed its check at start. Restore it from a backup; it is not touched.
    #[error("the database {path} is damaged: {finding}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        finding: String,
    },
    /// The database was written by a newer version of this program. Use that version.
    #[error("the database {path} has schema {found}, this program knows {known}")]
    Schema {
        /// The file.
        path: PathBuf,
        /// Schema found.
        found: i64,
        /// Newest schema known.
        known: i64,
    },
    /// A key or certificate in the data directory cannot be used. Move it away to have a new one made.
    #[error("the PKI file {file} cannot be used: {why}")]
    Pki {
        /// File name.
        file: String,
        /// Why.
        why: String,
    },
    /// The configuration does not hold together.
    #[error("configuration: {0}")]
    Config(String),
    /// The writer thread ended without being asked. The log says why; start again.
    #[error("the database writer ended")]
    Writer,
    /// The objects that every cluster has cannot be written.
    #[error("cannot write the initial objects")]
    Bootstrap(#[source] skerry_apimachinery::ApiError),
}

impl ServerError {
    /// For `map_err` on file operations.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
