//! The Kubernetes API as the simulation needs it: objects with opaque versions, the log of their
//! changes that watches read, and what the sink wrote. It never loses what was written.
//!
//! It also is the witness: every version ever written is known here with its content, so that what
//! turns up at the edge can be judged.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use skerry_common::{Key, Version};

use crate::invariant::{Check, Invariant, Violation, check};
use crate::rng::{Rng, mix};

/// One version of an object.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) key: Key,
    /// The order of writes; the state machines never see it.
    pub(crate) rev: u64,
    /// The node that it is for.
    pub(crate) node: usize,
    pub(crate) version: Version,
    pub(crate) body: Bytes,
}

/// One change, as a watch gives it: `None` is a deletion.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) object: Option<Rc<Written>>,
}

/// A report as its writer made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) node: usize,
    pub(crate) key: Key,
    /// Grows with every report of the node; the simulation's own, inside the body.
    pub(crate) seq: u64,
    pub(crate) event: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Api {
    pub(crate) objects: BTreeMap<Key, Rc<Written>>,
    /// The entry at `rev - 1` is the change `rev`.
    pub(crate) log: Vec<Entry>,
    versions: BTreeMap<String, Rc<Written>>,
    /// The newest session of each node, durable.
    pub(crate) leases: BTreeMap<usize, u64>,
    /// The status of each object, by the reporter's sequence.
    pub(crate) statuses: BTreeMap<(usize, Key), u64>,
    /// Events by node and sequence: how often each was written.
    pub(crate) events: BTreeMap<(usize, u64), u64>,
    /// Events by node and report id: their names in the API.
    event_names: BTreeMap<(usize, u64), u64>,
    /// Writes fail.
    pub(crate) down: bool,
}

impl Api {
    pub(crate) fn rev(&self) -> u64 {
        self.log.len() as u64
    }

    pub(crate) fn write(&mut self, key: &Key, node: usize, rng: &mut Rng) {
        let rev = self.rev() + 1;
        let version = format!("{:016x}", mix(rev));
        let most = if rng.one_in(10) { 900 } else { 60 };
        let length = 8 + rng.below(most);
        let mut body = format!("{rev}:{:016x}:", mix(rev ^ 0x5eed)).into_bytes();
        body.resize(body.len() + length, b'.');
        let written = Rc::new(Written {
            key: key.clone(),
            rev,
            node,
            version: Version::new(version.as_str()),
            body: Bytes::from(body),
        });
        self.versions.insert(version, Rc::clone(&written));
        self.log.push(Entry { key: key.clone(), object: Some(Rc::clone(&written)) });
        self.objects.insert(key.clone(), written);
    }

    pub(crate) fn delete(&mut self, key: &Key) -> bool {
        if self.objects.remove(key).is_none() {
            return false;
        }
        self.log.push(Entry { key: key.clone(), object: None });
        true
    }

    /// N2 and N3 for an object at the edge; its place in the order of writes.
    pub(crate) fn judge(&self, node: usize, key: &Key, version: &Version, body: &Bytes) -> Result<u64, Violation> {
        let written = self.versions.get(version.as_str());
        let written = written.filter(|written| written.key == *key && written.node == node);
        let Some(written) = written else {
            return Err(Violation::new(
                Invariant::NoInvention,
                format!("node {node} got {key} at {version:?}, which was never written for it"),
            ));
        };
        check(written.body == *body, Invariant::Intact, || format!("node {node} got {key} with another body"))?;
        Ok(written.rev)
    }

    /// The order of a version; zero for one that was never written.
    pub(crate) fn rev_of(&self, version: &Version) -> u64 {
        self.versions.get(version.as_str()).map_or(0, |written| written.rev)
    }

    /// Was the key deleted, or taken from the node, after this write?
    pub(crate) fn gone_after(&self, node: usize, key: &Key, rev: u64) -> bool {
        self.log
            .iter()
            .skip(rev as usize)
            .any(|entry| entry.key == *key && entry.object.as_ref().is_none_or(|object| object.node != node))
    }

    /// The sink writes a report. A status replaces the one before; an event has the name that its
    /// node and id make, so it is written once.
    pub(crate) fn report(&mut self, said: &Said, id: u64) -> Check {
        if said.event {
            let named = *self.event_names.entry((said.node, id)).or_insert(said.seq);
            check(named == said.seq, Invariant::Conserve, || {
                format!(
                    "event {} of node {} has the id {id} of event {named}: it is taken for a duplicate",
                    said.seq, said.node
                )
            })?;
            self.events.insert((said.node, said.seq), id);
            return Ok(());
        }
        let status = self.statuses.entry((said.node, said.key.clone())).or_insert(0);
        let before = *status;
        *status = said.seq;
        check(before <= said.seq, Invariant::Forward, || {
            format!("the status of {} from node {} went back from {before} to {}", said.key, said.node, said.seq)
        })
    }

    /// Does the API have this report, or a newer one of the same object?
    pub(crate) fn has(&self, said: &Said) -> bool {
        if said.event {
            self.events.contains_key(&(said.node, said.seq))
        } else {
            self.statuses.get(&(said.node, said.key.clone())).is_some_and(|seq| *seq >= said.seq)
        }
    }
}
