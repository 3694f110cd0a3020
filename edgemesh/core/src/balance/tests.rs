//! What is chosen, policy by policy, and what failures do. By hand; see `property_tests.rs` for the rest.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::rule::{HashKey, OutlierDetection};
use crate::table::{Host, Node};

fn endpoint(i: u8) -> Endpoint {
    let host = Host {
        ip: IpAddr::from([10, 1, 0, i]),
        hostname: None,
        node: Some(format!("edge-{i}").into()),
        zone: None,
        pod: None,
        zone_hints: vec![],
        node_hints: vec![],
        ready: true,
        serving: true,
        terminating: false,
    };
    Endpoint { address: SocketAddr::new(host.ip, 80), host: Arc::new(host) }
}

fn address(i: u8) -> SocketAddr {
    endpoint(i).address
}

fn candidates(tiers: &[Tier]) -> Vec<Candidate> {
    let candidate = |(i, tier): (usize, &Tier)| Candidate { endpoint: endpoint(i as u8), tier: *tier, weight: 1 };
    tiers.iter().enumerate().map(candidate).collect()
}

fn balancer(policy: Policy, count: usize) -> Balancer {
    let settings = Settings { policy, ..Settings::default() };
    let mut balancer = Balancer::new(settings.clone());
    balancer.update(settings, candidates(&vec![Tier::Rest; count]));
    balancer
}

fn client(i: u32) -> Client<'static> {
    Client { ip: IpAddr::V4(i.into()), header: None }
}

/// The order as last bytes of the addresses.
fn order(chosen: &[Endpoint]) -> Vec<u8> {
    chosen
        .iter()
        .map(|endpoint| endpoint.address.to_string().split(['.', ':']).nth(3).unwrap().parse().unwrap())
        .collect()
}

/// How often each endpoint is first.
fn shares(balancer: &mut Balancer, turns: u64, now: Instant) -> BTreeMap<u8, u64> {
    let mut shares = BTreeMap::new();
    for i in 0..turns {
        let chosen = balancer.choose(client(i as u32), now, choose::mix(i));
        *shares.entry(order(&chosen)[0]).or_default() += 1;
    }
    shares
}

#[test]
fn round_robin_takes_turns_by_weight() {
    let now = Instant::now();
    let mut even = balancer(Policy::RoundRobin, 3);
    let turns: Vec<_> = (0..6).map(|i| order(&even.choose(client(i), now, 7))[0]).collect();
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    let mut list = candidates(&[Tier::Rest; 3]);
    list[1].weight = 3;
    even.update(Settings::default(), list);
    assert_eq!(shares(&mut even, 500, now), [(0, 100), (1, 300), (2, 100)].into());
}

#[test]
fn chance_follows_weights_and_needs_no_state() {
    let now = Instant::now();
    let mut random = balancer(Policy::Random, 3);
    let mut list = candidates(&[Tier::Rest; 3]);
    list[2].weight = 2;
    random.update(Settings { policy: Policy::Random, ..Settings::default() }, list);
    let shares = shares(&mut random, 8_000, now);
    for (i, wanted) in [(0, 2_000), (1, 2_000), (2, 4_000)] {
        assert!(shares[&i].abs_diff(wanted) < 200, "{shares:?}");
    }
    assert_eq!(random.choose(client(1), now, 42), random.choose(client(2), now, 42));
}

#[test]
fn the_less_busy_and_the_faster_are_preferred() {
    let now = Instant::now();
    let mut least = balancer(Policy::LeastRequest, 3);
    for i in 0..30 {
        let at = least.choose(client(1), now, choose::mix(i)).first().unwrap().address;
        least.begin(at, now);
    }
    let active: Vec<_> = least.status(now).iter().map(|status| status.active).collect();
    assert!(active.iter().all(|active| (8..=12).contains(active)), "{active:?}");
    // Idle ones are all used, one after the other, also where there are two.
    let mut two = balancer(Policy::LeastRequest, 2);
    assert!(shares(&mut two, 1_000, now).values().all(|share| *share > 400));
    two.connected(address(0), client(1).ip, now, Duration::from_secs(2));
    two.connected(address(1), client(1).ip, now, Duration::from_millis(1));
    assert_eq!(shares(&mut two, 100, now), [(1, 100)].into());
}

