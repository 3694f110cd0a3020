//! The header of a tunnel stream and its answer, as bytes.
//!
//! ```text
//! header  version u8 = 1 · length u8 of what follows · protocol u8 (6 TCP, 17 UDP, as IANA has them)
//!         · target: kind u8, address, port u16 · options: type u8, length u8, value
//! reply   version u8 = 1 · code u8
//! ```
//!
//! Numbers are big endian. An option that is not known is skipped, unless its first bit says that it must be
//! understood; so a newer node may say more to an older one. Invariants: what is encoded is decoded to the same;
//! no bytes panic; a decoder never waits for more than [`MAX_HEADER`] bytes, and says how many of those it was
//! given belong to the header, because the first bytes of the stream may have come with them.

use std::net::{IpAddr, SocketAddr};

use crate::table::{Protocol, ProxyProtocol};

/// The version of header and reply.
pub const VERSION: u8 = 1;
/// Most bytes of a header: two, and as many as one byte can count.
pub const MAX_HEADER: usize = 2 + u8::MAX as usize;
/// Bytes of a reply.
pub const REPLY_LEN: usize = 2;

const TCP: u8 = 6;
const UDP: u8 = 17;

const TARGET_NODE: u8 = 1;
const V4: u8 = 4;
const V6: u8 = 6;

const OPTION_PROXY: u8 = 1;
const OPTION_TRACE: u8 = 2;
/// Options from here on must be understood.
const MUST_UNDERSTAND: u8 = 0x80;

/// Where a stream shall lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// An endpoint of a Service on the receiving node.
    Endpoint(SocketAddr),
    /// A port of the receiving node itself.
    Node(u16),
}

/// Who the client is, for a backend that asks for a PROXY header. The receiving node writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProxyInfo {
    /// The form that the backend wants.
    pub version: ProxyProtocol,
    /// The client.
    pub source: SocketAddr,
    /// The address that it called.
    pub destination: SocketAddr,
}

/// The trace that a stream belongs to, as W3C's `traceparent` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Trace {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The caller's span.
    pub span_id: [u8; 8],
    /// Whether it is recorded.
    pub sampled: bool,
}

/// See the module documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Header {
    /// What the stream carries. UDP: datagrams, each in its own frame.
    pub protocol: Protocol,
    /// Where it leads.
    pub target: Target,
    /// Who the client is, if the backend wants to know.
    pub proxy: Option<ProxyInfo>,
    /// The trace that it belongs to.
    pub trace: Option<Trace>,
}

/// What the receiving node answers. Codes that are not known are [`Refusal::Failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The target is connected; what follows is its bytes.
    Connected,
    /// It is not, and the stream ends.
    Refused(Refusal),
}

/// Why a stream was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Not a target of this node: its table, which may be behind or ahead of ours, does not have it.
    #[error("the node has no such endpoint")]
    Forbidden,
    /// The header could not be read, or is of a version that the node does not speak.
    #[error("the node does not understand the header of the stream")]
    Header,
    /// Nobody listens there.
    #[error("the endpoint refuses connections")]
    ConnectionRefused,
    /// Nobody answered in time.
    #[error("the endpoint did not answer in time")]
    TimedOut,
    /// There is no way to the address.
    #[error("the endpoint cannot be reached from its node")]
    Unreachable,
    /// The node has as many streams as it takes.
    #[error("the node takes no more streams now")]
    Overloaded,
    /// Any other reason.
    #[error("the node could not open the connection")]
    Failed,
}

impl Refusal {
    /// Whether another endpoint is worth a try: always, but for a header that nobody understands.
    #[must_use]
    pub fn try_next(self) -> bool {
        self != Self::Header
    }
}

/// Bytes that are no header, or no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Of another version. The other node has to be upgraded, or this one.
    #[error("the stream is of version {0}, this node speaks version {VERSION}")]
    Version(u8),
    /// Shorter than what it says it holds.
    #[error("the header ends too early")]
    Truncated,
    /// A protocol or target that the mesh does not carry.
    #[error("the header has a field that is not known")]
    Unknown,
    /// An option has the wrong length, comes twice, or must be understood and is not.
    #[error("the header has an option that cannot be used")]
    Option,
    /// Port 0 is no port.
    #[error("the header has port 0")]
    Port,
}

impl Header {
    /// The header of a plain stream.
    #[must_use]
    pub fn new(protocol: Protocol, target: Target) -> Self {
        Self { protocol, target, proxy: None, trace: None }
    }

