//! The errors of this crate.
//!
//! Built where something fails, read by `main` (exit code) and the supervisor. What a mapper does wrong is not
//! an error here: it is the status of its call.

use std::io;
use std::path::PathBuf;

/// What can go wrong in dmi.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option cannot work. Change the configuration.
    #[error("invalid configuration: {0}")]
    Options(String),
    /// A file or directory could not be used. Look at the disk, the mount and the permissions.
    #[error("cannot use {}", path.display())]
    Io {
        /// The path in question.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store could not be opened, or has failed. The process must end and start again.
    #[error("the store of device twins failed")]
    Store(#[source] skerry_store::StoreError),
    /// The socket for mappers could not be bound or served.
    #[error("cannot serve mappers")]
    Serve(#[source] skerry_rpc::BindError),
    /// A part of dmi has ended, which it never does.
    #[error("the task {0} ended")]
    TaskEnded(&'static str),
}
