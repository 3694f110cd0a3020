//! What can go wrong between us and the kernel.

use std::io;

use crate::state::Frontend;

/// Why the rules are not as they should be. After any of these the kernel has what it had before, or is asked anew at
/// the next call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// nft is not installed: install nftables 1.0.6 or newer.
    #[error("nft is not installed")]
    NoProgram,
    /// Another agent runs in this network namespace: stop it first.
    #[error("process {pid} already has the mesh's rules of this network namespace")]
    Taken {
        /// Its process; 0 when it is in another process namespace.
        pid: i32,
    },
    /// The name that only one agent has could not be claimed.
    #[error("cannot claim the mesh's rules")]
    Claim(#[source] io::Error),
    /// A frontend has a slot for the proxy, and the configuration has none.
    #[error("{0}: a slot for the proxy, and no proxy is configured")]
    NoProxy(Frontend),
    /// The program did not run to its end: it may be missing, stuck or killed.
    #[error("cannot run {program}")]
    Run {
        /// Which one.
        program: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The program or the kernel said no: its own words say what of the rules, most often that the kernel lacks
    /// something (see the README).
    #[error("{program} refused: {message}")]
    Refused {
        /// Which one.
        program: &'static str,
        /// Its first line.
        message: String,
    },
    /// The rules could be written and not be read back.
    #[error("cannot read the rules of {program}")]
    Listing {
        /// Whose.
        program: &'static str,
        /// What is wrong with them.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The rules are in place; flows of UDP to backends that are gone may still be sent there until they fall silent.
    #[error("cannot forget flows of removed backends")]
    Conntrack(#[source] io::Error),
}
