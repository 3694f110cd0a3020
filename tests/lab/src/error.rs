//! Why a laboratory could not be built or changed. One enum; its users are tests and benchmarks, which stop.

use std::io;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The topology contradicts itself, or is too large. Change the topology.
    #[error("topology: {0}")]
    Topology(String),
    /// Nothing has this name in the topology.
    #[error("nothing is called {0:?} in this laboratory")]
    Unknown(String),
    /// `ip`, `nft` or `tc` refused; its own words are in the message. Needs root, iproute2 and nftables.
    #[error("{program}: {message}")]
    Refused {
        /// The program.
        program: &'static str,
        /// What it wrote to its standard error.
        message: String,
    },
    /// A program of the system cannot be started, or a file of the kernel not be written.
    #[error("{what}")]
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel does not bring a cable up in time. The machine does too much else.
    #[error("the cables of {0} carry nothing")]
    Down(String),
    /// The cable has no faults to change: give it some, perhaps of nothing, in the topology.
    #[error("the cable of {0} was not built for faults")]
    Faultless(String),
}

impl LabError {
    /// An error of `what`, for `map_err`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}
