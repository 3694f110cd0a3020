//! The errors of this crate.
//!
//! Built where something fails, read by `main` (exit code), by the node's conditions and by the
//! tests. What a user must see on a pod is not an error here: it is a reason in [`crate::pod`].
//! Display leaves the cause out; `skerry_common::chain` prints all of it.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong in edged.
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
    /// A program could not be started. Install its package.
    #[error("cannot run {program}")]
    Program {
        /// Name of the program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The container runtime could not be started or said no. The message is its own.
    #[error("container runtime: {0}")]
    Runtime(String),
    /// No socket of a container runtime was found. Install containerd or CRI-O, or name the socket.
    #[error("no container runtime: none of {0} is a socket")]
    NoRuntime(String),
    /// Certificates of the kubelet API cannot be used. Look at the files that the configuration names.
    #[error("cannot use the credentials of the kubelet API")]
    Credentials(#[source] skerry_identity::IdentityError),
    /// The connection to edgehub ended or could not be made; it is tried again.
    #[error("edgehub: {0}")]
    Hub(String),
}

impl Error {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// A stable name for metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Options(_) => "invalid_options",
            Self::Io { .. } => "io",
            Self::Program { .. } => "program",
            Self::Runtime(_) => "runtime",
            Self::NoRuntime(_) => "no_runtime",
            Self::Credentials(_) => "credentials",
            Self::Hub(_) => "hub",
        }
    }
}