#[test]
fn who_takes_seconds_to_answer_gets_a_small_share_until_it_is_fast_again() {
    let now = Instant::now();
    for policy in [Policy::RoundRobin, Policy::Random] {
        let mut balancer = balancer(policy, 3);
        for i in 0..3 {
            balancer.connected(address(i), client(1).ip, now, Duration::from_millis(if i == 1 { 3_000 } else { 2 }));
        }
        let slow = shares(&mut balancer, 1_700, now)[&1];
        assert!((60..=140).contains(&slow), "{slow}");
        // An old measurement is forgotten.
        let later = now + Duration::from_secs(60);
        assert!(shares(&mut balancer, 900, later)[&1] > 200);
    }
}

#[test]
fn the_same_client_has_the_same_endpoint_and_moves_only_if_it_goes() {
    let now = Instant::now();
    let policy = Policy::ConsistentHash(HashKey::SourceIp);
    let mut hash = balancer(policy.clone(), 5);
    let first = |hash: &mut Balancer, i| order(&hash.choose(client(i), now, u64::from(i)))[0];
    let before: Vec<_> = (0..1_000).map(|i| first(&mut hash, i)).collect();
    // Whatever the random number, and without an endpoint that comes or goes.
    assert_eq!(before, (0..1_000).map(|i| first(&mut hash, i)).collect::<Vec<_>>());
    let mut list = candidates(&[Tier::Rest; 5]);
    list.remove(3);
    hash.update(Settings { policy, ..Settings::default() }, list);
    for (i, before) in before.iter().enumerate() {
        let after = first(&mut hash, i as u32);
        assert!(if *before == 3 { after != 3 } else { after == *before });
    }
    let mut counts = BTreeMap::<u8, u32>::new();
    before.iter().for_each(|at| *counts.entry(*at).or_default() += 1);
    assert!(counts.values().all(|count| (140..=260).contains(count)), "{counts:?}");
}

#[test]
fn a_hot_key_spills_over_when_its_endpoint_has_more_than_its_share() {
    let now = Instant::now();
    let mut hash = balancer(Policy::ConsistentHash(HashKey::Header("x".into())), 4);
    let hot = Client { ip: client(1).ip, header: Some(b"hot") };
    for _ in 0..100 {
        let at = hash.choose(hot, now, 1).first().unwrap().address;
        hash.begin(at, now);
    }
    let active: Vec<_> = hash.status(now).iter().map(|status| status.active).collect();
    assert_eq!(active.iter().sum::<u32>(), 100);
    // 1.25 times a share of 25, rounded up.
    assert!(active.iter().all(|active| *active <= 32), "{active:?}");
    // Without the header: in turn.
    assert_eq!(shares(&mut balancer(Policy::ConsistentHash(HashKey::Header("x".into())), 2), 10, now)[&0], 5);
}

#[test]
fn a_client_stays_with_its_endpoint_until_it_was_silent_too_long() {
    let now = Instant::now();
    let settings = Settings { affinity: Some(Duration::from_secs(60)), ..Settings::default() };
    let mut sticky = Balancer::new(settings.clone());
    sticky.update(settings.clone(), candidates(&[Tier::Rest; 4]));
    let first = |sticky: &mut Balancer, now| order(&sticky.choose(client(1), now, 0))[0];
    let at = first(&mut sticky, now);
    for second in 1..100 {
        sticky.choose(client(second), now, 0);
        assert_eq!(first(&mut sticky, now + Duration::from_secs(u64::from(second))), at);
    }
    // Another endpoint answered: it is that one from now on.
    let other = (at + 1) % 4;
    sticky.connected(address(other), client(1).ip, now + Duration::from_secs(100), Duration::ZERO);
    assert_eq!(first(&mut sticky, now + Duration::from_secs(101)), other);
    // It goes: another one, which stays.
    let mut list = candidates(&[Tier::Rest; 4]);
    list.remove(usize::from(other));
    sticky.update(settings, list);
    let next = first(&mut sticky, now + Duration::from_secs(102));
    assert_ne!(next, other);
    assert_eq!(first(&mut sticky, now + Duration::from_secs(103)), next);
}

