//! The decision: which part of the domain a name is in, and what that part says.

use std::net::IpAddr;

use super::question::{Answer, Data, Domain, Kind, Question, Record};
use super::{reverse, service};
use crate::Table;

/// Version of the specification that the names follow.
const SCHEMA: &str = "1.1.0";
/// Of the schema: it changes with the program only. As in the specification's example.
const SCHEMA_TTL: u32 = 28_800;
/// Of what changes rarely, as CoreDNS is configured in clusters.
pub(super) const TTL: u32 = 30;
/// Of endpoints, which come and go.
pub(super) const ENDPOINT_TTL: u32 = 5;
/// Of what is not there: a Service that somebody waits for shall be seen soon.
const NEGATIVE_TTL: u32 = 5;

/// What one part of the domain says about a name.
pub(super) enum Found {
    /// No such name, and none below it.
    Nothing,
    /// The name is there, with these records of the type (perhaps none) and addresses beside them.
    Records(Vec<Record>, Vec<Record>),
    /// The name is another's.
    Alias(String),
}

impl Found {
    /// A name that is there because others are below it.
    pub(super) const EMPTY: Self = Self::Records(Vec::new(), Vec::new());

    /// The addresses of a name, of one type.
    pub(super) fn addresses(name: &str, ttl: u32, kind: Kind, ips: impl IntoIterator<Item = IpAddr>) -> Self {
        let of_kind = ips.into_iter().filter(|ip| kind.has(*ip));
        Self::Records(of_kind.map(|ip| Record::address(name, ttl, ip)).collect(), Vec::new())
    }

    /// A name that is there when `is` holds, and has nothing itself.
    pub(super) fn empty_if(is: bool) -> Self {
        if is { Self::EMPTY } else { Self::Nothing }
    }
}

/// Answers a question. See the module documentation of `names`.
#[must_use]
pub fn answer(question: &Question<'_>, table: &Table, domain: &Domain) -> Answer {
    let name = question.name.strip_suffix('.').unwrap_or(question.name).to_ascii_lowercase();
    let kind = question.kind;
    if let Some(rest) = domain.below(&name) {
        let soa = || soa(domain);
        return match below(rest, &name, kind, table, domain) {
            Found::Nothing => Answer::NxDomain { soa: soa() },
            Found::Records(answers, _) if answers.is_empty() => Answer::NoData { soa: soa() },
            Found::Records(answers, additionals) => Answer::Records { answers, additionals },
            Found::Alias(target) => {
                let cname = Record { name, ttl: TTL, data: Data::Cname(target.clone()) };
                if kind == Kind::Cname {
                    Answer::Records { answers: vec![cname], additionals: Vec::new() }
                } else {
                    Answer::Alias { cname, target }
                }
            }
        };
    }
    // What is asked of the reverse tree beside names, whoever has the network knows.
    match reverse::address(&name).filter(|_| kind == Kind::Ptr) {
        Some(ip) => reverse::answer(&name, ip, table, domain),
        None => Answer::Elsewhere,
    }
}

fn below(rest: &str, name: &str, kind: Kind, table: &Table, domain: &Domain) -> Found {
    let labels: Vec<&str> = rest.rsplit('.').filter(|_| !rest.is_empty()).collect();
    match labels.as_slice() {
        [] => apex(kind, domain),
        ["dns-version"] => match kind {
            Kind::Txt => {
                let record = Record { name: name.into(), ttl: SCHEMA_TTL, data: Data::Txt(SCHEMA.into()) };
                Found::Records(vec![record], Vec::new())
            }
            _ => Found::EMPTY,
        },
        ["dns" | "svc" | "pod" | "node"] => Found::EMPTY,
        ["dns", "ns"] => Found::addresses(name, TTL, kind, domain.servers().iter().copied()),
        ["svc", namespace] => Found::empty_if(table.has_namespace(namespace)),
        ["svc", namespace, service, rest @ ..] => match table.by_name(namespace, service) {
            Some(found) => service::answer(found, rest, kind, &domain.of(&format!("{service}.{namespace}.svc")), name),
            None => Found::Nothing,
        },
        // Namespaces with no Service are not known here, so each may be one.
        ["pod", namespace] => Found::empty_if(!namespace.is_empty()),
        ["pod", _, pod] => match pod_ip(pod) {
            Some(ip) => Found::addresses(name, TTL, kind, [ip]),
            None => Found::Nothing,
        },
        ["node", ..] => node(rest.strip_suffix(".node").unwrap_or_default(), name, kind, table),
        _ => Found::Nothing,
    }
}

fn apex(kind: Kind, domain: &Domain) -> Found {
    match kind {
        Kind::Soa => Found::Records(vec![soa(domain)], Vec::new()),
        Kind::Ns => {
            let server = domain.of("ns.dns");
            let addresses = domain.servers().iter().map(|ip| Record::address(&server, TTL, *ip)).collect();
            let record = Record { name: domain.name().into(), ttl: TTL, data: Data::Ns(server) };
            Found::Records(vec![record], addresses)
        }
        _ => Found::EMPTY,
    }
}

/// The node of a name; and names above one with dots, which exist because of it.
fn node(node: &str, name: &str, kind: Kind, table: &Table) -> Found {
    match table.node(node) {
        Some(found) => Found::addresses(name, TTL, kind, found.internal_ips.iter().copied()),
        None => {
            let above = |other: &str| other.strip_suffix(node).is_some_and(|rest| rest.ends_with('.'));
            Found::empty_if(!node.is_empty() && table.nodes().any(|other| above(&other.name)))
        }
    }
}

/// `10-0-0-1` or `fd00--1`: an address with dashes for its dots or colons.
fn pod_ip(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse().map(IpAddr::V6)).ok()
}

fn soa(domain: &Domain) -> Record {
    let data = Data::Soa {
        server: domain.of("ns.dns"),
        mailbox: domain.of("hostmaster"),
        // Nobody transfers the zone, so nobody compares it.
        serial: 1,
        refresh: 7200,
        retry: 1800,
        expire: 86_400,
        minimum: NEGATIVE_TTL,
    };
    Record { name: domain.name().into(), ttl: NEGATIVE_TTL, data }
}
