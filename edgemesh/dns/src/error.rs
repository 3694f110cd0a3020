//! What can go wrong when the server is built or ends. What goes wrong with a question is in its answer.

use std::io;
use std::net::SocketAddr;

/// See the module documentation.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A value of the configuration cannot be: the message names it.
    #[error("the configuration of DNS is wrong: {0}")]
    Config(String),
    /// Another program has the port, or the address is not one of this machine.
    #[error("cannot listen on {address} over {protocol}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A part of the server ended by itself. The process must not go on as if it served.
    #[error("the task {0} ended")]
    TaskEnded(&'static str),
}