#[test]
fn near_ones_come_first_and_far_ones_after_them() {
    let now = Instant::now();
    let settings = Settings { nearest_first: true, ..Settings::default() };
    let mut balancer = Balancer::new(settings.clone());
    balancer.update(settings.clone(), candidates(&[Tier::Rest, Tier::Lan, Tier::Zone, Tier::Node, Tier::Lan]));
    let orders: Vec<_> = (0..2).map(|i| order(&balancer.choose(client(i), now, 3))).collect();
    assert_eq!(orders[0][0], 3);
    assert_eq!(orders[0][3], 2);
    assert!(orders[0][1..3] == [1, 4] || orders[0][1..3] == [4, 1]);
    // The near one is full: the LAN, in turn.
    let full = Settings { max_connections: Some(1), ..settings };
    balancer.update(full, candidates(&[Tier::Rest, Tier::Lan, Tier::Zone, Tier::Node, Tier::Lan]));
    balancer.begin(address(3), now);
    let firsts: Vec<_> = (0..4).map(|i| order(&balancer.choose(client(i), now, 3))[0]).collect();
    assert_eq!(firsts.iter().filter(|at| **at == 1).count(), 2);
    assert_eq!(firsts.iter().filter(|at| **at == 4).count(), 2);
    balancer.end(address(3));
    assert_eq!(order(&balancer.choose(client(1), now, 3))[0], 3);
}

#[test]
fn failures_in_a_row_eject_for_longer_each_time() {
    let rules = OutlierDetection { consecutive_failures: 2, ..OutlierDetection::default() };
    let settings = Settings { outliers: rules, ..Settings::default() };
    let mut balancer = Balancer::new(settings.clone());
    balancer.update(settings, candidates(&[Tier::Rest; 2]));
    let mut now = Instant::now();
    let ejected = |balancer: &Balancer, now| balancer.status(now)[0].ejected_until.is_some();
    let fail = |balancer: &mut Balancer, now| {
        balancer.begin(address(0), now);
        balancer.failed(address(0), now);
        balancer.end(address(0));
    };
    // A success between failures: they are not in a row.
    fail(&mut balancer, now);
    balancer.begin(address(0), now);
    balancer.connected(address(0), client(1).ip, now, Duration::ZERO);
    fail(&mut balancer, now);
    assert!(!ejected(&balancer, now));
    fail(&mut balancer, now);
    assert!(ejected(&balancer, now));
    // It is the last resort meanwhile.
    assert!((0..4).all(|i| order(&balancer.choose(client(i), now, 0)) == [1, 0]));
    for times in 2..5 {
        now += rules.base_ejection * (times - 1);
        assert!(!ejected(&balancer, now));
        // One connection tries it; meanwhile it comes last again.
        assert!((0..2).any(|i| order(&balancer.choose(client(i), now, 0))[0] == 0));
        balancer.begin(address(0), now);
        assert!((0..4).all(|i| order(&balancer.choose(client(i), now, 0))[0] == 1));
        balancer.failed(address(0), now);
        balancer.end(address(0));
        let until = balancer.status(now)[0].ejected_until.unwrap();
        assert_eq!(until - now, rules.base_ejection * times);
    }
    // It is back, stays well long enough, and begins anew.
    now += rules.base_ejection * 4;
    balancer.begin(address(0), now);
    balancer.connected(address(0), client(1).ip, now, Duration::ZERO);
    assert!((0..2).any(|i| order(&balancer.choose(client(i), now, 0))[0] == 0));
    now += rules.base_ejection * 4;
    fail(&mut balancer, now);
    fail(&mut balancer, now);
    assert_eq!(balancer.status(now)[0].ejected_until.unwrap() - now, rules.base_ejection);
    assert_eq!(balancer.status(now)[0].active, 2, "connections that were made are there until they end");
}

#[test]
fn no_more_are_ejected_than_the_rule_allows() {
    let now = Instant::now();
    for (count, percent, wanted) in [(1, 50, 1), (2, 50, 1), (4, 50, 2), (4, 10, 1), (4, 0, 1), (4, 100, 4), (3, 70, 2)]
    {
        let rules =
            OutlierDetection { consecutive_failures: 1, max_ejection_percent: percent, ..OutlierDetection::default() };
        let settings = Settings { outliers: rules, ..Settings::default() };
        let mut balancer = Balancer::new(settings.clone());
        balancer.update(settings, candidates(&vec![Tier::Rest; count]));
        for i in 0..count {
            balancer.begin(address(i as u8), now);
            balancer.failed(address(i as u8), now);
        }
        let ejected = balancer.status(now).iter().filter(|status| status.ejected_until.is_some()).count();
        assert_eq!(ejected, wanted, "{count} {percent}");
        // Whoever is ejected is still tried when there is nobody else.
        assert_eq!(balancer.choose(client(1), now, 1).len(), count);
    }
}

