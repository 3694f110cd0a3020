//! The table itself: installed, changed, damaged, repaired and removed, among the rules of others.

use std::cell::RefCell;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use skerry_mesh_netfilter::{Change, Config, Error, Netfilter, Protocol, Slot, State};

use crate::lab::{Lab, nft, rules, run};
use crate::services::{config, frontend, service};

/// Rules of others, some of them with names like ours.
const FOREIGN: &str = "
table ip nat {
    chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; }
    chain KUBE-SERVICES {
        ip daddr 10.96.0.10 udp dport 53 dnat to 10.244.0.2:53
    }
}
table inet firewall {
    set allowed {
        type ipv4_addr
        flags interval
        elements = { 10.0.0.0/8 }
    }
    chain input {
        type filter hook input priority filter; policy accept;
        ip saddr @allowed accept
    }
}
table ip skerry-mesh {
    chain services {
        counter
    }
}
table ip6 skerry {
    map slots6 {
        type ipv6_addr : ipv6_addr
        elements = { fd00::1 : fd00::2 }
    }
}
";

fn many(services: u16, shift: u16) -> State {
    let mut state = State::default();
    for at in 0..services {
        let vip = format!("10.96.{}.{}", at / 250, at % 250 + 1);
        let backends: Vec<String> =
            (0..5).map(|slot| format!("10.{}.{}.{}:8080", slot, at / 250, (at + shift) % 250 + 1)).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        state.insert(frontend(&vip, Protocol::Tcp, 80), service(&backends)).unwrap();
    }
    state
}

#[tokio::test]
async fn installed_and_removed_twice_everything_is_as_before() {
    let _lab = Lab::new();
    for table in ["nat", "filter", "mangle"] {
        for program in ["iptables", "ip6tables"] {
            run(program, &format!("-t {table} -N OTHERS"));
            run(program, &format!("-t {table} -A OTHERS -p tcp --dport 80 -j ACCEPT"));
        }
    }
    nft(FOREIGN);
    let before = rules();
    for _ in 0..2 {
        let mut netfilter = Netfilter::open(config()).await.unwrap();
        assert_eq!(rules(), before, "opening changes nothing");
        netfilter.apply(many(20, 0)).await.unwrap();
        netfilter.apply(many(10, 3)).await.unwrap();
        let with = rules();
        assert!(with.contains("table inet skerry-mesh"));
        let own = run("nft", "list table inet skerry-mesh");
        assert_eq!(with.replace(&own, ""), before, "rules of others are touched");
        netfilter.remove().await.unwrap();
        assert_eq!(rules(), before);
    }
    // There is nothing to remove, and that is no error.
    Netfilter::open(config()).await.unwrap().remove().await.unwrap();
    assert_eq!(rules(), before);
}

#[tokio::test]
async fn two_agents_are_never_at_it_at_once() {
    let lab = Lab::new();
    let netfilter = Netfilter::open(config()).await.unwrap();
    match Netfilter::open(config()).await {
        Err(Error::Taken { pid }) => assert_eq!(pid, i32::try_from(std::process::id()).unwrap()),
        other => panic!("{other:?}"),
    }
    // Another network namespace is another machine.
    lab.lan().run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { Netfilter::open(config()).await.unwrap() });
    });
    drop(netfilter);
    Netfilter::open(config()).await.unwrap();
}

#[tokio::test]
async fn five_hundred_services_change_by_elements() {
    let _lab = Lab::new();
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    netfilter.apply(many(500, 0)).await.unwrap();
    for shift in 1..=5 {
        assert_eq!(netfilter.apply(many(500, shift)).await.unwrap(), Change::Updated);
    }
    assert_eq!(netfilter.verify().await.unwrap(), Change::None);
    assert_eq!(netfilter.apply(many(3, 1)).await.unwrap(), Change::Updated);
    assert_eq!(netfilter.verify().await.unwrap(), Change::None);
}

#[tokio::test]
async fn damage_is_found_and_repaired() {
    let _lab = Lab::new();
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    let want = many(20, 0);
    netfilter.apply(want.clone()).await.unwrap();
    let words = || {
        // In whatever order the kernel has its elements.
        let text = run("nft", "list table inet skerry-mesh").replace(',', " ");
        let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        words.sort();
        words
    };
    let whole = words();
    let list = |map: &str| run("nft", &format!("list map inet skerry-mesh {map}"));
    for (damage, change) in [
        ("flush map inet skerry-mesh slots4", Change::Updated),
        ("delete element inet skerry-mesh services4 { 10.96.0.1 . tcp . 80 }", Change::Updated),
        ("add element inet skerry-mesh slots4 { 10.96.0.99 . tcp . 80 . 0 : 10.9.9.9 . 80 }", Change::Updated),
        ("flush chain inet skerry-mesh postrouting", Change::Rebuilt),
        ("flush chain inet skerry-mesh vip-all-any-5", Change::Rebuilt),
        ("insert rule inet skerry-mesh prerouting accept", Change::Rebuilt),
        ("add chain inet skerry-mesh mine", Change::Rebuilt),
        ("add set inet skerry-mesh mine { type ipv4_addr; }", Change::Rebuilt),
        ("delete table inet skerry-mesh", Change::Rebuilt),
        ("flush ruleset", Change::Rebuilt),
    ] {
        nft(damage);
        assert_eq!(netfilter.verify().await.unwrap(), change, "{damage}");
        assert_eq!(netfilter.verify().await.unwrap(), Change::None, "{damage}");
        assert_eq!(words(), whole, "{damage}");
    }
    // Found while changing, not looking: the change does not fit, so all of it is looked at.
    nft("flush map inet skerry-mesh slots4");
    netfilter.apply(many(20, 1)).await.unwrap();
    assert_eq!(netfilter.verify().await.unwrap(), Change::None);
    assert!(list("slots4").contains("10.96.0.20 . tcp . 80 . 4"));
    nft("delete table inet skerry-mesh");
    assert_eq!(netfilter.apply(many(20, 2)).await.unwrap(), Change::Rebuilt);
}

