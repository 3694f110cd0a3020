//! Names of the cluster, asked for with `dig`.

use std::net::Ipv4Addr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use skerry_mesh_dns::Config;

use crate::dig::dig;
use crate::hardening::{client, question, receive};
use crate::server::{Cluster, PATIENCE, start, start_with, table};
use crate::upstream::{Reply, address, code, nothing, upstream};

#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_its_names_over_both_protocols() {
    let server = start(&[]);
    for over in ["", "+tcp"] {
        let ask = async |arguments: &str| dig(server.address, &format!("{over} {arguments}")).await;
        let found = ask("orders.shop.svc.cluster.local").await;
        assert_eq!(found.answers, ["orders.shop.svc.cluster.local. 30 IN A 10.96.0.7"], "{}", found.text);
        assert_eq!(found.flags, ["qr", "aa", "rd", "ra"]);
        let found = ask("_http._tcp.orders.shop.svc.cluster.local SRV").await;
        let srv = "_http._tcp.orders.shop.svc.cluster.local. 30 IN SRV 0 100 8080 orders.shop.svc.cluster.local.";
        assert_eq!(found.answers, [srv]);
        assert_eq!(found.additional, ["orders.shop.svc.cluster.local. 30 IN A 10.96.0.7"]);
        let found = ask("-x 10.96.0.7").await;
        assert_eq!(found.answers, ["7.0.96.10.in-addr.arpa. 30 IN PTR orders.shop.svc.cluster.local."]);
        let found = ask("dns-version.cluster.local TXT").await;
        assert_eq!(found.answers, ["dns-version.cluster.local. 28800 IN TXT \"1.1.0\""]);
        let found = ask("nothing.shop.svc.cluster.local").await;
        let soa = "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5";
        assert_eq!((found.status.as_str(), found.authority), ("NXDOMAIN", vec![soa.to_owned()]));
        let found = ask("orders.shop.svc.cluster.local AAAA").await;
        assert_eq!((found.status.as_str(), found.answers.len(), found.authority.len()), ("NOERROR", 0, 1));
        let found = ask("OrDers.SHOP.svc.cluster.LOCAL").await;
        assert_eq!(found.answers, ["OrDers.SHOP.svc.cluster.LOCAL. 30 IN A 10.96.0.7"]);
    }
    assert_eq!(server.count("answers_cluster"), 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_seen_at_once() {
    let server = start(&[]);
    let name = "orders.shop.svc.cluster.local +short";
    for last in 1..20 {
        let mut cluster = Cluster::new();
        cluster.service("orders", &format!(r#"{{"clusterIP":"10.96.0.{last}","ports":[{{"port":80}}]}}"#));
        server.zone.publish(cluster.table());
        assert_eq!(dig(server.address, name).await.text.trim(), format!("10.96.0.{last}"));
    }
    server.zone.publish(Cluster::new().table());
    assert_eq!(dig(server.address, "orders.shop.svc.cluster.local").await.status, "NXDOMAIN");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_of_a_cluster_that_is_not_known_yet() {
    let upstream = upstream(|question, _| Reply::Send(vec![nothing(question, None)])).await;
    let server = start_with(Config { upstream: vec![upstream.address], ..Config::default() }, None);
    let found = dig(server.address, "orders.shop.svc.cluster.local").await;
    assert_eq!(found.status, "SERVFAIL", "not that it does not exist");
    assert!(found.explanation.starts_with("14 (Not Ready)"), "{}", found.text);
    assert_eq!(upstream.asked(), 0);
    server.zone.publish(table());
    assert_eq!(dig(server.address, "orders.shop.svc.cluster.local").await.status, "NOERROR");
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_take_turns() {
    let server = start(&[]);
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let found = dig(server.address, "db.shop.svc.cluster.local").await;
        assert_eq!(found.answers.len(), 3);
        first.insert(found.answers[0].clone());
    }
    assert_eq!(first.len(), 3, "not everybody takes the first: {first:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_asked_for_over_tcp() {
    let server = start(&[]);
    let name = "many.shop.svc.cluster.local";
    let small = dig(server.address, &format!("{name} +noedns +ignore")).await;
    assert!(small.flags.contains(&"tc".to_owned()) && !small.answers.is_empty(), "{}", small.text);
    let larger = dig(server.address, &format!("{name} +bufsize=4096 +ignore")).await;
    assert!(larger.flags.contains(&"tc".to_owned()) && larger.answers.len() > small.answers.len(), "{}", larger.text);
    // As dig does by itself.
    let whole = dig(server.address, name).await;
    assert_eq!(whole.answers.len(), 100);
    assert!(whole.text.contains("(TCP)") || whole.text.contains("retrying in TCP mode"), "{}", whole.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_name_is_followed() {
    let upstream = upstream(|question, _| {
        assert_eq!(question.queries[0].name().to_ascii(), "www.example.com.");
        Reply::Send(vec![address(question, 60, 9)])
    })
    .await;
    let server = start(&[upstream.address]);
    let ask = async |name: &str| dig(server.address, &format!("{name}.shop.svc.cluster.local")).await;
    let found = ask("partner").await;
    let cname = "partner.shop.svc.cluster.local. 30 IN CNAME www.example.com.";
    assert_eq!(found.answers, [cname, "www.example.com. 60 IN A 192.0.2.9"], "{}", found.text);
    assert_eq!(ask("partner").await.answers.len(), 2);
    assert_eq!(upstream.asked(), 1, "the second from the cache");
    let found = ask("inside").await;
    let cname = "inside.shop.svc.cluster.local. 30 IN CNAME orders.shop.svc.cluster.local.";
    assert_eq!(found.answers, [cname, "orders.shop.svc.cluster.local. 30 IN A 10.96.0.7"]);
    let found = ask("missing").await;
    assert_eq!((found.status.as_str(), found.answers.len()), ("NXDOMAIN", 1), "the code of the last name");
    let found = ask("ring").await;
    assert_eq!(found.status, "SERVFAIL");
    assert!(found.explanation.contains("too many aliases"), "{}", found.text);
    assert_eq!(dig(server.address, "partner.shop.svc.cluster.local CNAME").await.answers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_cluster_never_leave_the_node() {
    let upstream = upstream(|question, _| Reply::Send(vec![code(question, ResponseCode::NoError)])).await;
    let server = start(&[upstream.address]);
    for name in ["", "svc.", "nothing.", "nothing.shop.svc.", "a.b.c.d.", "orders.shop.svc.", r"\000.", "*."] {
        for kind in ["A", "AAAA", "SRV", "TXT", "MX", "NS", "SOA", "PTR", "TYPE65", "DS"] {
            dig(server.address, &format!("{name}cluster.local {kind}")).await;
        }
    }
    assert_eq!(upstream.asked(), 0);
    // The control: what is not the cluster's does.
    dig(server.address, "notcluster.local").await;
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_of_questions_that_nobody_needs_are_refused() {
    let server = start(&[]);
    assert_eq!(dig(server.address, "version.bind CH TXT").await.status, "REFUSED");
    let socket = client(Ipv4Addr::LOCALHOST, server.address).await;
    for kind in [RecordType::AXFR, RecordType::IXFR, RecordType::OPT] {
        let mut transfer = question("cluster.local.");
        transfer.queries[0].set_query_type(kind);
        socket.send(&transfer.to_vec().unwrap()).await.unwrap();
        let answer = receive(&socket, PATIENCE).await.unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    }
    assert_eq!(dig(server.address, "+opcode=notify cluster.local SOA").await.status, "NOTIMP");
    assert_eq!(dig(server.address, "+edns=1 +noednsnegotiation orders.shop.svc.cluster.local").await.status, "BADVERS");
    let any = dig(server.address, "+notcp orders.shop.svc.cluster.local ANY").await;
    assert_eq!(any.answers, ["orders.shop.svc.cluster.local. 3789 IN HINFO \"RFC8482\" \"\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_domain_and_ipv6() {
    let config = Config {
        domain: "edge.example".into(),
        listen: vec!["[::1]:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()],
        ..Config::default()
    };
    let server = start_with(config, Some(table()));
    let found = dig(server.address, "orders.shop.svc.edge.example").await;
    assert_eq!(found.answers, ["orders.shop.svc.edge.example. 30 IN A 10.96.0.7"]);
    let found = dig(server.address, "edge.example NS").await;
    assert_eq!(found.additional.len(), 2, "both addresses: {}", found.text);
}
