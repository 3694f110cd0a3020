//! Transactions against a small model of nft that refuses what nft refuses: a key that is there with another value, one
//! that is not there, a chain that nobody made.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::layout::{Branch, Layout, Picker, prepared};
use super::transaction::{self, Transaction};
use super::{TABLE, elements};
use crate::config::{Config, ProxyPorts};
use crate::state::{At, Family, Frontend, Protocol, Service, Slot, State};

#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    sets: BTreeMap<String, BTreeMap<String, String>>,
    chains: BTreeMap<String, Vec<String>>,
}

impl Model {
    fn commit(&mut self, transaction: &Transaction) {
        for line in transaction.text().lines() {
            let (verb, rest) = line.split_once(' ').unwrap();
            let (what, rest) = rest.split_once(' ').unwrap();
            let rest = rest.strip_prefix(TABLE).unwrap().trim();
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            match (verb, what) {
                ("add", "table") => {}
                ("delete", "table") => *self = Self::default(),
                ("add", "map" | "set") => assert!(self.sets.insert(name.to_owned(), BTreeMap::new()).is_none()),
                ("add", "chain") => assert!(self.chains.insert(name.to_owned(), Vec::new()).is_none(), "{line}"),
                ("add", "rule") => {
                    for word in rest.split(' ').skip_while(|word| *word != "jump").skip(1).take(1) {
                        assert!(self.chains.contains_key(word), "{line}");
                    }
                    for set in rest.split(' ').filter_map(|word| word.strip_prefix('@')) {
                        assert!(self.sets.contains_key(set), "{line}");
                    }
                    self.chains.get_mut(name).expect(line).push(rest.to_owned());
                }
                (verb, "element") => {
                    let chains = &self.chains;
                    let set = self.sets.get_mut(name).expect(line);
                    let list = rest.strip_prefix("{ ").and_then(|list| list.strip_suffix(" }")).expect(line);
                    for element in list.split(", ") {
                        let (key, value) = element.split_once(" : ").unwrap_or((element, ""));
                        if let Some(chain) = value.strip_prefix("goto ") {
                            assert!(chains.contains_key(chain), "{line}");
                        }
                        if verb == "add" {
                            let before = set.insert(key.to_owned(), value.to_owned());
                            assert!(before.is_none_or(|before| before == value), "{line}");
                        } else {
                            assert!(set.remove(key).is_some(), "{line}");
                        }
                    }
                }
                _ => panic!("{line}"),
            }
        }
    }

    fn holds(&self, state: &State) {
        let mut sets = self.sets.clone();
        sets.retain(|_, set| !set.is_empty());
        assert_eq!(sets, elements::whole(state).0);
    }
}

fn config() -> Config {
    Config { proxy: Some(ProxyPorts { tcp: 20_007, udp: 20_008 }), ..Config::default() }
}

fn slots(v6: bool, sctp: bool) -> impl Strategy<Value = Vec<Slot>> {
    let slot = (0..5_u8).prop_map(move |at| match at {
        0 if !sctp => Slot::Proxy,
        _ if v6 => Slot::Backend(format!("[fd44::{at}]:8080").parse().unwrap()),
        _ => Slot::Backend(format!("10.0.0.{at}:8080").parse().unwrap()),
    });
    prop::collection::vec(slot, 0..5)
}

fn entry() -> impl Strategy<Value = (Frontend, Service)> {
    let protocol = prop::sample::select(Protocol::ALL.to_vec());
    (0..3_u8, any::<bool>(), protocol, 80..82_u16).prop_flat_map(|(at, v6, protocol, port)| {
        let at = match (at, v6) {
            (0, false) => At::Node(Family::V4),
            (0, true) => At::Node(Family::V6),
            (at, false) => At::Address(format!("10.96.0.{at}").parse().unwrap()),
            (at, true) => At::Address(format!("fd96::{at}").parse().unwrap()),
        };
        let sctp = protocol == Protocol::Sctp;
        let affinity = prop::option::of((1..3_u64).prop_map(Duration::from_secs));
        (slots(v6, sctp), prop::option::of(slots(v6, sctp)), affinity).prop_map(move |(slots, local, affinity)| {
            (Frontend { at, protocol, port }, Service { slots, local, affinity })
        })
    })
}