#[tokio::test]
async fn a_table_of_another_configuration_is_made_anew() {
    let _lab = Lab::new();
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    netfilter.apply(many(3, 0)).await.unwrap();
    drop(netfilter);
    let other = Config { inside: vec!["10.0.0.0/8".parse().unwrap()], ..Config::default() };
    let mut netfilter = Netfilter::open(other).await.unwrap();
    assert_eq!(netfilter.apply(many(3, 0)).await.unwrap(), Change::Rebuilt);
    drop(netfilter);
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    assert_eq!(netfilter.apply(many(3, 0)).await.unwrap(), Change::Rebuilt);
}

#[tokio::test]
async fn a_call_that_is_cut_off_leaves_one_of_both_states() {
    let _lab = Lab::new();
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    netfilter.apply(many(300, 0)).await.unwrap();
    for round in 1..=8_u16 {
        // Cut at more and more of its steps.
        let cut = {
            let apply = netfilter.apply(many(300, round));
            tokio::pin!(apply);
            let mut done = None;
            for _ in 0..round {
                tokio::select! {
                    biased;
                    result = &mut apply => { done = Some(result); break; }
                    () = tokio::task::yield_now() => {}
                }
            }
            done.is_none()
        };
        let change = netfilter.apply(many(300, round)).await.unwrap();
        assert!(cut || change == Change::None);
        assert_ne!(change, Change::Rebuilt, "the table was whole all the time");
        assert_eq!(netfilter.verify().await.unwrap(), Change::None);
    }
}

#[tokio::test]
async fn nft_killed_in_the_middle_changes_nothing_or_all() {
    let _lab = Lab::new();
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    netfilter.apply(many(2, 0)).await.unwrap();
    let before = run("nft", "list table inet skerry-mesh");
    // A transaction of which only half arrives, from a process that dies before its end.
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"flush map inet skerry-mesh slots4\n").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(run("nft", "list table inet skerry-mesh"), before);
    assert_eq!(netfilter.verify().await.unwrap(), Change::None);
}

/// What the model says in `src/nft/tests.rs`, said by the kernel: whatever the history, what is read back is the state.
#[test]
fn every_history_ends_in_its_last_state() {
    let _lab = Lab::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ports = Some(skerry_mesh_netfilter::ProxyPorts { tcp: 20_007, udp: 20_008 });
    let config = Config { proxy: ports, ..config() };
    let netfilter = RefCell::new(runtime.block_on(Netfilter::open(config)).unwrap());
    let entry = (0..6_usize, 0..3_usize, 80..82_u16, prop::collection::vec(0..5_u8, 0..5), 0..3_u64, any::<bool>());
    let history = prop::collection::vec(entry, 0..10);
    let mut runner = TestRunner::new(ProptestConfig { cases: 25, failure_persistence: None, ..Default::default() });
    let apply = |entries: Vec<(usize, usize, u16, Vec<u8>, u64, bool)>| {
        let mut want = State::default();
        for (at, protocol, port, backends, affinity, local) in entries {
            let at = ["10.96.0.1", "10.96.0.2", "fd96::1", "fd96::2", "node", "node6"][at];
            let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][protocol];
            let v6 = at.contains('6') && !at.contains('.');
            let slot = |backend: &u8| match backend {
                0 if protocol != Protocol::Sctp => Slot::Proxy,
                at if v6 => Slot::Backend(format!("[fd44::{}]:80", at + 1).parse().unwrap()),
                at => Slot::Backend(format!("10.0.0.{}:80", at + 1).parse().unwrap()),
            };
            let slots: Vec<Slot> = backends.iter().map(slot).collect();
            let local = local.then(|| slots.iter().copied().take(1).collect());
            let affinity = (affinity > 0).then(|| std::time::Duration::from_secs(affinity));
            let service = skerry_mesh_netfilter::Service { slots, local, affinity };
            want.insert(frontend(at, protocol, port), service).unwrap();
        }
        want
    };
    runner
        .run(&history, |entries| {
            let mut netfilter = netfilter.borrow_mut();
            runtime.block_on(netfilter.apply(apply(entries))).unwrap();
            assert_eq!(runtime.block_on(netfilter.verify()).unwrap(), Change::None);
            Ok(())
        })
        .unwrap();
    runtime.block_on(netfilter.into_inner().remove()).unwrap();
}
