//! Sockets: listeners for redirected connections, where these wanted to go, and connections to backends.
//!
//! A connection that was redirected (`redirect`, `REDIRECT`) knows its original destination as an option of its
//! socket; one that was diverted (`tproxy`, `TPROXY`) has it as its local address. Sockets are of one family
//! each, so an IPv4 address never looks like one of IPv6.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use skerry_mesh_core::{ProxyInfo, ProxyProtocol};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::limits::BACKLOG;

/// How packets come to a listener instead of to where they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interception {
    /// Their destination is translated: nftables' `redirect`. Works for packets of this host too.
    Redirect,
    /// They are delivered as they are: nftables' `tproxy`. Needs `CAP_NET_ADMIN`.
    Transparent,
}

/// Silence after which a peer is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Between two questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Questions without an answer after which the connection is broken: two minutes after the peer's end.
const KEEPALIVE_RETRIES: u32 = 4;

/// Binds a listener.
///
/// # Errors
/// When the address is taken, or the process may not.
pub(crate) fn listen(address: SocketAddr, interception: Option<Interception>) -> io::Result<TcpListener> {
    let socket = new(address, Type::STREAM, Protocol::TCP)?;
    // A restarted proxy gets its port back while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if interception == Some(Interception::Transparent) {
        transparent(&socket, address)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A socket of the family of an address, without blocking.
pub(crate) fn new(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Lets a socket take and send packets of addresses that are not this host's.
pub(crate) fn transparent(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

/// Where a connection wanted to go. `None`: to the listener itself, which serves nobody.
pub(crate) fn original_destination(
    stream: &TcpStream,
    interception: Interception,
    listener: SocketAddr,
) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    match interception {
        Interception::Transparent => (local.port() != listener.port() || !same_host(local, listener)).then_some(local),
        Interception::Redirect => {
            let socket = SockRef::from(stream);
            let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
            original.ok()?.as_socket().filter(|original| *original != local)
        }
    }
}

/// Whether a local address can be that of the listener.
fn same_host(local: SocketAddr, listener: SocketAddr) -> bool {
    listener.ip().is_unspecified() || listener.ip() == local.ip()
}

/// Options of every connection. Small writes are sent at once, a peer that is gone is noticed, and a connection
/// that is dropped is reset: only [`orderly`] makes an end of it that the peer may take for the whole.
pub(crate) fn tune(stream: &TcpStream) {
    // They can only fail on a connection that has just ended.
    let _ = stream.set_nodelay(true);
    let _ = stream.set_zero_linger();
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// A connection whose two directions have ended: what is under way still arrives when it is dropped.
pub(crate) fn orderly(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(None);
}

/// Connects to a backend, and tells it who its client is if it wants to know.
pub(crate) async fn connect(
    address: SocketAddr,
    mark: Option<u32>,
    client: Option<ProxyInfo>,
) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    let mut stream = socket.connect(address).await?;
    tune(&stream);
    if let Some(client) = client {
        stream.write_all(&proxy_header(client)?).await?;
    }
    Ok(stream)
}

/// The header that tells a backend who connects and where to. Addresses of two families have no header of
/// their own: such a client is said to be unknown.
fn proxy_header(client: ProxyInfo) -> io::Result<Vec<u8>> {
    let ProxyInfo { version, source, destination } = client;
    match version {
        ProxyProtocol::V1 => {
            let addresses = match (source, destination) {
                (SocketAddr::V4(s), SocketAddr::V4(d)) => {
                    ppp::v1::Addresses::new_tcp4(*s.ip(), *d.ip(), s.port(), d.port())
                }
                (SocketAddr::V6(s), SocketAddr::V6(d)) => {
                    ppp::v1::Addresses::new_tcp6(*s.ip(), *d.ip(), s.port(), d.port())
                }
                _ => ppp::v1::Addresses::Unknown,
            };
            Ok(addresses.to_string().into_bytes())
        }
        ProxyProtocol::V2 => {
            use ppp::v2::{Addresses, Builder, Command, IPv4, IPv6, Protocol, Version};
            let (protocol, addresses) = match (source, destination) {
                (SocketAddr::V4(s), SocketAddr::V4(d)) => {
                    (Protocol::Stream, Addresses::IPv4(IPv4::new(*s.ip(), *d.ip(), s.port(), d.port())))
                }
                (SocketAddr::V6(s), SocketAddr::V6(d)) => {
                    (Protocol::Stream, Addresses::IPv6(IPv6::new(*s.ip(), *d.ip(), s.port(), d.port())))
                }
                _ => (Protocol::Unspecified, Addresses::Unspecified),
            };
            Builder::with_addresses(Version::Two | Command::Proxy, protocol, addresses).build()
        }
    }
}