fn states() -> impl Strategy<Value = State> {
    prop::collection::vec(entry(), 0..8).prop_map(|entries| {
        let mut state = State::default();
        for (frontend, service) in entries {
            state.insert(frontend, service).unwrap();
        }
        state
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_difference_leads_to_the_other_state(history in prop::collection::vec(states(), 2..5)) {
        let mut model = Model::default();
        let step = transaction::install(&config(), &history[0]);
        model.commit(&step.transaction);
        model.holds(&history[0]);
        let mut branches = step.branches;
        for pair in history.windows(2) {
            let step = transaction::update(&config(), &branches, &pair[0], &pair[1]);
            prop_assert_eq!(step.transaction.is_empty(), pair[0] == pair[1]);
            model.commit(&step.transaction);
            model.holds(&pair[1]);
            branches = step.branches;
        }
    }

    #[test]
    fn every_repair_leads_to_the_state(found in states(), want in states()) {
        let mut model = Model::default();
        let step = transaction::install(&config(), &found);
        model.commit(&step.transaction);
        let elements = elements::whole(&found).0;
        model.commit(&transaction::repair(&config(), &step.branches, &elements, &want).transaction);
        model.holds(&want);
        // Whatever was there, made anew it is the same as on an empty machine.
        model.commit(&transaction::install(&config(), &want).transaction);
        let mut fresh = Model::default();
        fresh.commit(&transaction::install(&config(), &want).transaction);
        prop_assert_eq!(model, fresh);
    }

    #[test]
    fn a_branch_is_known_by_its_name(node: bool, local: bool, sticky: bool, slots in 1..2_000_usize, time: u32) {
        for branch in [Branch::Pick(Picker { node, local, sticky, slots }), Branch::Learn(time.into())] {
            prop_assert_eq!(Branch::parse(&branch.name()), Some(branch));
            prop_assert_eq!(Branch::parse(&format!("{}-", branch.name())), None);
        }
    }
}

fn one(at: &str, backends: &[&str]) -> State {
    let mut state = State::default();
    let slots = backends.iter().map(|backend| Slot::Backend(backend.parse().unwrap())).collect();
    let at = At::Address(at.parse().unwrap());
    let frontend = Frontend { at, protocol: Protocol::Tcp, port: 80 };
    state.insert(frontend, Service { slots, ..Service::default() }).unwrap();
    state
}

#[test]
fn a_changed_endpoint_is_one_element() {
    let before = one("10.96.0.1", &["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.2:8080"]);
    let after = one("10.96.0.1", &["10.0.0.1:8080", "10.0.0.3:8080", "10.0.0.2:8080"]);
    let step = transaction::update(&config(), &prepared(), &before, &after);
    assert_eq!((step.branches, step.anew), (prepared(), false));
    assert_eq!(
        step.transaction.text(),
        "delete element inet skerry-mesh slots4 { 10.96.0.1 . tcp . 80 . 1 }\n\
         add element inet skerry-mesh slots4 { 10.96.0.1 . tcp . 80 . 1 : 10.0.0.3 . 8080 }\n\
         add element inet skerry-mesh hairpin4 { 10.0.0.3 . 10.0.0.3 }\n"
    );
}

#[test]
fn a_service_without_backends_is_refused() {
    let step = transaction::update(&config(), &prepared(), &one("fd96::1", &["[fd44::1]:80"]), &one("fd96::1", &[]));
    assert_eq!(
        step.transaction.text(),
        "delete element inet skerry-mesh masquerade6 { fd96::1 . tcp . 80 }\n\
         delete element inet skerry-mesh services6 { fd96::1 . tcp . 80 }\n\
         delete element inet skerry-mesh slots6 { fd96::1 . tcp . 80 . 0 }\n\
         add element inet skerry-mesh refused6 { fd96::1 . tcp . 80 : goto refuse }\n\
         delete element inet skerry-mesh hairpin6 { fd44::1 . fd44::1 }\n"
    );
}

#[test]
fn rules_do_not_grow_with_services() {
    let rules = |services: u8| {
        let mut state = State::default();
        for at in 0..services {
            for (frontend, service) in one(&format!("10.96.0.{at}"), &["10.0.0.1:80", "10.0.0.2:80"]).iter() {
                state.insert(*frontend, service.clone()).unwrap();
            }
        }
        let layout = Layout::new(&config(), &elements::whole(&state).1);
        layout.chains.iter().map(|chain| chain.rules.len()).sum::<usize>()
    };
    assert_eq!(rules(1), rules(200));
}

#[test]
fn with_affinity_only_clients_of_a_backend_that_goes_move() {
    let places = |backends: &[&str]| {
        let mut state = State::default();
        for (frontend, service) in one("fd96::1", backends).iter() {
            let affinity = Some(Duration::from_secs(10));
            state.insert(*frontend, Service { affinity, ..service.clone() }).unwrap();
        }
        elements::whole(&state).0.remove("slots6").unwrap()
    };
    let three = places(&["[fd44::1]:80", "[fd44::2]:80", "[fd44::3]:80"]);
    let two = places(&["[fd44::3]:80", "[fd44::1]:80"]);
    assert_eq!((three.len(), two.len()), (256, 256));
    for (place, backend) in &three {
        if backend == "fd44::2 . 80" {
            assert_ne!(&two[place], backend);
        } else {
            assert_eq!(&two[place], backend, "{place}");
        }
    }
    for backend in ["fd44::1 . 80", "fd44::2 . 80", "fd44::3 . 80"] {
        let share = three.values().filter(|value| *value == backend).count();
        assert!((60..=110).contains(&share), "{backend}: {share} of 256");
    }
}
