//! Sockets: UDP, several for one address, and TCP at the same port.
//!
//! The address need not be there yet (IP_FREEBIND): the agent makes the link that carries it, in any order. TCP does not
//! share its port, so a second server of this kind says that the address is in use.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use crate::error::DnsError;

/// Questions that wait in the kernel while a task does something else: some thousands.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Attempts to find a port that both protocols have free, when the system may choose: only tests ask for that.
const PORTS: usize = 16;

/// Sockets of one address.
pub(crate) struct Bound {
    pub(crate) address: SocketAddr,
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) tcp: TcpListener,
}

/// Binds `sockets` UDP sockets and a TCP listener.
pub(crate) fn both(wanted: SocketAddr, sockets: usize) -> Result<Bound, DnsError> {
    let mut attempts = if wanted.port() == 0 { PORTS } else { 1 };
    loop {
        attempts -= 1;
        match once(wanted, sockets) {
            Err(DnsError::Listen { .. }) if attempts > 0 => {}
            bound => return bound,
        }
    }
}

fn once(wanted: SocketAddr, sockets: usize) -> Result<Bound, DnsError> {
    let failed = |protocol| move |source| DnsError::Listen { address: wanted, protocol, source };
    let tcp = tcp(wanted).map_err(failed("tcp"))?;
    let address = tcp.local_addr().map_err(failed("tcp"))?;
    let udp = (0..sockets).map(|_| udp(address)).collect::<io::Result<_>>().map_err(failed("udp"))?;
    Ok(Bound { address, udp, tcp })
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    prepare(&socket, address)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    // The system may give less.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    prepare(&socket, address)?;
    UdpSocket::from_std(socket.into())
}

fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}
