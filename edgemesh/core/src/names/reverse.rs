//! Names of addresses: `d.c.b.a.in-addr.arpa` and the nibbles of `ip6.arpa`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use skerry_common::Key;

use super::answer::{ENDPOINT_TTL, TTL};
use super::question::{Answer, Data, Domain, MAX_RECORDS, Record};
use super::service::{endpoint_label, is_headless, is_ready};
use crate::Table;

const V4: &str = ".in-addr.arpa";
const V6: &str = ".ip6.arpa";

/// The address of a whole reverse name, in lower case.
pub(super) fn address(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(V4) {
        let octets: Vec<&str> = octets.rsplit('.').collect();
        // `01` is not how it is written.
        let parsed: Ipv4Addr = octets.join(".").parse().ok()?;
        return Some(parsed.into());
    }
    let nibbles: Vec<&str> = name.strip_suffix(V6)?.rsplit('.').collect();
    if nibbles.len() != 32 {
        return None;
    }
    let mut bits: u128 = 0;
    for nibble in nibbles {
        let digit = nibble.chars().next().filter(|_| nibble.len() == 1)?.to_digit(16)?;
        bits = bits << 4 | u128::from(digit);
    }
    Some(Ipv6Addr::from(bits).into())
}

/// Names of an address: a Service's, or those of endpoints of headless Services.
pub(super) fn answer(name: &str, ip: IpAddr, table: &Table, domain: &Domain) -> Answer {
    let mut answers = Vec::new();
    let mut add = |ttl: u32, target: String| {
        if answers.len() < MAX_RECORDS {
            answers.push(Record { name: name.into(), ttl, data: Data::Ptr(domain.of(&target)) });
        }
    };
    let base = |key: &Key| format!("{}.{}.svc", key.name, key.namespace);
    if let Some(service) = table.service_by_cluster_ip(ip) {
        add(TTL, base(service.key()));
    }
    for (service, host) in table.hosts_by_ip(ip) {
        if is_headless(service) && is_ready(service, host) {
            add(ENDPOINT_TTL, format!("{}.{}", endpoint_label(host), base(service.key())));
        }
    }
    if answers.is_empty() { Answer::Elsewhere } else { Answer::Records { answers, additionals: Vec::new() } }
}
