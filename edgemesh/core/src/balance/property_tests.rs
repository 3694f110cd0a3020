//! The invariants of the balancer over any history.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::rule::{HashKey, OutlierDetection};
use crate::table::Host;

#[derive(Debug, Clone)]
enum Step {
    Update(Vec<(u8, u8, u16)>),
    Choose(u8, u64, Vec<bool>),
    End(prop::sample::Index),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => prop::collection::vec((0..8u8, 0..4u8, 0..4u16), 0..8).prop_map(Step::Update),
        6 => (0..6u8, any::<u64>(), prop::collection::vec(any::<bool>(), 4)).prop_map(|(c, r, ok)| Step::Choose(c, r, ok)),
        3 => any::<prop::sample::Index>().prop_map(Step::End),
        2 => (0..20_000u16).prop_map(Step::Wait),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let policy = prop_oneof![
        Just(Policy::RoundRobin),
        Just(Policy::Random),
        Just(Policy::LeastRequest),
        Just(Policy::ConsistentHash(HashKey::SourceIp)),
        Just(Policy::ConsistentHash(HashKey::Header("x".into()))),
    ];
    let rules = (0..4u32, 0..=100u8, 0..=100u8).prop_map(|(consecutive_failures, max, min)| OutlierDetection {
        consecutive_failures,
        max_ejection_percent: max,
        min_health_percent: min,
        ..OutlierDetection::default()
    });
    let affinity = prop::option::of((1..60u64).prop_map(Duration::from_secs));
    (policy, any::<bool>(), rules, prop::option::of(1..5u32), affinity).prop_map(
        |(policy, nearest_first, outliers, max_connections, affinity)| Settings {
            policy,
            nearest_first,
            outliers,
            max_connections,
            affinity,
        },
    )
}

fn candidate((i, tier, weight): (u8, u8, u16)) -> Candidate {
    let ip = IpAddr::from([10, 1, 0, i]);
    let host = Host {
        ip,
        hostname: None,
        node: None,
        zone: None,
        pod: None,
        zone_hints: vec![],
        node_hints: vec![],
        ready: true,
        serving: true,
        terminating: false,
    };
    let endpoint = Endpoint { address: SocketAddr::new(ip, 80 + u16::from(i)), host: Arc::new(host) };
    Candidate { endpoint, tier: *Tier::ALL.get(usize::from(tier)).unwrap(), weight }
}

proptest! {
    #[test]
    fn the_invariants_hold_over_any_history(settings in settings(), steps in prop::collection::vec(step(), 1..80)) {
        let mut now = Instant::now();
        let mut balancer = Balancer::new(settings.clone());
        let mut listed: BTreeSet<SocketAddr> = BTreeSet::new();
        let mut open: Vec<SocketAddr> = Vec::new();
        for step in steps {
            match step {
                Step::Update(list) => {
                    let list: Vec<_> = list.into_iter().map(candidate).collect();
                    listed = list.iter().map(|c| c.endpoint.address).collect();
                    balancer.update(settings.clone(), list);
                }
                Step::Choose(client, random, worked) => {
                    let header = (client % 2 == 0).then_some(&b"value"[..]);
                    let client = Client { ip: IpAddr::from([192, 0, 2, client]), header };
                    let status = balancer.status(now);
                    let most = settings.max_connections.unwrap_or(u32::MAX);
                    let order = balancer.choose(client, now, random);
                    let active = |address: &SocketAddr| open.iter().filter(|open| *open == address).count() as u32;
                    let free = listed.iter().filter(|address| active(address) < most).count();
                    prop_assert_eq!(order.len(), free.min(MAX_ATTEMPTS));
                    let distinct: BTreeSet<_> = order.iter().map(|e| e.address).collect();
                    prop_assert_eq!(distinct.len(), order.len());
                    let healthy = status.iter().filter(|s| s.ejected_until.is_none()).count();
                    let panics = healthy * 100 < status.len() * usize::from(settings.outliers.min_health_percent);
                    let ejected = |address| status.iter().any(|s| s.endpoint.address == address && s.ejected_until.is_some());
                    let marks: Vec<_> = order.iter().map(|e| ejected(e.address)).collect();
                    prop_assert!(panics || marks.is_sorted(), "ejected ones come last: {:?}", marks);
                    for (endpoint, worked) in order.iter().zip(worked) {
                        let address = endpoint.address;
                        prop_assert!(listed.contains(&address) && active(&address) < most);
                        balancer.begin(address, now);
                        if worked {
                            balancer.connected(address, client.ip, now, Duration::from_millis(random % 1_000));
                            open.push(address);
                            break;
                        }
                        balancer.failed(address, now);
                        balancer.end(address);
                    }
                }
                Step::End(index) if !open.is_empty() => {
                    let address = open.swap_remove(index.index(open.len()));
                    if address.port().is_multiple_of(2) { balancer.broke(address, now) } else { balancer.served(address) }
                    balancer.end(address);
                }
                Step::End(_) => {}
                Step::Wait(millis) => now += Duration::from_millis(u64::from(millis)),
            }
            let status = balancer.status(now);
            prop_assert_eq!(status.iter().map(|s| s.endpoint.address).collect::<BTreeSet<_>>(), listed.clone());
            for status in &status {
                // Counted until they end, whether the endpoint stayed in the list or not.
                let active = open.iter().filter(|open| **open == status.endpoint.address).count();
                prop_assert_eq!(usize::try_from(status.active).unwrap(), active);
                let left = status.ejected_until.map(|until| until - now);
                prop_assert!(left.is_none_or(|left| left <= settings.outliers.max_ejection));
                prop_assert!(settings.outliers.consecutive_failures > 0 || left.is_none());
            }
        }
    }

    /// Whatever came before: an endpoint that was ejected and works again is used again.
    #[test]
    fn nobody_is_ejected_for_ever(failures in 1..50u32, policy in prop_oneof![Just(Policy::RoundRobin), Just(Policy::Random)]) {
        let mut now = Instant::now();
        let settings = Settings { policy, ..Settings::default() };
        let mut balancer = Balancer::new(settings.clone());
        balancer.update(settings.clone(), (0..2).map(|i| candidate((i, 0, 1))).collect());
        let address = SocketAddr::from(([10, 1, 0, 0], 80));
        for _ in 0..failures {
            balancer.begin(address, now);
            balancer.failed(address, now);
            balancer.end(address);
            now += Duration::from_millis(700);
        }
        now += settings.outliers.max_ejection;
        let client = Client { ip: IpAddr::from([192, 0, 2, 1]), header: None };
        let mut used = false;
        for random in 0..64 {
            let first = balancer.choose(client, now, choose::mix(random)).first().unwrap().address;
            used |= first == address;
            balancer.begin(first, now);
            balancer.connected(first, client.ip, now, Duration::from_millis(1));
            balancer.end(first);
        }
        prop_assert!(used);
    }
}
