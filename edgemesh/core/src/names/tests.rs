//! Answers as tables: the examples of the specification, then what it leaves open, then properties.

#![allow(clippy::unwrap_used)]
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use skerry_common::{Key, NodeName};

use super::*;
use crate::{Filter, Table, TableBuilder};

const DOMAIN: &str = "cluster.local";

fn domain() -> Domain {
    Domain::new(DOMAIN, vec!["169.254.96.16".parse().unwrap()]).unwrap()
}

fn ask(table: &Table, name: &str, kind: Kind) -> Answer {
    answer(&Question { name, kind }, table, &domain())
}

/// Records as lines of a zone file: `<name> <ttl> <type> <data>`; `NODATA`, `NXDOMAIN` and so on for the others.
fn say(answer: Answer) -> Vec<String> {
    match answer {
        Answer::Elsewhere => vec!["ELSEWHERE".into()],
        Answer::NoData { soa } => vec!["NODATA".into(), line(&soa)],
        Answer::NxDomain { soa } => vec!["NXDOMAIN".into(), line(&soa)],
        Answer::Alias { cname, target } => vec![line(&cname), format!("-> {target}")],
        Answer::Records { answers, additionals } => {
            let additionals = additionals.iter().map(|record| format!("+ {}", line(record)));
            answers.iter().map(line).chain(additionals).collect()
        }
    }
}

fn line(record: &Record) -> String {
    let data = match &record.data {
        Data::A(ip) => format!("A {ip}"),
        Data::Aaaa(ip) => format!("AAAA {ip}"),
        Data::Cname(name) => format!("CNAME {name}."),
        Data::Ptr(name) => format!("PTR {name}."),
        Data::Ns(name) => format!("NS {name}."),
        Data::Txt(text) => format!("TXT {text:?}"),
        Data::Srv { priority, weight, port, target } => format!("SRV {priority} {weight} {port} {target}."),
        Data::Soa { server, mailbox, serial, refresh, retry, expire, minimum } => {
            format!("SOA {server}. {mailbox}. {serial} {refresh} {retry} {expire} {minimum}")
        }
    };
    format!("{}. {} {data}", record.name, record.ttl)
}

const SOA: &str = "cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5";

fn service(builder: &mut TableBuilder, namespace: &str, name: &str, spec: &str) {
    let body = format!(r#"{{"metadata":{{"namespace":"{namespace}","name":"{name}","uid":"u"}},"spec":{spec}}}"#);
    builder.upsert(skerry_common::kinds::SERVICE, &Key::new(namespace, name), body.as_bytes()).unwrap();
}

/// A slice of one Service; endpoints as JSON.
fn slice(builder: &mut TableBuilder, service: &str, number: u32, family: &str, ports: &str, endpoints: &str) {
    let name = format!("{service}-{number}");
    let body = format!(
        r#"{{"metadata":{{"namespace":"default","name":"{name}","labels":{{"kubernetes.io/service-name":"{service}"}}}},
        "addressType":"{family}","ports":{ports},"endpoints":{endpoints}}}"#
    );
    builder.upsert(skerry_common::kinds::ENDPOINT_SLICE, &Key::new("default", &*name), body.as_bytes()).unwrap();
}

