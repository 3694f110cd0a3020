//! Flows that the kernel remembers: forgets those of removed UDP backends, finds addresses before a redirect.
//!
//! A flow keeps its backend for as long as it lives, whatever the rules say. For TCP that is right: a connection ends
//! with its backend. A UDP client that goes on sending would send into the void, so [`stale`] flows are deleted and the
//! next datagram is dispatched anew. Netlink is asked directly; a dump is read message by message and never kept. These
//! calls block for microseconds, and for milliseconds where there are 100,000 flows: use a blocking thread for
//! [`Flows::forget`].

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as Number, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::config::ProxyPorts;
use crate::state::{At, Family, Frontend, Protocol, Service, Slot, State};

/// The kernel answers at once; this is for a kernel that does not.
const ANSWER: i64 = 5;

/// The kernel fills at most this much of a buffer at a time.
const BUFFER: usize = 64 << 10;

/// Flows that one pass forgets; the next pass finds the others.
const MAX_FORGOTTEN: usize = 65_536;

/// One flow: who began it with what address, and who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    protocol: Number,
    source: SocketAddr,
    destination: SocketAddr,
    answers: SocketAddr,
}

/// The frontends of UDP that are served differently than before; all of them if it is not known how they were.
pub(crate) struct Changes<'a> {
    frontends: BTreeMap<Frontend, (Option<&'a Service>, Option<&'a Service>)>,
    proxy: Option<u16>,
}

impl<'a> Changes<'a> {
    /// From `before`, if it is known, to `after`.
    pub(crate) fn new(before: Option<&'a State>, after: &'a State, proxy: Option<ProxyPorts>) -> Self {
        let mut frontends: BTreeMap<Frontend, (Option<&Service>, Option<&Service>)> = BTreeMap::new();
        let udp = |(frontend, _): &(&Frontend, &Service)| frontend.protocol == Protocol::Udp;
        for (frontend, service) in before.into_iter().flat_map(State::iter).filter(udp) {
            frontends.entry(*frontend).or_default().0 = Some(service);
        }
        for (frontend, service) in after.iter().filter(udp) {
            frontends.entry(*frontend).or_default().1 = Some(service);
        }
        frontends.retain(|_, (old, new)| old != new);
        Self { frontends, proxy: proxy.map(|proxy| proxy.udp) }
    }

    /// Whether no flow needs to be looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.frontends.is_empty()
    }

    /// Whether a flow goes where it would not go any more.
    pub(crate) fn stale(&self, flow: &Flow) -> bool {
        let at = |at| Frontend { at, protocol: Protocol::Udp, port: flow.destination.port() };
        let address = self.frontends.get(&at(At::Address(flow.destination.ip())));
        if let Some((old, new)) = address {
            // Also a flow that nobody dispatched, because its frontend came later.
            return match new {
                Some(new) => !self.serves(new, flow),
                None => old.is_some_and(|old| self.serves(old, flow)),
            };
        }
        // Of a node port only what was surely ours: the same port of another machine is another matter.
        let node = self.frontends.get(&at(At::Node(Family::of(flow.destination.ip()))));
        node.is_some_and(|(old, new)| {
            let now = new.is_some_and(|new| self.serves(new, flow));
            old.is_some_and(|old| self.serves(old, flow)) && !now
        })
    }

    fn serves(&self, service: &Service, flow: &Flow) -> bool {
        let proxied = self.proxy == Some(flow.answers.port()) && service.all_slots().any(|slot| *slot == Slot::Proxy);
        proxied || service.backends().any(|backend| backend == flow.answers)
    }
}

/// A connection to the kernel's table of flows, of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Flows {
    socket: OwnedFd,
    sequence: u32,
}

