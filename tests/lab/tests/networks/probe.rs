//! Sockets in hosts, and what they see. That a datagram does not arrive is known by a later one that does: all sends
//! of a test are from one processor, whose queue keeps their order through all namespaces.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use skerry_lab::{Behaviour, Lab};
use socket2::{Domain, Socket, Type};

/// For what must happen.
pub(crate) const LONG: Duration = Duration::from_secs(10);
/// For a connection that must not come about; one that may takes less than a millisecond.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// Keeps this thread, and the frames that it sends, on one processor.
pub(crate) fn one_processor() {
    let mine = Pid::from_raw(0);
    let may = sched_getaffinity(mine).unwrap();
    let first = (0..CpuSet::count()).find(|cpu| may.is_set(*cpu).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    sched_setaffinity(mine, &one).unwrap();
}

/// A UDP socket of a host, at an address of its own or at any.
pub(crate) fn udp(lab: &Lab, host: &str, local: impl Into<SocketAddr>) -> UdpSocket {
    let local = local.into();
    let socket = lab.in_host(host, || UdpSocket::bind(local)).unwrap().unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// The next datagram: its text and its source.
pub(crate) fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram in time");
    (String::from_utf8(buffer[..length].to_vec()).unwrap(), from)
}

/// Sends to `server` and returns the source that it sees.
pub(crate) fn seen(client: &UdpSocket, server: &UdpSocket) -> SocketAddr {
    client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
    let (text, from) = receive(server);
    assert_eq!(text, "hello");
    from
}

/// The four sockets of RFC 4787's measurement: two addresses of a host with two ports each.
pub(crate) struct Servers {
    /// First address, first port.
    pub(crate) first: UdpSocket,
    /// First address, another port.
    pub(crate) port: UdpSocket,
    /// Another address, the first port.
    pub(crate) address: UdpSocket,
}

impl Servers {
    /// Of the first family that the host has, and `v6` or not.
    pub(crate) fn new(lab: &Lab, host: &str, v6: bool) -> Self {
        let addresses: Vec<IpAddr> =
            lab.addresses(host).unwrap().into_iter().filter(|address| address.is_ipv6() == v6).collect();
        let at = |address: usize, port: u16| udp(lab, host, (addresses[address], port));
        Self { first: at(0, 3478), port: at(0, 3479), address: at(1, 3478) }
    }

    /// Section 4.1: sends to each server and compares what they see.
    pub(crate) fn mapping(&self, client: &UdpSocket) -> Behaviour {
        let first = seen(client, &self.first);
        let (port, address) = (seen(client, &self.port), seen(client, &self.address));
        // A mapping lasts.
        assert_eq!(seen(client, &self.first), first);
        match (first == port, first == address) {
            (true, true) => Behaviour::EndpointIndependent,
            (true, false) => Behaviour::AddressDependent,
            (false, false) => Behaviour::AddressAndPortDependent,
            (false, true) => panic!("the port counts and the address does not"),
        }
    }

    /// Section 5: who may answer to a socket that has sent to one server.
    pub(crate) fn filtering(&self, client: &UdpSocket) -> Behaviour {
        let mapped = seen(client, &self.first);
        self.address.send_to(b"other address", mapped).unwrap();
        self.port.send_to(b"other port", mapped).unwrap();
        self.first.send_to(b"last", mapped).unwrap();
        let texts = until_last(client);
        match texts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["other address", "other port"] => Behaviour::EndpointIndependent,
            ["other port"] => Behaviour::AddressDependent,
            [] => Behaviour::AddressAndPortDependent,
            _ => panic!("{texts:?}"),
        }
    }
}

/// What arrives before "last".
pub(crate) fn until_last(socket: &UdpSocket) -> Vec<String> {
    std::iter::from_fn(|| Some(receive(socket).0)).take_while(|text| text != "last").collect()
}

/// A TCP socket that shares its local port, as hole punching does.
pub(crate) fn shared(local: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&local.into()).unwrap();
    socket
}

/// A listener of a host.
pub(crate) fn listen(lab: &Lab, host: &str, local: impl Into<SocketAddr>) -> TcpListener {
    let local = local.into();
    lab.in_host(host, || TcpListener::bind(local)).unwrap().unwrap()
}

/// Connects from a host's local port; the stream, and the source that the listener sees.
pub(crate) fn connect(lab: &Lab, host: &str, local: SocketAddr, to: &TcpListener) -> (Socket, SocketAddr) {
    let socket = lab.in_host(host, || shared(local)).unwrap();
    socket.connect_timeout(&to.local_addr().unwrap().into(), LONG).unwrap();
    (socket, to.accept().unwrap().1)
}

/// Asserts that a TCP connection to `to` comes about from a host, or that nobody answers.
#[track_caller]
pub(crate) fn tcp(lab: &Lab, host: &str, to: SocketAddr, expected: bool) {
    let time = if expected { LONG } else { SHORT };
    match lab.in_host(host, || TcpStream::connect_timeout(&to, time)).unwrap() {
        Ok(_) => assert!(expected, "{host} reaches {to}"),
        Err(error) => {
            let unanswered = [ErrorKind::TimedOut, ErrorKind::WouldBlock, ErrorKind::NetworkUnreachable];
            assert!(!expected && unanswered.contains(&error.kind()), "{host} to {to}: {error}");
        }
    }
}
