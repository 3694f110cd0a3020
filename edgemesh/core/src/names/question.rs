//! Questions and answers as values: what DNS calls them, without the form of its wire.
//!
//! Names are texts in lower case without the dot at the end; those that are made here are names of Kubernetes objects
//! and have nothing to escape.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Records in a section of an answer: more endpoints fit into no message, and nobody tries them all.
pub const MAX_RECORDS: usize = 1000;
/// Longest name in text.
const MAX_NAME: usize = 253;
/// Longest label.
const MAX_LABEL: usize = 63;

/// Type of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Another name for it.
    Cname,
    /// Name of an address.
    Ptr,
    /// Port and host of a service.
    Srv,
    /// Text.
    Txt,
    /// Start of a zone.
    Soa,
    /// Servers of a zone.
    Ns,
    /// Every other type: the cluster has none of them.
    Other,
}

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// In any case; the dot at the end may be there.
    pub name: &'a str,
    /// Its type.
    pub kind: Kind,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Not about this cluster: ask the name servers of the node.
    Elsewhere,
    /// There are records.
    Records {
        /// What was asked for.
        answers: Vec<Record>,
        /// Addresses of names in them.
        additionals: Vec<Record>,
    },
    /// The name is another name for one that must be asked for in its place.
    Alias {
        /// Says so.
        cname: Record,
        /// The other name; it may be in the cluster or not.
        target: String,
    },
    /// The name exists, with no records of this type.
    NoData {
        /// For how long that may be believed.
        soa: Record,
    },
    /// There is no such name, and none below it.
    NxDomain {
        /// For how long that may be believed.
        soa: Record,
    },
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub name: String,
    /// For how long it may be kept, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Another name.
    Cname(String),
    /// Name of an address.
    Ptr(String),
    /// Name of a server.
    Ns(String),
    /// Text.
    Txt(String),
    /// Port and host of a service (RFC 2782).
    Srv {
        /// Lowest first.
        priority: u16,
        /// Share among equal priorities.
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: String,
    },
    /// Start of a zone (RFC 1035). Times in seconds.
    Soa {
        /// Its server.
        server: String,
        /// Who is responsible, written as a name.
        mailbox: String,
        /// Version.
        serial: u32,
        /// Of secondaries.
        refresh: i32,
        /// Of secondaries.
        retry: i32,
        /// Of secondaries.
        expire: i32,
        /// For how long it may be believed that there is nothing.
        minimum: u32,
    },
}

impl Record {
    /// The record of an address.
    pub(super) fn address(name: &str, ttl: u32, ip: IpAddr) -> Self {
        let data = match ip {
            IpAddr::V4(ip) => Data::A(ip),
            IpAddr::V6(ip) => Data::Aaaa(ip),
        };
        Self { name: name.into(), ttl, data }
    }
}

impl Kind {
    /// Whether an address is of this type.
    pub(super) fn has(self, ip: IpAddr) -> bool {
        matches!((self, ip), (Self::A, IpAddr::V4(_)) | (Self::Aaaa, IpAddr::V6(_)))
    }
}

/// The domain of a cluster, and who serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    name: String,
    servers: Vec<IpAddr>,
}

/// A text that is no domain: 1 to 253 characters, labels of 1 to 63 letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a domain")]
pub struct DomainError(String);

impl Domain {
    /// A domain, in any case; `servers` are the addresses that pods ask.
    ///
    /// # Errors
    /// When it is not the name of a domain.
    pub fn new(name: &str, servers: Vec<IpAddr>) -> Result<Self, DomainError> {
        let text = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let label = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if text.len() > MAX_NAME || !text.split('.').all(label) {
            return Err(DomainError(name.into()));
        }
        Ok(Self { name: text, servers })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who serves it.
    #[must_use]
    pub fn servers(&self) -> &[IpAddr] {
        &self.servers
    }

    /// What of `name` is left of the domain; empty for the domain itself.
    pub(super) fn below<'n>(&self, name: &'n str) -> Option<&'n str> {
        let rest = name.strip_suffix(&self.name)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
    }

    /// The name of `rest` in this domain.
    pub(super) fn of(&self, rest: &str) -> String {
        format!("{rest}.{}", self.name)
    }
}