impl Flows {
    /// Opens it; needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkNetFilter;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Where a client wanted to go, for a flow of UDP that was redirected to `local`, the address that its datagram
    /// arrived at and answers must come from. (For TCP the socket says it: `SO_ORIGINAL_DST`.) To be asked once a flow.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when the kernel knows no such flow, as of one that came here by itself.
    pub fn original_destination(&mut self, client: SocketAddr, local: SocketAddr) -> io::Result<SocketAddr> {
        let reply = tuple(Number::Udp, local, client);
        let mut found = None;
        let get = ConntrackMessage::Get(vec![ConntrackAttribute::CtaTupleReply(reply)]);
        self.ask(Family::of(client.ip()), get, NLM_F_ACK, |flow| {
            found = Some(flow.destination);
        })?;
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Deletes the flows that `stale` says, and says how many.
    pub(crate) fn forget(&mut self, family: Family, stale: impl Fn(&Flow) -> bool) -> io::Result<usize> {
        let mut flows = Vec::new();
        self.ask(family, ConntrackMessage::Get(Vec::new()), NLM_F_DUMP, |flow| {
            if flow.protocol == Number::Udp && flows.len() < MAX_FORGOTTEN && stale(&flow) {
                flows.push(flow);
            }
        })?;
        let mut forgotten = 0;
        for flow in flows {
            let tuple = tuple(flow.protocol, flow.source, flow.destination);
            let delete = ConntrackMessage::Delete(vec![ConntrackAttribute::CtaTupleOrig(tuple)]);
            match self.ask(family, delete, NLM_F_ACK, |_| ()) {
                Ok(()) => forgotten += 1,
                // It ended by itself.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(forgotten)
    }

    /// Sends one request, and reads until the kernel has said all.
    fn ask(
        &mut self,
        family: Family,
        request: ConntrackMessage,
        flags: u16,
        mut each: impl FnMut(Flow),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let family = match family {
            Family::V4 => NetfilterProtoFamily::IPv4,
            Family::V6 => NetfilterProtoFamily::IPv6,
        };
        let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), request);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let size = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = buffer.get(..size).unwrap_or_default();
            while let Ok(next) = NetlinkBuffer::new_checked(rest) {
                let (length, ours) = (next.length() as usize, next.sequence_number() == self.sequence);
                // What this version of the crate cannot read is not a flow that we look for.
                if ours && let Ok(message) = NetlinkMessage::<NetfilterMessage>::deserialize(rest) {
                    match message.payload {
                        NetlinkPayload::Done(_) => return Ok(()),
                        NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                        NetlinkPayload::Error(error) => return Err(error.to_io()),
                        NetlinkPayload::InnerMessage(message) => {
                            if let Some(flow) = flow(&message.inner) {
                                each(flow);
                            }
                        }
                        _ => {}
                    }
                }
                // Messages begin at multiples of four.
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn tuple(protocol: Number, source: SocketAddr, destination: SocketAddr) -> Vec<Tuple> {
    vec![
        Tuple::Ip(vec![IPTuple::SourceAddress(source.ip()), IPTuple::DestinationAddress(destination.ip())]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(protocol),
            ProtoTuple::SourcePort(source.port()),
            ProtoTuple::DestinationPort(destination.port()),
        ]),
    ]
}

fn flow(message: &NetfilterMessageInner) -> Option<Flow> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message else { return None };
    let original = attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(tuple) => Some(tuple),
        _ => None,
    })?;
    let reply = attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleReply(tuple) => Some(tuple),
        _ => None,
    })?;
    let (protocol, source, destination) = ends(original)?;
    let (_, answers, _) = ends(reply)?;
    Some(Flow { protocol, source, destination, answers })
}

fn ends(tuple: &[Tuple]) -> Option<(Number, SocketAddr, SocketAddr)> {
    let mut protocol = None;
    let mut source = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let mut destination = source;
    for part in tuple {
        match part {
            Tuple::Ip(ips) => {
                for ip in ips {
                    match ip {
                        IPTuple::SourceAddress(ip) => source.set_ip(*ip),
                        IPTuple::DestinationAddress(ip) => destination.set_ip(*ip),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(ports) => {
                for port in ports {
                    match port {
                        ProtoTuple::Protocol(number) => protocol = Some(*number),
                        ProtoTuple::SourcePort(port) => source.set_port(*port),
                        ProtoTuple::DestinationPort(port) => destination.set_port(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some((protocol?, source, destination))
}