    /// Its bytes, at most [`MAX_HEADER`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(96);
        body.push(match self.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        });
        match self.target {
            Target::Endpoint(address) => put_address(&mut body, address),
            Target::Node(port) => {
                body.push(TARGET_NODE);
                body.extend(port.to_be_bytes());
            }
        }
        if let Some(proxy) = &self.proxy {
            let mut value = vec![match proxy.version {
                ProxyProtocol::V1 => 1,
                ProxyProtocol::V2 => 2,
            }];
            put_address(&mut value, proxy.source);
            put_address(&mut value, proxy.destination);
            put_option(&mut body, OPTION_PROXY | MUST_UNDERSTAND, &value);
        }
        if let Some(trace) = &self.trace {
            let mut value = trace.trace_id.to_vec();
            value.extend(trace.span_id);
            value.push(u8::from(trace.sampled));
            put_option(&mut body, OPTION_TRACE, &value);
        }
        // At most 1 + 19 + 2 + 39 + 2 + 25 bytes: one byte counts them.
        let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
        let mut bytes = vec![VERSION, length];
        bytes.append(&mut body);
        bytes
    }

    /// A header and how many bytes it has; `None`: more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are no header of ours, as soon as that is known.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeaderError> {
        match bytes.first() {
            None => return Ok(None),
            Some(&VERSION) => {}
            Some(version) => return Err(HeaderError::Version(*version)),
        }
        let Some(length) = bytes.get(1).map(|length| usize::from(*length)) else { return Ok(None) };
        let Some(body) = bytes.get(2..2 + length) else { return Ok(None) };
        Self::decode_body(Reader(body)).map(|header| Some((header, 2 + length)))
    }

    fn decode_body(mut body: Reader<'_>) -> Result<Self, HeaderError> {
        let protocol = match body.byte()? {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            _ => return Err(HeaderError::Unknown),
        };
        let target = match body.byte()? {
            TARGET_NODE => Target::Node(body.port()?),
            kind => Target::Endpoint(body.address(kind)?),
        };
        let mut header = Self::new(protocol, target);
        while !body.0.is_empty() {
            let kind = body.byte()?;
            let length = usize::from(body.byte()?);
            let mut value = Reader(body.take(length)?);
            let fresh = match kind {
                _ if kind == OPTION_PROXY | MUST_UNDERSTAND => header.proxy.replace(value.proxy()?).is_none(),
                OPTION_TRACE => header.trace.replace(value.trace()?).is_none(),
                _ if kind & MUST_UNDERSTAND != 0 => return Err(HeaderError::Option),
                _ => continue,
            };
            if !fresh || !value.0.is_empty() {
                return Err(HeaderError::Option);
            }
        }
        Ok(header)
    }
}

impl Reply {
    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> [u8; REPLY_LEN] {
        let code = match self {
            Self::Connected => 0,
            Self::Refused(Refusal::Forbidden) => 1,
            Self::Refused(Refusal::Header) => 2,
            Self::Refused(Refusal::ConnectionRefused) => 3,
            Self::Refused(Refusal::TimedOut) => 4,
            Self::Refused(Refusal::Unreachable) => 5,
            Self::Refused(Refusal::Overloaded) => 6,
            Self::Refused(Refusal::Failed) => u8::MAX,
        };
        [VERSION, code]
    }

    /// A reply of [`REPLY_LEN`] bytes; `None`: more bytes are needed.
    ///
    /// # Errors
    /// When the other node speaks another version.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, HeaderError> {
        match bytes.first() {
            None => return Ok(None),
            Some(&VERSION) => {}
            Some(version) => return Err(HeaderError::Version(*version)),
        }
        Ok(bytes.get(1).map(|code| match code {
            0 => Self::Connected,
            1 => Self::Refused(Refusal::Forbidden),
            2 => Self::Refused(Refusal::Header),
            3 => Self::Refused(Refusal::ConnectionRefused),
            4 => Self::Refused(Refusal::TimedOut),
            5 => Self::Refused(Refusal::Unreachable),
            6 => Self::Refused(Refusal::Overloaded),
            _ => Self::Refused(Refusal::Failed),
        }))
    }
}

fn put_address(to: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            to.push(V4);
            to.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            to.push(V6);
            to.extend(ip.octets());
        }
    }
    to.extend(address.port().to_be_bytes());
}

fn put_option(to: &mut Vec<u8>, kind: u8, value: &[u8]) {
    to.push(kind);
    to.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    to.extend(value);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], HeaderError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(HeaderError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(HeaderError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, HeaderError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn port(&mut self) -> Result<u16, HeaderError> {
        match u16::from_be_bytes(self.array()?) {
            0 => Err(HeaderError::Port),
            port => Ok(port),
        }
    }

    fn address(&mut self, kind: u8) -> Result<SocketAddr, HeaderError> {
        let ip = match kind {
            V4 => IpAddr::from(self.array::<4>()?),
            V6 => IpAddr::from(self.array::<16>()?),
            _ => return Err(HeaderError::Unknown),
        };
        Ok(SocketAddr::new(ip, self.port()?))
    }

    fn proxy(&mut self) -> Result<ProxyInfo, HeaderError> {
        let version = match self.byte()? {
            1 => ProxyProtocol::V1,
            2 => ProxyProtocol::V2,
            _ => return Err(HeaderError::Option),
        };
        let mut address = || {
            let kind = self.byte()?;
            self.address(kind)
        };
        Ok(ProxyInfo { version, source: address()?, destination: address()? })
    }

    fn trace(&mut self) -> Result<Trace, HeaderError> {
        Ok(Trace { trace_id: self.array()?, span_id: self.array()?, sampled: self.byte()? & 1 == 1 })
    }
}