fn node(builder: &mut TableBuilder, name: &str, addresses: &str) {
    let body = format!(r#"{{"metadata":{{"name":"{name}"}},"status":{{"addresses":{addresses}}}}}"#);
    builder.upsert(skerry_common::kinds::NODE, &Key::new("", name), body.as_bytes()).unwrap();
}

/// The specification's own cluster, and a little more.
fn table() -> Arc<Table> {
    let mut b = TableBuilder::new(NodeName::parse("edge-1").unwrap(), Filter::default());
    service(&mut b, "default", "kubernetes", r#"{"clusterIP":"10.3.0.1","ports":[{"name":"https","port":443}]}"#);
    service(
        &mut b,
        "shop",
        "orders",
        r#"{"clusterIP":"10.3.0.9","clusterIPs":["10.3.0.9","fd00::9"],
            "ports":[{"name":"http","port":8080},{"name":"dns","port":53,"protocol":"UDP"}]}"#,
    );
    service(&mut b, "shop", "plain", r#"{"clusterIP":"10.3.0.10","ports":[{"port":80}]}"#);
    service(&mut b, "shop", "pending", r#"{"ports":[{"port":80}]}"#);
    service(&mut b, "default", "foo", r#"{"type":"ExternalName","externalName":"www.example.com"}"#);
    service(&mut b, "default", "headless", r#"{"clusterIP":"None","ports":[{"name":"https","port":443}]}"#);
    slice(
        &mut b,
        "headless",
        1,
        "IPv4",
        r#"[{"name":"https","port":8443}]"#,
        r#"[{"addresses":["10.3.0.100"],"hostname":"my-pet"},{"addresses":["10.3.0.101"],"hostname":"my-pet-2"},
            {"addresses":["10.3.0.102"]},{"addresses":["10.3.0.103"],"hostname":"my-pet"},
            {"addresses":["10.3.0.199"],"hostname":"unready","conditions":{"ready":false}}]"#,
    );
    slice(
        &mut b,
        "headless",
        2,
        "IPv6",
        r#"[{"name":"https","port":8443}]"#,
        r#"[{"addresses":["fd00::100"],"hostname":"my-pet"},{"addresses":["fd00:0:0:1::2"]}]"#,
    );
    service(&mut b, "default", "empty", r#"{"clusterIP":"None","ports":[{"name":"https","port":443}]}"#);
    slice(
        &mut b,
        "empty",
        1,
        "IPv4",
        r#"[{"name":"https","port":443}]"#,
        r#"[{"addresses":["10.3.0.110"],"conditions":{"ready":false}}]"#,
    );
    service(&mut b, "default", "eager", r#"{"clusterIP":"None","publishNotReadyAddresses":true}"#);
    slice(&mut b, "eager", 1, "IPv4", "[]", r#"[{"addresses":["10.3.0.120"],"conditions":{"ready":false}}]"#);
    node(
        &mut b,
        "edge-1",
        r#"[{"type":"Hostname","address":"edge-1"},{"type":"InternalIP","address":"192.0.2.1"},
            {"type":"InternalIP","address":"2001:db8::1"},{"type":"ExternalIP","address":"198.51.100.1"}]"#,
    );
    node(&mut b, "ship.north-sea.example", r#"[{"type":"InternalIP","address":"192.0.2.2"}]"#);
    b.snapshot()
}

fn check(cases: &[(&str, Kind, &[&str])]) {
    let table = table();
    for (name, kind, expected) in cases {
        let expected: Vec<String> = expected.iter().map(|line| line.replace("{SOA}", SOA)).collect();
        assert_eq!(say(ask(&table, name, *kind)), expected, "{name} {kind:?}");
    }
}

/// The question examples of the specification, section by section, with our times and weights.
#[test]
fn the_examples_of_the_specification() {
    check(&[
        ("dns-version.cluster.local.", Kind::Txt, &[r#"dns-version.cluster.local. 28800 TXT "1.1.0""#]),
        ("kubernetes.default.svc.cluster.local.", Kind::A, &["kubernetes.default.svc.cluster.local. 30 A 10.3.0.1"]),
        (
            "_https._tcp.kubernetes.default.svc.cluster.local.",
            Kind::Srv,
            &[
                "_https._tcp.kubernetes.default.svc.cluster.local. 30 SRV 0 100 443 kubernetes.default.svc.cluster.local.",
                "+ kubernetes.default.svc.cluster.local. 30 A 10.3.0.1",
            ],
        ),
        ("1.0.3.10.in-addr.arpa.", Kind::Ptr, &["1.0.3.10.in-addr.arpa. 30 PTR kubernetes.default.svc.cluster.local."]),
        (
            "headless.default.svc.cluster.local.",
            Kind::A,
            &[
                "headless.default.svc.cluster.local. 5 A 10.3.0.100",
                "headless.default.svc.cluster.local. 5 A 10.3.0.101",
                "headless.default.svc.cluster.local. 5 A 10.3.0.102",
                "headless.default.svc.cluster.local. 5 A 10.3.0.103",
            ],
        ),
        // Several addresses of one hostname: one record each.
        (
            "my-pet.headless.default.svc.cluster.local.",
            Kind::A,
            &[
                "my-pet.headless.default.svc.cluster.local. 5 A 10.3.0.100",
                "my-pet.headless.default.svc.cluster.local. 5 A 10.3.0.103",
            ],
        ),
        (
            "_https._tcp.headless.default.svc.cluster.local.",
            Kind::Srv,
            &[
                "_https._tcp.headless.default.svc.cluster.local. 5 SRV 0 25 8443 10-3-0-102.headless.default.svc.cluster.local.",
                "_https._tcp.headless.default.svc.cluster.local. 5 SRV 0 25 8443 fd00-0-0-1--2.headless.default.svc.cluster.local.",
                "_https._tcp.headless.default.svc.cluster.local. 5 SRV 0 25 8443 my-pet-2.headless.default.svc.cluster.local.",
                "_https._tcp.headless.default.svc.cluster.local. 5 SRV 0 25 8443 my-pet.headless.default.svc.cluster.local.",
                "+ 10-3-0-102.headless.default.svc.cluster.local. 5 A 10.3.0.102",
                "+ fd00-0-0-1--2.headless.default.svc.cluster.local. 5 AAAA fd00:0:0:1::2",
                "+ my-pet-2.headless.default.svc.cluster.local. 5 A 10.3.0.101",
                "+ my-pet.headless.default.svc.cluster.local. 5 A 10.3.0.100",
                "+ my-pet.headless.default.svc.cluster.local. 5 A 10.3.0.103",
                "+ my-pet.headless.default.svc.cluster.local. 5 AAAA fd00::100",
            ],
        ),
        (
            "100.0.3.10.in-addr.arpa.",
            Kind::Ptr,
            &["100.0.3.10.in-addr.arpa. 5 PTR my-pet.headless.default.svc.cluster.local."],
        ),
        (
            "foo.default.svc.cluster.local.",
            Kind::A,
            &["foo.default.svc.cluster.local. 30 CNAME www.example.com.", "-> www.example.com"],
        ),
        ("10-3-0-1.default.pod.cluster.local.", Kind::A, &["10-3-0-1.default.pod.cluster.local. 30 A 10.3.0.1"]),
    ]);
}

#[test]
fn both_families() {
    check(&[
        ("orders.shop.svc.cluster.local", Kind::Aaaa, &["orders.shop.svc.cluster.local. 30 AAAA fd00::9"]),
        ("orders.shop.svc.cluster.local", Kind::A, &["orders.shop.svc.cluster.local. 30 A 10.3.0.9"]),
        ("kubernetes.default.svc.cluster.local", Kind::Aaaa, &["NODATA", "{SOA}"]),
        (
            "fd00-0-0-1--2.headless.default.svc.cluster.local",
            Kind::Aaaa,
            &["fd00-0-0-1--2.headless.default.svc.cluster.local. 5 AAAA fd00:0:0:1::2"],
        ),
        ("fd00--1.default.pod.cluster.local", Kind::Aaaa, &["fd00--1.default.pod.cluster.local. 30 AAAA fd00::1"]),
        (
            "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            Kind::Ptr,
            &[
                "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. 30 PTR orders.shop.svc.cluster.local.",
            ],
        ),
    ]);
}

#[test]
fn a_name_without_data_is_not_a_name_that_does_not_exist() {
    check(&[
        // Names that are there because others are below them.
        ("cluster.local", Kind::A, &["NODATA", "{SOA}"]),
        ("svc.cluster.local", Kind::A, &["NODATA", "{SOA}"]),
        ("shop.svc.cluster.local", Kind::A, &["NODATA", "{SOA}"]),
        ("pod.cluster.local", Kind::A, &["NODATA", "{SOA}"]),
        ("node.cluster.local", Kind::A, &["NODATA", "{SOA}"]),
        ("dns.cluster.local", Kind::A, &["NODATA", "{SOA}"]),
        ("_tcp.orders.shop.svc.cluster.local", Kind::Srv, &["NODATA", "{SOA}"]),
        ("_http._tcp.orders.shop.svc.cluster.local", Kind::A, &["NODATA", "{SOA}"]),
        ("orders.shop.svc.cluster.local", Kind::Txt, &["NODATA", "{SOA}"]),
        ("dns-version.cluster.local", Kind::A, &["NODATA", "{SOA}"]),
        ("10-3-0-1.default.pod.cluster.local", Kind::Aaaa, &["NODATA", "{SOA}"]),
        // A Service that has no address yet.
        ("pending.shop.svc.cluster.local", Kind::A, &["NODATA", "{SOA}"]),
        // And names that are not there.
        ("nothing.shop.svc.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        ("nothing.svc.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        ("orders.nothing.svc.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        ("nothing.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        ("_udp.plain.shop.svc.cluster.local", Kind::Srv, &["NXDOMAIN", "{SOA}"]),
        ("_http._udp.orders.shop.svc.cluster.local", Kind::Srv, &["NXDOMAIN", "{SOA}"]),
        ("_nothing._tcp.orders.shop.svc.cluster.local", Kind::Srv, &["NXDOMAIN", "{SOA}"]),
        ("a._http._tcp.orders.shop.svc.cluster.local", Kind::Srv, &["NXDOMAIN", "{SOA}"]),
        ("nothing.headless.default.svc.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        ("below.foo.default.svc.cluster.local", Kind::Cname, &["NXDOMAIN", "{SOA}"]),
        ("no-address.default.pod.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        ("300-0-0-1.default.pod.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        // No wildcards.
        ("*.shop.svc.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        ("orders.*.svc.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        ("any.any.svc.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        // What is escaped has no name.
        (r"\007.shop.svc.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        (r"orders\.shop.svc.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
    ]);
}

#[test]
fn endpoints_have_names_when_they_are_ready() {
    check(&[
        // Specification 2.4.1: a headless Service without ready endpoints does not exist.
        ("empty.default.svc.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        ("_https._tcp.empty.default.svc.cluster.local", Kind::Srv, &["NXDOMAIN", "{SOA}"]),
        ("unready.headless.default.svc.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        ("199.0.3.10.in-addr.arpa", Kind::Ptr, &["ELSEWHERE"]),
        ("eager.default.svc.cluster.local", Kind::A, &["eager.default.svc.cluster.local. 5 A 10.3.0.120"]),
        (
            "120.0.3.10.in-addr.arpa",
            Kind::Ptr,
            &["120.0.3.10.in-addr.arpa. 5 PTR 10-3-0-120.eager.default.svc.cluster.local."],
        ),
        // Without ports, without SRV.
        ("eager.default.svc.cluster.local", Kind::Srv, &["NODATA", "{SOA}"]),
    ]);
}

#[test]
fn ports_without_a_name_are_found_at_the_service_only() {
    check(&[
        (
            "plain.shop.svc.cluster.local",
            Kind::Srv,
            &[
                "plain.shop.svc.cluster.local. 30 SRV 0 100 80 plain.shop.svc.cluster.local.",
                "+ plain.shop.svc.cluster.local. 30 A 10.3.0.10",
            ],
        ),
        ("_._tcp.plain.shop.svc.cluster.local", Kind::Srv, &["NXDOMAIN", "{SOA}"]),
        (
            "_dns._udp.orders.shop.svc.cluster.local",
            Kind::Srv,
            &[
                "_dns._udp.orders.shop.svc.cluster.local. 30 SRV 0 100 53 orders.shop.svc.cluster.local.",
                "+ orders.shop.svc.cluster.local. 30 A 10.3.0.9",
                "+ orders.shop.svc.cluster.local. 30 AAAA fd00::9",
            ],
        ),
    ]);
}

#[test]
fn nodes_have_names() {
    check(&[
        ("edge-1.node.cluster.local", Kind::A, &["edge-1.node.cluster.local. 30 A 192.0.2.1"]),
        ("edge-1.node.cluster.local", Kind::Aaaa, &["edge-1.node.cluster.local. 30 AAAA 2001:db8::1"]),
        (
            "ship.north-sea.example.node.cluster.local",
            Kind::A,
            &["ship.north-sea.example.node.cluster.local. 30 A 192.0.2.2"],
        ),
        ("example.node.cluster.local", Kind::A, &["NODATA", "{SOA}"]),
        ("ample.node.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        ("edge-2.node.cluster.local", Kind::A, &["NXDOMAIN", "{SOA}"]),
        // The address of a node is somebody else's: the site's own names.
        ("1.2.0.192.in-addr.arpa", Kind::Ptr, &["ELSEWHERE"]),
    ]);
}

#[test]
fn the_zone_itself() {
    check(&[
        ("cluster.local", Kind::Soa, &[SOA]),
        (
            "cluster.local",
            Kind::Ns,
            &["cluster.local. 30 NS ns.dns.cluster.local.", "+ ns.dns.cluster.local. 30 A 169.254.96.16"],
        ),
        ("ns.dns.cluster.local", Kind::A, &["ns.dns.cluster.local. 30 A 169.254.96.16"]),
        ("svc.cluster.local", Kind::Ns, &["NODATA", "{SOA}"]),
    ]);
}

#[test]
fn everything_else_is_somebody_elses() {
    check(&[
        ("example.com", Kind::A, &["ELSEWHERE"]),
        ("", Kind::Ns, &["ELSEWHERE"]),
        ("local", Kind::A, &["ELSEWHERE"]),
        ("notcluster.local", Kind::A, &["ELSEWHERE"]),
        ("cluster.local.example.com", Kind::A, &["ELSEWHERE"]),
        ("9.9.9.9.in-addr.arpa", Kind::Ptr, &["ELSEWHERE"]),
        ("1.0.3.10.in-addr.arpa", Kind::A, &["ELSEWHERE"]),
        ("0.3.10.in-addr.arpa", Kind::Ptr, &["ELSEWHERE"]),
        ("01.0.3.10.in-addr.arpa", Kind::Ptr, &["ELSEWHERE"]),
        ("1.0.3.10.1.in-addr.arpa", Kind::Ptr, &["ELSEWHERE"]),
    ]);
}

#[test]
fn another_domain() {
    let domain = Domain::new("Edge.Example.", Vec::new()).unwrap();
    let table = table();
    let ask = |name| say(answer(&Question { name, kind: Kind::A }, &table, &domain));
    assert_eq!(ask("orders.shop.svc.edge.example"), ["orders.shop.svc.edge.example. 30 A 10.3.0.9"]);
    assert_eq!(ask("orders.shop.svc.cluster.local"), ["ELSEWHERE"]);
    for wrong in ["", ".", "a..b", "a b", "ä", "-.", &"a".repeat(64), &format!("{}a", "a.".repeat(127))] {
        let good = wrong == "-.";
        assert_eq!(Domain::new(wrong, Vec::new()).is_ok(), good, "{wrong:?}");
    }
}

#[test]
fn answers_are_bounded() {
    let mut b = TableBuilder::new(NodeName::parse("edge-1").unwrap(), Filter::default());
    service(&mut b, "default", "many", r#"{"clusterIP":"None","ports":[{"name":"p","port":1}]}"#);
    for number in 0..3u32 {
        let endpoint = |at: u32| format!(r#"{{"addresses":["10.{number}.{}.{}"]}}"#, at / 250, at % 250 + 1);
        let endpoints: Vec<_> = (0..800).map(endpoint).collect();
        slice(&mut b, "many", number, "IPv4", r#"[{"name":"p","port":1}]"#, &format!("[{}]", endpoints.join(",")));
    }
    let table = b.snapshot();
    for (name, kind) in [("many", Kind::A), ("_p._tcp.many", Kind::Srv)] {
        let Answer::Records { answers, additionals } = ask(&table, &format!("{name}.default.svc.{DOMAIN}"), kind)
        else {
            panic!("{name} has records");
        };
        assert_eq!(answers.len(), MAX_RECORDS);
        assert!(additionals.len() <= MAX_RECORDS);
    }
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![
        Kind::A,
        Kind::Aaaa,
        Kind::Cname,
        Kind::Ptr,
        Kind::Srv,
        Kind::Txt,
        Kind::Soa,
        Kind::Ns,
        Kind::Other,
    ])
}

/// Names of words that mean something, and of some that do not.
fn any_name() -> impl Strategy<Value = String> {
    let words = vec![
        "svc",
        "pod",
        "node",
        "dns",
        "ns",
        "shop",
        "default",
        "orders",
        "headless",
        "foo",
        "empty",
        "my-pet",
        "_tcp",
        "_udp",
        "_http",
        "_https",
        "edge-1",
        "example",
        "north-sea",
        "ship",
        "10-3-0-1",
        "x",
        "*",
        "cluster",
        "local",
        "in-addr",
        "arpa",
        "1",
        "0",
        "3",
        "10",
        "",
    ];
    prop::collection::vec(prop::sample::select(words), 0..7).prop_map(|labels| labels.join("."))
}

proptest! {
    #[test]
    fn a_question_below_the_domain_is_answered_and_about_its_name(rest in any_name(), kind in any_kind()) {
        let name = format!("{rest}{}{DOMAIN}", if rest.is_empty() { "" } else { "." });
        match ask(&table(), &name, kind) {
            Answer::Elsewhere => prop_assert!(false, "{name} is ours"),
            Answer::Records { answers, .. } => {
                prop_assert!(!answers.is_empty());
                prop_assert!(answers.iter().all(|record| record.name == name));
            }
            Answer::Alias { cname, .. } => prop_assert_eq!(cname.name, name),
            Answer::NoData { soa } | Answer::NxDomain { soa } => prop_assert_eq!(soa.name, DOMAIN),
        }
    }

    #[test]
    fn the_case_of_a_question_does_not_matter(rest in any_name(), kind in any_kind(), flips in any::<u64>()) {
        let name = format!("{rest}.{DOMAIN}");
        let flip = |(at, c): (usize, char)| if flips >> (at % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c };
        let mixed: String = name.chars().enumerate().map(flip).collect();
        let table = table();
        prop_assert_eq!(ask(&table, &name, kind), ask(&table, &mixed, kind));
        prop_assert_eq!(ask(&table, &name, kind), ask(&table, &format!("{name}."), kind));
    }

    /// RFC 8020: below a name that does not exist is nothing.
    #[test]
    fn a_name_exists_if_one_below_it_does(rest in any_name(), kind in any_kind()) {
        let table = table();
        let name = format!("{rest}.{DOMAIN}");
        let parent = name.split_once('.').map_or("", |(_, parent)| parent);
        let missing = |name: &str, kind| matches!(ask(&table, name, kind), Answer::NxDomain { .. });
        if parent.ends_with(DOMAIN) && !rest.contains("..") && !missing(&name, kind) {
            prop_assert!(!missing(parent, Kind::Other), "{name} exists, {parent} does not");
        }
    }

    #[test]
    fn whether_a_name_exists_does_not_depend_on_the_type(rest in any_name(), one in any_kind(), other in any_kind()) {
        let table = table();
        let name = format!("{rest}.{DOMAIN}");
        let missing = |kind| matches!(ask(&table, &name, kind), Answer::NxDomain { .. });
        prop_assert_eq!(missing(one), missing(other), "{}", name);
    }

    #[test]
    fn an_address_and_its_name_belong_together(bits in any::<u128>(), v6 in any::<bool>()) {
        let ip: IpAddr = if v6 {
            std::net::Ipv6Addr::from(bits).into()
        } else {
            std::net::Ipv4Addr::from((bits & 0xffff_ffff) as u32).into()
        };
        let name = match ip {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            IpAddr::V6(ip) => {
                let nibbles: Vec<String> =
                    ip.octets().iter().rev().flat_map(|o| [format!("{:x}", o & 15), format!("{:x}", o >> 4)]).collect();
                format!("{}.ip6.arpa", nibbles.join("."))
            }
        };
        prop_assert_eq!(reverse::address(&name), Some(ip));
    }

    #[test]
    fn nothing_that_is_asked_makes_it_fall(name in "\\PC{0,300}", kind in any_kind()) {
        let _ = ask(&table(), &name, kind);
    }
}
