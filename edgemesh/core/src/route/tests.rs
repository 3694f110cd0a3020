//! The router over real tables: who is offered, what counts, what a change does.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use skerry_common::{NodeName, kinds};

use super::*;
use crate::table::{Filter, TableBuilder};

struct Setup {
    builder: TableBuilder,
    router: Router,
    now: Instant,
    turn: u64,
}

impl Setup {
    fn new() -> Self {
        let builder = TableBuilder::new(NodeName::parse("edge-1").unwrap(), Filter::default());
        let router = Router::new(builder.snapshot(), Defaults::default());
        let mut setup = Self { builder, router, now: Instant::now(), turn: 0 };
        let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80, "nodePort": 30080}]});
        setup.put(kinds::SERVICE, &json!({ "spec": spec }));
        setup.endpoints(&[(1, "edge-1"), (2, "edge-2"), (3, "edge-3")]);
        setup
    }

    fn put(&mut self, kind: &str, object: &Value) {
        self.builder.upsert(kind, &Key::new("shop", "web"), object.to_string().as_bytes()).unwrap();
        self.router.set_table(self.builder.snapshot());
    }

    fn endpoints(&mut self, list: &[(u8, &str)]) {
        let list: Vec<_> =
            list.iter().map(|(i, node)| json!({"addresses": [format!("10.1.0.{i}")], "nodeName": node})).collect();
        self.put(
            kinds::ENDPOINT_SLICE,
            &json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
                "ports": [{"port": 8080}], "endpoints": list}),
        );
    }

    fn rule(&mut self, policy: &Value) {
        self.put(kinds::DESTINATION_RULE, &json!({"spec": {"host": "web", "trafficPolicy": policy}}));
    }

    fn ask(&mut self, destination: &str, client: &str, seen: &[u8], more: bool) -> Route {
        let ask = Ask {
            protocol: Protocol::Tcp,
            client: client.parse().unwrap(),
            destination: destination.parse().unwrap(),
            own_address: destination.starts_with("192.0.2.1:"),
            seen,
            more,
        };
        self.turn += 1;
        self.router.route(&ask, self.now, self.turn)
    }

    fn plan(&mut self) -> Plan {
        match self.ask("10.96.0.1:80", "10.1.0.9:4000", b"", false) {
            Route::Serve(plan) => plan,
            other => panic!("{other:?}"),
        }
    }

    fn active(&self) -> Vec<u32> {
        self.router.status(&Key::new("shop", "web"), self.now).iter().map(|(_, status)| status.active).collect()
    }
}