#[test]
fn ejections_do_not_count_when_too_few_are_healthy() {
    let now = Instant::now();
    let rules = OutlierDetection {
        consecutive_failures: 1,
        max_ejection_percent: 100,
        min_health_percent: 60,
        ..OutlierDetection::default()
    };
    let settings = Settings { outliers: rules, ..Settings::default() };
    let mut balancer = Balancer::new(settings.clone());
    balancer.update(settings, candidates(&[Tier::Rest; 4]));
    balancer.failed(address(0), now);
    assert_eq!(shares(&mut balancer, 30, now).get(&0), None);
    balancer.failed(address(1), now);
    assert_eq!(shares(&mut balancer, 40, now).len(), 4);
}

#[test]
fn what_is_known_of_an_endpoint_outlives_a_change_of_the_list() {
    let now = Instant::now();
    let rules = OutlierDetection { consecutive_failures: 1, ..OutlierDetection::default() };
    let settings = Settings { outliers: rules, ..Settings::default() };
    let mut balancer = Balancer::new(settings.clone());
    balancer.update(settings.clone(), candidates(&[Tier::Rest; 3]));
    balancer.begin(address(1), now);
    balancer.failed(address(2), now);
    balancer.update(settings.clone(), candidates(&[Tier::Rest; 4]));
    let status = balancer.status(now);
    assert_eq!((status[1].active, status[2].ejected_until.is_some()), (1, true));
    // A connection outlives its endpoint's place in the list, also twice.
    balancer.begin(address(1), now);
    balancer.update(settings.clone(), candidates(&[Tier::Rest; 1]));
    balancer.end(address(1));
    balancer.failed(address(2), now);
    balancer.update(settings.clone(), candidates(&[Tier::Rest; 3]));
    let status = balancer.status(now);
    // One without connections is new when it comes back.
    assert_eq!((status[1].active, status[2].ejected_until.is_some()), (1, false));
    balancer.update(settings.clone(), candidates(&[Tier::Rest; 1]));
    balancer.end(address(1));
    balancer.end(address(1));
    assert!(balancer.departed.is_empty());
    balancer.update(settings, candidates(&[Tier::Rest; 3]));
    assert_eq!(balancer.status(now)[1].active, 0);
}

#[test]
fn an_endpoint_that_takes_connections_and_breaks_them_off_is_ejected() {
    let now = Instant::now();
    let mut balancer = balancer(Policy::RoundRobin, 2);
    let broken = |balancer: &mut Balancer, breaks| {
        balancer.begin(address(0), now);
        balancer.connected(address(0), client(1).ip, now, Duration::ZERO);
        if breaks {
            balancer.broke(address(0), now)
        } else {
            balancer.served(address(0))
        }
        balancer.end(address(0));
        balancer.status(now)[0].ejected_until.is_some()
    };
    for breaks in [true, true, true, true, false, true, true, true, true] {
        assert!(!broken(&mut balancer, breaks));
    }
    assert!(broken(&mut balancer, true));
}

#[test]
fn tiers_are_by_node_lan_zone_and_hints() {
    let node = Node {
        name: "edge-1".into(),
        uid: "u".into(),
        internal_ips: vec![],
        external_ips: vec![],
        zone: Some("z1".into()),
        pod_cidrs: vec![],
        mesh: BTreeMap::new(),
    };
    let place = Place::of("edge-1", Some(&node));
    let on = |node: &str, zone: &str, zone_hint: &str, node_hint: &str| {
        let host = Host {
            node: (!node.is_empty()).then(|| node.into()),
            zone: Some(zone.into()),
            zone_hints: vec![zone_hint.into()],
            node_hints: vec![node_hint.into()],
            ..(*endpoint(1).host).clone()
        };
        place.tier(&Endpoint { address: address(1), host: Arc::new(host) }, |node| node == "edge-2")
    };
    assert_eq!(on("edge-1", "z9", "", ""), Tier::Node);
    assert_eq!(on("edge-9", "z9", "", "edge-1"), Tier::Node);
    assert_eq!(on("edge-2", "z9", "", ""), Tier::Lan);
    assert_eq!(on("edge-9", "z1", "", ""), Tier::Zone);
    assert_eq!(on("edge-9", "z9", "z1", ""), Tier::Zone);
    assert_eq!(on("edge-9", "z9", "z9", "edge-9"), Tier::Rest);
    assert_eq!(on("", "z9", "", ""), Tier::Rest);
    // A node without a zone is in none.
    let homeless = Place::of("edge-1", None);
    assert_eq!(homeless.tier(&endpoint(7), |_| false), Tier::Rest);
}
