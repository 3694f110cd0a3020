//! The elements of a state: what is in each map and set of the table.
//!
//! A frontend with session affinity has a table of fixed length for its slots, each place given to the slot with the
//! highest hash for it (rendezvous hashing): so a client, whose place is a hash of its address, moves only when its own
//! backend goes or a new one gets its place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use skerry_common::fnv1a;

use super::layout::{Branch, LEARNED, LOCAL_SLOTS, Picker};
use crate::state::{At, Family, Frontend, Service, Slot, State, places};

/// By the name of the set: keys, and values where it is a map, as nft writes them.
pub(crate) type Elements = BTreeMap<String, BTreeMap<String, String>>;

/// The elements of these services, and the branches that they name. What services share is in [`shared`].
pub(crate) fn elements<'a>(
    services: impl Iterator<Item = (&'a Frontend, &'a Service)>,
) -> (Elements, BTreeSet<Branch>) {
    let mut out = Out::default();
    for (frontend, service) in services {
        out.service(frontend, service);
    }
    (out.elements, out.branches)
}

/// What several services may have in common: backends, which may be their own clients.
pub(crate) fn shared(state: &State) -> Elements {
    let mut out = Elements::new();
    let backends: BTreeSet<IpAddr> =
        state.iter().flat_map(|(_, service)| service.backends()).map(|backend| backend.ip()).collect();
    for ip in backends {
        let set = format!("hairpin{}", digit(Family::of(ip)));
        out.entry(set).or_default().insert(format!("{ip} . {ip}"), String::new());
    }
    out
}

/// All elements of a state, and its branches.
pub(crate) fn whole(state: &State) -> (Elements, BTreeSet<Branch>) {
    let (mut all, branches) = elements(state.iter());
    all.extend(shared(state));
    (all, branches)
}

#[derive(Default)]
struct Out {
    elements: Elements,
    branches: BTreeSet<Branch>,
}

impl Out {
    fn put(&mut self, set: &str, frontend: &Frontend, key: String, value: String) {
        let (node, digit) = match frontend.at {
            At::Address(address) => ("", digit(Family::of(address))),
            At::Node(family) => ("node_", digit(family)),
        };
        // The map of NodePorts themselves is `node4`, beside `services4`.
        let set = match (node, set) {
            ("node_", "services") => format!("node{digit}"),
            _ => format!("{node}{set}{digit}"),
        };
        self.elements.entry(set).or_default().insert(key, value);
    }

    fn go_to(&mut self, branch: Branch) -> String {
        self.branches.insert(branch);
        format!("goto {}", branch.name())
    }

    fn service(&mut self, frontend: &Frontend, service: &Service) {
        let key = key(frontend);
        let Some(verdict) = self.slots(frontend, service, &service.slots, false) else {
            self.put("refused", frontend, key, "goto refuse".to_owned());
            return;
        };
        self.put("services", frontend, key.clone(), verdict);
        match &service.local {
            Some(local) => {
                let verdict = self.slots(frontend, service, local, true).unwrap_or_else(|| "drop".to_owned());
                self.put("outside", frontend, key.clone(), verdict);
            }
            None => self.masquerade(frontend, service, &key),
        }
        if let Some(time) = service.affinity
            && frontend.family() == LEARNED
            && service.backends().next().is_some()
        {
            let learn = self.go_to(Branch::Learn(time.as_secs()));
            self.put("learn", frontend, key, learn);
        }
    }

    /// Puts slots in and says who picks one of them; nobody when there is none.
    fn slots(&mut self, frontend: &Frontend, service: &Service, slots: &[Slot], local: bool) -> Option<String> {
        let spread;
        let slots = match service.affinity {
            Some(_) => {
                spread = rendezvous(slots);
                &spread
            }
            None => slots,
        };
        for (at, slot) in slots.iter().enumerate() {
            if let Slot::Backend(backend) = slot {
                let at = if local { at + LOCAL_SLOTS } else { at };
                self.put("slots", frontend, format!("{} . {at}", key(frontend)), pair(*backend));
            }
        }
        let pick = Picker {
            node: matches!(frontend.at, At::Node(_)),
            local,
            sticky: service.affinity.is_some(),
            slots: slots.len(),
        };
        (!slots.is_empty()).then(|| self.go_to(Branch::Pick(pick)))
    }

    fn masquerade(&mut self, frontend: &Frontend, service: &Service, key: &str) {
        for backend in service.backends() {
            let key = match frontend.at {
                At::Address(_) => key.to_owned(),
                // The node's addresses are not listed, so its backends say whose connection it is.
                At::Node(_) => format!("{key} . {}", pair(backend)),
            };
            self.put("masquerade", frontend, key, String::new());
        }
    }
}

/// Who has each place of the table. A slot that is there twice takes part twice.
fn rendezvous(slots: &[Slot]) -> Vec<Slot> {
    let mut names: Vec<(String, Slot)> = Vec::with_capacity(slots.len());
    let mut seen: BTreeMap<Slot, usize> = BTreeMap::new();
    for slot in slots {
        let again = seen.entry(*slot).or_default();
        *again += 1;
        names.push((format!("{slot:?} {again}"), *slot));
    }
    let place = |at: usize| {
        let at = at.to_string();
        // FNV ends in a multiplication, so its low bits know little of what came first; mixed, they know all.
        let weight =
            |(name, _): &&(String, Slot)| fnv1a(&[name, &at]).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
        names.iter().max_by_key(weight).map(|(_, slot)| *slot)
    };
    (0..places(slots.len())).filter_map(place).collect()
}

/// The key of a frontend.
pub(crate) fn key(frontend: &Frontend) -> String {
    match frontend.at {
        At::Address(address) => format!("{address} . {} . {}", frontend.protocol, frontend.port),
        At::Node(_) => format!("{} . {}", frontend.protocol, frontend.port),
    }
}

fn pair(backend: SocketAddr) -> String {
    format!("{} . {}", backend.ip(), backend.port())
}

fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}
