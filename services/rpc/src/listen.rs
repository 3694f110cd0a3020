//! Where a server listens: TCP, a unix socket, or a pipe in memory.
//!
//! A unix socket appears under its final name only with its mode set, so there is no moment at which
//! the wrong user can connect. A socket file that nobody listens on is replaced; one that answers is
//! another server, and binding fails.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use crate::error::BindError;
use crate::io::{Socket, tune};
use crate::limits::LISTEN_BACKLOG;
use crate::pipe::PipeListener;

/// An address to listen on.
#[derive(Debug)]
pub enum Listen {
    /// TCP. Port 0 takes a free port; see [`crate::Bound::local_addr`].
    Tcp(SocketAddr),
    /// A unix socket.
    Unix {
        /// Its path. The directory must exist.
        path: PathBuf,
        /// Its file mode, for example `0o600`: who may connect.
        mode: u32,
    },
    /// Connections of this process.
    Pipe(PipeListener),
}

/// Where a connection came from.
pub(crate) struct Origin {
    pub(crate) remote: Option<SocketAddr>,
    /// User and process of a local peer.
    pub(crate) local: Option<(u32, Option<i32>)>,
}

/// A bound listener.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, #[allow(dead_code, reason = "held for its drop")] SocketFile),
    Pipe(PipeListener),
}

/// Removes the socket's file, unless another server has put its own there meanwhile.
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    pub(crate) fn bind(listen: Listen) -> Result<Self, BindError> {
        match listen {
            Listen::Tcp(address) => {
                bind_tcp(address).map(Self::Tcp).map_err(|source| BindError::Tcp { address, source })
            }
            Listen::Unix { path, mode } => match bind_unix(&path, mode) {
                Ok((listener, inode)) => Ok(Self::Unix(listener, SocketFile { path, inode })),
                Err(source) => Err(BindError::Unix { path, source }),
            },
            Listen::Pipe(listener) => Ok(Self::Pipe(listener)),
        }
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            _ => None,
        }
    }

    /// The next connection. `None`: there can be no further one.
    pub(crate) async fn accept(&mut self) -> Option<io::Result<(Socket, Origin)>> {
        match self {
            Self::Tcp(listener) => Some(listener.accept().await.map(|(stream, remote)| {
                tune(&stream);
                (Socket::Tcp(stream), Origin { remote: Some(remote), local: None })
            })),
            Self::Unix(listener, _) => Some(listener.accept().await.and_then(|(stream, _)| {
                let peer = stream.peer_cred()?;
                let local = Some((peer.uid(), peer.pid()));
                Ok((Socket::Unix(stream), Origin { remote: None, local }))
            })),
            Self::Pipe(listener) => {
                let stream = listener.accept().await?;
                let own = (nix::unistd::geteuid().as_raw(), i32::try_from(std::process::id()).ok());
                Some(Ok((Socket::Pipe(stream), Origin { remote: None, local: Some(own) })))
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    // A restarted server gets its port back while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, u64)> {
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket is in the way"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens on the socket"));
        }
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    let placed = std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))
        .and_then(|()| std::fs::rename(&temporary, path))
        .and_then(|()| std::fs::symlink_metadata(path));
    match placed {
        Ok(meta) => Ok((listener, meta.ino())),
        Err(error) => {
            let _ = std::fs::remove_file(&temporary);
            Err(error)
        }
    }
}
