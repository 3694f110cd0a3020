//! Where a redirected datagram was sent: the question to the kernel's connection tracking.
//!
//! The kernel tells this of a TCP connection as an option of its socket, and of a datagram not at all. It knows
//! it all the same, since it puts the Service's address into the answers; asked over netlink with the two
//! addresses that answers have, it gives the two that the client used. The kernel answers within the call that
//! asks, so nothing waits. Asked once for a flow, and again after [`ASK_AGAIN`] of silence.
//!
//! The bytes are those of `linux/netfilter/nfnetlink_conntrack.h`. What is malformed is no answer.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendmsg, socket};

/// Silence after which a flow's destination may be another one: below the shortest time that the kernel remembers
/// a flow for (`nf_conntrack_udp_timeout`, 30 s), after which a client may use its port for another Service.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Longest answer; of one entry they have some hundred bytes.
const MAX_ANSWER: usize = 4096;

const HEADER: usize = 16;
const GENERIC: usize = 4;
const REQUEST: u16 = 1;
/// Subsystem of connection tracking, and its messages "get" and "new", which is the answer.
const GET: u16 = (1 << 8) | 1;
const NEW: u16 = 1 << 8;
const NESTED: u16 = 0x8000;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const UDP: u8 = 17;

/// A netlink socket to connection tracking.
#[derive(Debug)]
pub(crate) struct Conntrack(Mutex<OwnedFd>);

impl Conntrack {
    /// Opens it.
    ///
    /// # Errors
    /// Where the kernel has no connection tracking.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        Ok(Self(Mutex::new(socket)))
    }

    /// Where datagrams from `client` that came to `local` were sent.
    ///
    /// # Errors
    /// Not found: they were not redirected. Else what the kernel says, for example that the process may not ask.
    pub(crate) fn original(&self, client: SocketAddr, local: SocketAddr) -> io::Result<SocketAddr> {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let descriptor = socket.as_raw_fd();
        let mut answer = vec![0; MAX_ANSWER];
        // What is left of a question that failed half-way.
        while recv(descriptor, &mut answer, MsgFlags::MSG_DONTWAIT).is_ok() {}
        let question = question(local, client);
        let kernel = NetlinkAddr::new(0, 0);
        sendmsg(descriptor, &[IoSlice::new(&question)], &[], MsgFlags::empty(), Some(&kernel))?;
        let read = recv(descriptor, &mut answer, MsgFlags::MSG_DONTWAIT)?;
        parse(answer.get(..read).unwrap_or_default())
    }
}

/// Asks for the entry whose answers go from `source` to `destination`.
fn question(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (family, addresses) = match (source.ip(), destination.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => (2, [attribute(1, &s.octets()), attribute(2, &d.octets())].concat()),
        (s, d) => {
            let octets = |ip| match ip {
                IpAddr::V4(ip) => Ipv4Addr::to_ipv6_mapped(&ip).octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            (10, [attribute(3, &octets(s)), attribute(4, &octets(d))].concat())
        }
    };
    let ports = [
        attribute(PROTOCOL_NUMBER, &[UDP]),
        attribute(SOURCE_PORT, &source.port().to_be_bytes()),
        attribute(DESTINATION_PORT, &destination.port().to_be_bytes()),
    ]
    .concat();
    let tuple = [attribute(TUPLE_IP | NESTED, &addresses), attribute(TUPLE_PROTOCOL | NESTED, &ports)].concat();
    let tuple = attribute(TUPLE_REPLY | NESTED, &tuple);
    let length = u32::try_from(HEADER + GENERIC + tuple.len()).unwrap_or_default();
    let mut message = Vec::with_capacity(HEADER + GENERIC + tuple.len());
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&GET.to_ne_bytes());
    message.extend_from_slice(&REQUEST.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[family, 0, 0, 0]);
    message.extend_from_slice(&tuple);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or_default();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The destination that the client used.
fn parse(message: &[u8]) -> io::Result<SocketAddr> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = message.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes).ok_or_else(malformed)?;
    if kind != NEW {
        let code = message.get(HEADER..HEADER + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
        return Err(code.filter(|code| *code < 0).map_or_else(malformed, |code| Errno::from_raw(-code).into()));
    }
    let all = message.get(HEADER + GENERIC..).unwrap_or_default();
    let tuple = find(all, TUPLE_ORIGINAL).ok_or_else(malformed)?;
    let addresses = find(tuple, TUPLE_IP).ok_or_else(malformed)?;
    let v4 = find(addresses, 2).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(|b| IpAddr::V4(Ipv4Addr::from(b)));
    let v6 = find(addresses, 4).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(|b| IpAddr::V6(Ipv6Addr::from(b)));
    let ports = find(tuple, TUPLE_PROTOCOL).ok_or_else(malformed)?;
    let port = find(ports, DESTINATION_PORT).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes);
    Ok(SocketAddr::new(v4.or(v6).ok_or_else(malformed)?, port.ok_or_else(malformed)?))
}

/// The value of an attribute.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((head, _)) = attributes.split_first_chunk::<4>() {
        let [l0, l1, k0, k1] = *head;
        let (length, kind) = (usize::from(u16::from_ne_bytes([l0, l1])), u16::from_ne_bytes([k0, k1]));
        // A length below its own head would never come to an end.
        let value = attributes.get(4..length)?;
        if kind & !NESTED == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(original: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER + GENERIC];
        message[4..6].copy_from_slice(&NEW.to_ne_bytes());
        message.extend(attribute(TUPLE_ORIGINAL | NESTED, original));
        message
    }

    #[test]
    fn the_destination_is_read_and_errors_are_the_kernels() {
        let ports = [attribute(1, &[UDP]), attribute(2, &[0, 7]), attribute(3, &[0, 53])].concat();
        let v4 = [attribute(1, &[10, 0, 0, 1]), attribute(2, &[10, 96, 0, 10])].concat();
        let tuple = [attribute(TUPLE_IP | NESTED, &v4), attribute(TUPLE_PROTOCOL | NESTED, &ports)].concat();
        assert_eq!(parse(&answer(&tuple)).unwrap(), "10.96.0.10:53".parse().unwrap());
        let v6 = [attribute(3, &[0; 16]), attribute(4, &Ipv6Addr::LOCALHOST.octets())].concat();
        let tuple = [attribute(TUPLE_IP | NESTED, &v6), attribute(TUPLE_PROTOCOL | NESTED, &ports)].concat();
        assert_eq!(parse(&answer(&tuple)).unwrap(), "[::1]:53".parse().unwrap());

        let mut error = vec![0; HEADER + 20];
        error[4] = 2;
        error[HEADER..HEADER + 4].copy_from_slice(&(-2_i32).to_ne_bytes());
        assert_eq!(parse(&error).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(parse(&[]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = parse(&answer(&bytes));
        }
    }
}
