//! Questions for the node's name servers: dnsmasq, and servers that misbehave.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use skerry_mesh_dns::{Config, ServerState};
use tokio::net::{TcpListener, UdpSocket};
use tokio::process::{Child, Command};

use crate::dig::dig;
use crate::server::{PATIENCE, loopback, start, start_with, table};
use crate::upstream::{self, Over, Reply, address, code, nothing, text, upstream};

/// dnsmasq on a port of its own, with names that it knows by itself. Ends with its handle.
async fn dnsmasq() -> (Child, SocketAddr) {
    for _ in 0..16 {
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut server = Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="])
            .args(["--user=root", "--bind-interfaces", "--listen-address=127.0.0.1", "--local=/example/"])
            .arg(format!("--port={}", address.port()))
            .args(["--host-record=www.example,192.0.2.7,2001:db8::7,300", "--cname=alias.example,www.example"])
            .args(["--mx-host=example,mail.example,10", "--auth-ttl=60", "--local-ttl=60"])
            .arg(format!("--txt-record=big.example{}", format!(",{}", "x".repeat(250)).repeat(12)))
            .kill_on_drop(true)
            .spawn()
            .expect("dnsmasq is installed: scripts/install-tools test");
        let start = Instant::now();
        while start.elapsed() < PATIENCE && server.try_wait().unwrap().is_none() {
            if dig(address, "www.example +time=1").await.status == "NOERROR" {
                return (server, address);
            }
        }
    }
    panic!("dnsmasq does not start")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_is_asked_once_for_each_name() {
    let (_dnsmasq, upstream) = dnsmasq().await;
    let server = start(&[upstream]);
    let cases = [
        ("www.example A", vec!["www.example. 300 IN A 192.0.2.7"]),
        ("www.example AAAA", vec!["www.example. 300 IN AAAA 2001:db8::7"]),
        ("alias.example A", vec!["alias.example. 60 IN CNAME www.example.", "www.example. 300 IN A 192.0.2.7"]),
        ("example MX", vec!["example. 60 IN MX 10 mail.example."]),
        ("WWW.example A", vec!["WWW.example. 300 IN A 192.0.2.7"]),
    ];
    for (question, expected) in &cases {
        let found = dig(server.address, question).await;
        let without_ttl = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            [&words[..1], &words[2..]].concat().join(" ")
        };
        let expected: Vec<_> = expected.iter().map(|line| without_ttl(line)).collect();
        let answers: Vec<_> = found.answers.iter().map(|line| without_ttl(line)).collect();
        assert_eq!(answers, expected, "{}", found.text);
        assert_eq!(found.flags, ["qr", "rd", "ra"], "not our own authority");
    }
    assert_eq!(server.count("answers_upstream"), 4);
    assert_eq!(server.count("answers_cache"), 1);
    // Three kilobytes: upstream is asked over TCP, and so are we.
    let big = dig(server.address, "big.example TXT").await;
    assert!(big.answers[0].len() > 3000 && big.text.contains("TCP"), "{}", big.text);
    assert_eq!(dig(server.address, "nothing.example").await.status, "NXDOMAIN");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_to_live_is_respected() {
    let upstream = upstream(|question, _| Reply::Send(vec![address(question, 2, 1)])).await;
    let server = start(&[upstream.address]);
    let start = Instant::now();
    let mut seen = Vec::new();
    while upstream.asked() < 2 {
        assert!(start.elapsed() < PATIENCE);
        let found = dig(server.address, "www.example").await;
        seen.push(found.answers[0].split(' ').nth(1).unwrap().parse::<u32>().unwrap());
    }
    assert!(start.elapsed() >= Duration::from_secs(2), "not before its time");
    assert!(seen.iter().all(|ttl| *ttl <= 2) && seen.contains(&1), "it grows shorter: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_kept_is_asked_for_each_time() {
    let upstream = upstream(|question, _| {
        let name = question.queries[0].name().to_ascii();
        Reply::Send(vec![match name.as_str() {
            "no-soa.example." => nothing(question, None),
            "soa.example." => nothing(question, Some(60)),
            _ => address(question, 0, 1),
        }])
    })
    .await;
    let server = start(&[upstream.address]);
    for (name, times) in [("zero.example", 3), ("no-soa.example", 3), ("soa.example", 1)] {
        let before = upstream.asked();
        for _ in 0..3 {
            dig(server.address, name).await;
        }
        assert_eq!(upstream.asked() - before, times, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_silent_does_not_hold_up_the_others() {
    let silent = upstream(|_, _| Reply::Silence).await;
    let good = upstream(|question, _| Reply::Send(vec![address(question, 60, 1)])).await;
    let server = start(&[silent.address, good.address]);
    for number in 0..3 {
        let found = dig(server.address, &format!("n{number}.example")).await;
        assert_eq!(found.status, "NOERROR", "{}", found.text);
    }
    let states: Vec<_> = server.handle.servers().iter().map(|server| server.state).collect();
    assert_eq!(states, [ServerState::Down, ServerState::Up]);
    let asked = silent.asked();
    dig(server.address, "later.example").await;
    assert_eq!(silent.asked(), asked, "one that is down is asked last");
    assert!(server.count("upstream_failures") >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_help_is_not_the_last_word() {
    let lame = upstream(|question, _| Reply::Send(vec![code(question, ResponseCode::ServFail)])).await;
    let good = upstream(|question, _| Reply::Send(vec![address(question, 60, 1)])).await;
    let server = start(&[lame.address, good.address]);
    assert_eq!(dig(server.address, "www.example").await.status, "NOERROR");
    let states: Vec<_> = server.handle.servers().iter().map(|server| server.state).collect();
    assert_eq!(states, [ServerState::Up, ServerState::Up], "it answers: it is not down");
    // When nobody can help, that is what the client hears, at once.
    let server = start(&[lame.address]);
    assert_eq!(dig(server.address, "www.example").await.status, "SERVFAIL");
    assert_eq!(server.count("upstream_refusals"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_packet_is_sent_again() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let upstream = upstream(move |question, _| match first.swap(false, std::sync::atomic::Ordering::SeqCst) {
        true => Reply::Silence,
        false => Reply::Send(vec![address(question, 60, 1)]),
    })
    .await;
    let server = start(&[upstream.address]);
    assert_eq!(dig(server.address, "www.example").await.status, "NOERROR");
    assert_eq!(server.handle.servers()[0].state, ServerState::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_questions_are_asked_once() {
    let upstream = upstream(|question, _| Reply::After(Duration::from_millis(300), address(question, 60, 1))).await;
    let server = start(&[upstream.address]);
    let questions = (0..40).map(|_| dig(server.address, "www.example"));
    for found in futures::future::join_all(questions).await {
        assert_eq!(found.answers.len(), 1, "{}", found.text);
    }
    assert_eq!(upstream.asked(), 1);
    assert_eq!(server.count("coalesced") + server.count("answers_cache"), 39);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_does_not_know_edns_is_asked_without() {
    let upstream = upstream(|question, _| {
        Reply::Send(vec![match question.edns {
            Some(_) => code(question, ResponseCode::FormErr),
            None => address(question, 60, 1),
        }])
    })
    .await;
    let server = start(&[upstream.address]);
    assert_eq!(dig(server.address, "www.example").await.status, "NOERROR");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_answer_is_ignored() {
    let upstream = upstream(|question, _| {
        let mut other_id = address(question, 60, 66);
        other_id.metadata.id = other_id.metadata.id.wrapping_add(1);
        let mut other_name = address(question, 60, 67);
        other_name.queries[0].set_name("other.example.".parse().unwrap());
        let mut no_answer = address(question, 60, 68);
        no_answer.metadata.message_type = hickory_proto::op::MessageType::Query;
        Reply::Send(vec![other_id, other_name, no_answer, address(question, 60, 1)])
    })
    .await;
    let server = start(&[upstream.address]);
    let found = dig(server.address, "www.example").await;
    assert_eq!(found.answers, ["www.example. 60 IN A 192.0.2.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_sends_beside_the_answer_does_not_stay() {
    let upstream = upstream(|question, _| {
        let mut answer = address(question, 60, 1);
        let mut other = answer.answers[0].clone();
        other.name = "orders.shop.svc.cluster.local.".parse().unwrap();
        answer.add_additional(other.clone());
        other.name = "bank.example.".parse().unwrap();
        answer.add_additional(other);
        Reply::Send(vec![answer])
    })
    .await;
    let server = start(&[upstream.address]);
    dig(server.address, "www.example").await;
    assert_eq!(
        dig(server.address, "orders.shop.svc.cluster.local").await.answers[0].split(' ').next_back(),
        Some("10.96.0.7")
    );
    let asked = upstream.asked();
    dig(server.address, "bank.example").await;
    assert_eq!(upstream.asked(), asked + 1, "it was not believed");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_come_over_tcp() {
    let upstream = upstream(|question, over| {
        let mut short = code(question, ResponseCode::NoError);
        short.metadata.truncation = true;
        Reply::Send(vec![if over == Over::Udp { short } else { text(question, 100) }])
    })
    .await;
    let server = start(&[upstream.address]);
    assert!(dig(server.address, "www.example TXT").await.answers[0].len() > 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_the_answer_says_so() {
    let server = start(&[]);
    let found = dig(server.address, "www.example").await;
    assert_eq!(found.status, "SERVFAIL");
    assert!(found.explanation.contains("this node has no name server"), "{}", found.text);
    assert_eq!(dig(server.address, "orders.shop.svc.cluster.local").await.status, "NOERROR");
}

#[tokio::test(flavor = "multi_thread")]
async fn resolv_conf_is_followed() {
    let at = |last: u8| loopback(last, 53);
    let serve = async |last: u8| {
        let udp = UdpSocket::bind(at(last)).await.expect("root may bind port 53");
        let tcp = TcpListener::bind(at(last)).await.unwrap();
        upstream::serve(udp, tcp, move |question, _| Reply::Send(vec![address(question, 0, last)]))
    };
    let (_first, _second) = (serve(1).await, serve(2).await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    let server = start_with(Config { resolv_conf: path.clone(), ..Config::default() }, Some(table()));
    for last in [1, 2] {
        std::fs::write(&path, format!("search lan\nnameserver {}\n# {}\n", at(last).ip(), "x".repeat(last.into())))
            .unwrap();
        let begin = Instant::now();
        loop {
            let found = dig(server.address, "www.example").await;
            if found.answers == [format!("www.example. 0 IN A 192.0.2.{last}")] {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{}", found.text);
        }
    }
    assert_eq!(server.handle.servers().len(), 1);
}
