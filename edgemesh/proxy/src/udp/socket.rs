//! Sockets of redirected datagrams: where one was sent, and answers that come from there.
//!
//! Diverted datagrams (`tproxy`) keep their destination, and an answer is sent from a socket that is bound to it.
//! Redirected ones (`redirect`) carry the listener's address, the destination is asked for (`conntrack`), and an
//! answer from exactly that address is translated back by the kernel. So the source of an answer is right in both
//! cases, also on a host with many addresses.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use socket2::{Protocol, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::limits::RECEIVE_BUFFER;
use crate::socket::{self, Interception};

/// Binds a listener.
pub(crate) fn listen(address: SocketAddr, interception: Interception) -> io::Result<UdpSocket> {
    let socket = socket::new(address, Type::DGRAM, Protocol::UDP)?;
    if interception == Interception::Transparent {
        socket::transparent(&socket, address)?;
    }
    if address.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?;
    }
    // Without the capability it is what the host allows.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// A socket whose datagrams come from an address that is not this host's.
pub(crate) fn bound(source: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket::new(source, Type::DGRAM, Protocol::UDP)?;
    socket::transparent(&socket, source)?;
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    UdpSocket::from_std(socket.into())
}

/// A connected socket to a backend.
pub(crate) async fn connect(address: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let any = if address.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0_u16; 8], 0)) };
    let socket = socket::new(any, Type::DGRAM, Protocol::UDP)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.bind(&any.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.connect(address).await?;
    Ok(socket)
}

/// A datagram that came to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) bytes: usize,
    pub(crate) client: SocketAddr,
    /// Its destination as it came.
    pub(crate) local: SocketAddr,
}

/// Receives one. `None`: it says not where it comes from or goes to, and is left.
pub(crate) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    socket
        .async_io(Interest::READABLE, || {
            let mut control = nix::cmsg_space!(libc::sockaddr_in6);
            let mut space = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut space, Some(&mut control), flags)?;
            let local = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::Ipv4OrigDstAddr(address) => Some(SocketAddr::from(SockaddrIn::from(address))),
                ControlMessageOwned::Ipv6OrigDstAddr(address) => Some(SocketAddr::from(SockaddrIn6::from(address))),
                _ => None,
            });
            let client = message.address.and_then(|address| {
                let v4 = address.as_sockaddr_in().map(|address| SocketAddr::from(*address));
                v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::from(*address)))
            });
            let bytes = message.bytes;
            Ok(client.zip(local).map(|(client, local)| Received { bytes, client, local }))
        })
        .await
}

/// The way back to a client.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Over the listener, from one of its addresses.
    Listener(Arc<UdpSocket>, IpAddr),
    /// Over a socket that is bound to the destination.
    Bound(Arc<UdpSocket>),
}

impl Reply {
    /// Sends, or does not: it never waits.
    pub(crate) fn send(&self, bytes: &[u8], client: SocketAddr) -> io::Result<()> {
        match self {
            Self::Bound(socket) => socket.try_send_to(bytes, client).map(drop),
            Self::Listener(socket, source) => socket.try_io(Interest::WRITABLE, || {
                send_from(socket, *source, bytes, client)?;
                Ok(())
            }),
        }
    }
}

fn send_from(socket: &UdpSocket, source: IpAddr, bytes: &[u8], client: SocketAddr) -> nix::Result<usize> {
    let (descriptor, bytes, flags) = (socket.as_raw_fd(), [IoSlice::new(bytes)], MsgFlags::MSG_DONTWAIT);
    let to = SockaddrStorage::from(client);
    match source {
        IpAddr::V4(source) => {
            let source = libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: source };
            sendmsg(descriptor, &bytes, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&to))
        }
        IpAddr::V6(source) => {
            let source = libc::in6_addr { s6_addr: source.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
            sendmsg(descriptor, &bytes, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&to))
        }
    }
}