fn refused(route: Route) -> Unserved {
    match route {
        Route::Refuse(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_endpoint_is_dialled_here_or_through_the_tunnel_to_its_node() {
    let mut setup = Setup::new();
    let ways = |setup: &mut Setup| {
        let mut ways: Vec<_> =
            setup.plan().choices.iter().map(|c| (c.endpoint.address.to_string(), c.way.clone())).collect();
        ways.sort_by(|a, b| a.0.cmp(&b.0));
        ways.into_iter().map(|(_, way)| way).collect::<Vec<_>>()
    };
    assert_eq!(ways(&mut setup), [Way::Direct, Way::Tunnel("edge-2".into()), Way::Tunnel("edge-3".into())]);
    // Near is not enough: the way must have been verified.
    let lan = Neighbours { lan: ["edge-2".into()].into(), ..Neighbours::default() };
    setup.router.set_neighbours(lan.clone());
    assert_eq!(ways(&mut setup)[1], Way::Tunnel("edge-2".into()));
    setup.router.set_neighbours(Neighbours { routable: ["edge-2".into()].into(), ..lan });
    assert_eq!(ways(&mut setup), [Way::Direct, Way::Direct, Way::Tunnel("edge-3".into())]);
}

#[test]
fn neighbours_change_tiers_without_a_change_of_the_service() {
    let mut setup = Setup::new();
    setup.endpoints(&[(2, "edge-2"), (3, "edge-3")]);
    setup.rule(&json!({"loadBalancer": {"localityLbSetting": {"enabled": true}}}));
    let firsts = |setup: &mut Setup| -> BTreeSet<u16> {
        (0..4).map(|_| setup.plan().choices[0].endpoint.address.to_string().as_bytes()[7].into()).collect()
    };
    assert_eq!(firsts(&mut setup).len(), 2);
    setup.router.set_neighbours(Neighbours { lan: ["edge-3".into()].into(), ..Neighbours::default() });
    assert_eq!(firsts(&mut setup), [u16::from(b'3')].into());
}

#[test]
fn what_cannot_be_served_says_why() {
    let mut setup = Setup::new();
    for (destination, wanted) in [
        ("10.96.0.1:81", Unserved::NoService),
        ("10.96.0.2:80", Unserved::NoService),
        ("192.0.2.9:30080", Unserved::NoService),
        ("192.0.2.1:30081", Unserved::NoService),
    ] {
        assert_eq!(refused(setup.ask(destination, "10.1.0.9:1", b"", false)), wanted, "{destination}");
    }
    assert!(matches!(setup.ask("192.0.2.1:30080", "10.1.0.9:1", b"", false), Route::Serve(_)));
    setup.rule(&json!({"connectionPool": {"tcp": {"maxConnections": 1}}}));
    let held: Vec<_> = (0..3).map(|_| setup.plan()).collect();
    let full = setup.ask("10.96.0.1:80", "10.1.0.9:1", b"", false);
    assert_eq!(refused(full), Unserved::Exhausted);
    drop(held);
    setup.plan();
    setup.endpoints(&[]);
    assert_eq!(refused(setup.ask("10.96.0.1:80", "10.1.0.9:1", b"", false)), Unserved::NoEndpoint);
}

#[test]
fn source_ranges_hold_for_load_balancer_addresses_only() {
    let mut setup = Setup::new();
    let object = json!({"spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}],
            "loadBalancerSourceRanges": ["198.51.100.0/24"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
    setup.put(kinds::SERVICE, &object);
    let ask = |setup: &mut Setup, to, from| setup.ask(to, from, b"", false);
    assert!(matches!(ask(&mut setup, "203.0.113.1:80", "198.51.100.7:1"), Route::Serve(_)));
    assert_eq!(refused(ask(&mut setup, "203.0.113.1:80", "198.51.101.7:1")), Unserved::Denied);
    assert!(matches!(ask(&mut setup, "10.96.0.1:80", "198.51.101.7:1"), Route::Serve(_)));
}

#[test]
fn a_header_is_waited_for_only_if_it_can_come() {
    let mut setup = Setup::new();
    setup.rule(&json!({"loadBalancer": {"consistentHash": {"httpHeaderName": "User-Agent"}}}));
    let first = |route: Route| match route {
        Route::Serve(plan) => plan.choices[0].endpoint.address,
        other => panic!("{other:?}"),
    };
    let ask = |setup: &mut Setup, seen: &[u8], more| setup.ask("10.96.0.1:80", "10.1.0.9:1", seen, more);
    assert!(matches!(ask(&mut setup, b"", true), Route::Peek));
    assert!(matches!(ask(&mut setup, b"GET / HTTP/1.1\r\nHost: a\r\n", true), Route::Peek));
    // The client says no more, or what is no HTTP.
    first(ask(&mut setup, b"GET / HTTP/1.1\r\n", false));
    first(ask(&mut setup, b"SSH-2.0-x\r\n", true));
    let request = |agent: &str| format!("GET / HTTP/1.1\r\nUser-Agent: {agent}\r\n\r\n").into_bytes();
    let same: BTreeSet<_> = (0..10).map(|_| first(ask(&mut setup, &request("curl"), true))).collect();
    assert_eq!(same.len(), 1);
    let agents = (0..50).map(|i| first(ask(&mut setup, &request(&format!("agent-{i}")), true)));
    assert_eq!(agents.collect::<BTreeSet<_>>().len(), 3);
}

#[test]
fn a_connection_counts_for_one_endpoint_until_it_is_over() {
    let mut setup = Setup::new();
    let plan = setup.plan();
    let first = plan.choices[0].endpoint.address;
    assert_eq!(setup.active().iter().sum::<u32>(), 1);
    plan.choices[0].failed(setup.now);
    assert_eq!(setup.active(), [0, 0, 0]);
    plan.choices[1].connected(setup.now, Duration::from_millis(1));
    assert_eq!(setup.active().iter().sum::<u32>(), 1);
    // The endpoint leaves and comes back meanwhile.
    setup.endpoints(&[]);
    setup.endpoints(&[(1, "edge-1"), (2, "edge-2"), (3, "edge-3")]);
    let again = setup.plan();
    assert_eq!(setup.active().iter().sum::<u32>(), 2);
    drop(again);
    plan.choices[1].closed(setup.now, Duration::from_secs(5), false);
    assert_eq!(setup.active(), [0, 0, 0]);
    assert_ne!(plan.choices[1].endpoint.address, first);
    // A task that is cancelled in any place leaves nothing behind.
    drop(setup.plan());
    let plan = setup.plan();
    plan.choices[0].connected(setup.now, Duration::ZERO);
    let in_flight = plan.choices[0].clone();
    drop(plan);
    assert_eq!(setup.active().iter().sum::<u32>(), 1);
    drop(in_flight);
    assert_eq!(setup.active(), [0, 0, 0]);
}

#[test]
fn an_endpoint_that_breaks_connections_off_at_once_is_left_alone() {
    let mut setup = Setup::new();
    for _ in 0..30 {
        let plan = setup.plan();
        let choice = &plan.choices[0];
        let bad = choice.endpoint.address.ip().to_string() == "10.1.0.2";
        choice.connected(setup.now, Duration::ZERO);
        choice.closed(setup.now, Duration::from_millis(if bad { 1 } else { 500 }), bad);
    }
    let status = setup.router.status(&Key::new("shop", "web"), setup.now);
    let ejected: Vec<_> = status.iter().map(|(_, status)| status.ejected_until.is_some()).collect();
    assert_eq!(ejected, [false, true, false]);
    assert!((0..9).all(|_| setup.plan().choices[0].endpoint.address.ip().to_string() != "10.1.0.2"));
}

#[test]
fn balancers_of_services_that_are_gone_are_gone() {
    let mut setup = Setup::new();
    let plan = setup.plan();
    setup.ask("192.0.2.1:30080", "10.1.0.9:1", b"", false);
    assert_eq!(setup.router.slots.read().unwrap().len(), 2);
    setup.builder.delete(kinds::SERVICE, &Key::new("shop", "web"));
    setup.router.set_table(setup.builder.snapshot());
    assert!(setup.router.slots.read().unwrap().is_empty());
    // Its connections end as they like.
    plan.choices[0].connected(setup.now, Duration::ZERO);
    plan.choices[0].closed(setup.now, Duration::ZERO, true);
}

#[test]
fn the_rule_s_limits_and_proxy_header_come_with_the_plan() {
    let mut setup = Setup::new();
    assert_eq!((setup.plan().pool, setup.plan().proxy_protocol), (ConnectionPool::default(), None));
    setup.rule(&json!({"proxyProtocol": {"version": "V2"}, "connectionPool": {"tcp": {"connectTimeout": "2s"}}}));
    let plan = setup.plan();
    assert_eq!(plan.pool.connect_timeout, Some(Duration::from_secs(2)));
    assert_eq!(plan.proxy_protocol, Some(ProxyProtocol::V2));
}

proptest! {
    /// Whatever tasks do with their choices, in whatever order: when all are gone nothing counts.
    #[test]
    fn nothing_counts_when_all_is_over(steps in prop::collection::vec((0..7u8, 0..4usize, 0..6usize), 1..60)) {
        let mut setup = Setup::new();
        let mut open: Vec<Plan> = Vec::new();
        for (step, choice, at) in steps {
            let at = at % open.len().max(1);
            match (step, open.get(at)) {
                (0 | 1, _) => if let Route::Serve(plan) = setup.ask("10.96.0.1:80", "10.1.0.9:1", b"", false) {
                    open.push(plan);
                },
                (2, Some(plan)) => plan.choices.get(choice).into_iter().for_each(|c| c.failed(setup.now)),
                (3, Some(plan)) => plan.choices.get(choice).into_iter().for_each(|c| c.connected(setup.now, Duration::ZERO)),
                (4, Some(plan)) => {
                    let closed = |c: &Choice| c.closed(setup.now, Duration::from_millis(10), choice == 0);
                    plan.choices.get(choice).into_iter().for_each(closed);
                }
                (5, Some(_)) => drop(open.swap_remove(at)),
                (6, _) => {
                    let all = [(1, "edge-1"), (2, "edge-2"), (3, "edge-3")];
                    setup.endpoints(&all[..choice]);
                    setup.now += Duration::from_secs(1);
                }
                _ => {}
            }
            prop_assert!(setup.active().iter().sum::<u32>() as usize <= open.len());
        }
        drop(open);
        prop_assert!(setup.active().iter().all(|active| *active == 0));
    }
}
