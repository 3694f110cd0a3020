//! One agent at a time: a name that the kernel gives to one process of a network namespace.
//!
//! The name is an abstract unix socket. It is as wide as the rules are, a network namespace, whatever each process sees
//! of the file system; and the kernel takes it back the moment its process is gone, however it went.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::{getsockopt, sockopt};

const NAME: &str = "skerry-mesh-netfilter";

/// The right to change the rules, until it is dropped.
#[derive(Debug)]
pub(crate) struct Owner {
    _name: UnixListener,
}

/// Why the rules are not ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    /// Another process has them.
    #[error("process {0} has the rules")]
    Taken(i32),
    /// The socket could not be made.
    #[error("cannot claim the rules")]
    Io(#[from] io::Error),
}

impl Owner {
    /// Claims the rules of this network namespace.
    pub(crate) fn claim() -> Result<Self, ClaimError> {
        let name = SocketAddr::from_abstract_name(NAME)?;
        match UnixListener::bind_addr(&name) {
            Ok(listener) => Ok(Self { _name: listener }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                // Its process, as far as it is one of ours to see; 0 when it is in another process namespace.
                let other = UnixStream::connect_addr(&name)?;
                let credentials = getsockopt(&other, sockopt::PeerCredentials).map_err(io::Error::from)?;
                Err(ClaimError::Taken(credentials.pid()))
            }
            Err(error) => Err(error.into()),
        }
    }
}
