//! Errors of binding. What happens to a flow is no error of the proxy: it is a [`crate::DialError`], a
//! [`crate::Unserved`] or an [`crate::End`], in the feedback, the metrics and the log.

use std::io;
use std::net::SocketAddr;

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, is not this host's, or the process may not use the options of the socket: diverted
    /// packets need `CAP_NET_ADMIN`.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}
