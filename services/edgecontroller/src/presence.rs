//! Which nodes are connected, and whose lease is due: a state machine without IO or clock.
//!
//! Driven by the Registry streams (`hub_*`, `joined`, `left`) and by the lease keeper (`take_due`,
//! `renewed`). Times are milliseconds of one monotonic clock.
//!
//! Invariants:
//! - A node is renewed while its newest session is connected, once per interval.
//! - When a hub's stream breaks, its nodes are renewed for [`HUB_GRACE_MS`] more: they are reconnecting.
//! - A node that left is not renewed any more. One that comes back is renewed at once, unless its last
//!   renewal is younger than the interval, so a flapping link costs no extra API writes.
//!
//! Limits: one entry per node; entries of absent nodes go after [`REMEMBER_MS`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use skerry_common::NodeName;

/// How often each lease is renewed.
pub(crate) const RENEW_MS: u64 = 10_000;

/// How long the nodes of a lost hub may take to reconnect before they are not renewed any more.
pub(crate) const HUB_GRACE_MS: u64 = 15_000;

/// Over how much time the nodes of a new hub's list are spread.
const SNAPSHOT_SPREAD_MS: u64 = RENEW_MS / 2;

/// How long the last renewal of an absent node is remembered.
const REMEMBER_MS: u64 = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Connected over the hub with this connection number.
    Up(u64),
    /// Its hub was lost at this time.
    Orphan(u64),
    /// It left at this time.
    Down(u64),
}

#[derive(Debug)]
struct Node {
    session: u64,
    link: Link,
    due: u64,
    renewed: Option<u64>,
}

#[derive(Debug, Default)]
struct Hub {
    nodes: HashSet<NodeName>,
    snapshot_done: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    hubs: HashMap<u64, Hub>,
    nodes: HashMap<NodeName, Node>,
    /// Due times of nodes that are up or orphans.
    queue: BTreeSet<(u64, NodeName)>,
}

impl Presence {
    pub(crate) fn hub_connected(&mut self, hub: u64) {
        self.hubs.insert(hub, Hub::default());
    }

    pub(crate) fn snapshot_done(&mut self, hub: u64) {
        if let Some(hub) = self.hubs.get_mut(&hub) {
            hub.snapshot_done = true;
        }
    }

    /// A session of the node is connected at this hub.
    pub(crate) fn joined(&mut self, hub: u64, node: &NodeName, session: u64, now: u64) {
        let Some(state) = self.hubs.get_mut(&hub) else { return };
        if self.nodes.get(node).is_some_and(|known| known.session > session) {
            return;
        }
        state.nodes.insert(node.clone());
        let spread = if state.snapshot_done { 0 } else { hash(node) % SNAPSHOT_SPREAD_MS };
        let old = self.nodes.remove(node);
        let due = match &old {
            Some(old) => {
                self.queue.remove(&(old.due, node.clone()));
                if let Link::Up(other) = old.link
                    && other != hub
                    && let Some(other) = self.hubs.get_mut(&other)
                {
                    other.nodes.remove(node);
                }
                match old.link {
                    Link::Up(_) | Link::Orphan(_) => old.due,
                    Link::Down(_) => old.renewed.map_or(now, |at| now.max(at + RENEW_MS)),
                }
            }
            None => now + spread,
        };
        let renewed = old.and_then(|old| old.renewed);
        self.queue.insert((due, node.clone()));
        self.nodes.insert(node.clone(), Node { session, link: Link::Up(hub), due, renewed });
    }

    /// A session ended, by the word of its hub. Session 0: the hub has no session of the node any more.
    pub(crate) fn left(&mut self, hub: u64, node: &NodeName, session: u64, now: u64) {
        let Some(known) = self.nodes.get_mut(node) else { return };
        if known.link != Link::Up(hub) || (session != 0 && known.session != session) {
            return;
        }
        known.link = Link::Down(now);
        self.queue.remove(&(known.due, node.clone()));
        if let Some(hub) = self.hubs.get_mut(&hub) {
            hub.nodes.remove(node);
        }
    }

    /// The hub's stream broke.
    pub(crate) fn hub_lost(&mut self, hub: u64, now: u64) {
        let Some(state) = self.hubs.remove(&hub) else { return };
        for node in state.nodes {
            if let Some(known) = self.nodes.get_mut(&node)
                && known.link == Link::Up(hub)
            {
                known.link = Link::Orphan(now);
            }
        }
    }

    /// At most `limit` nodes whose lease is due, each with its session; they are due again one interval
    /// later. Also forgets what is over.
    pub(crate) fn take_due(&mut self, now: u64, limit: usize) -> Vec<(NodeName, u64, u64)> {
        let mut due = Vec::new();
        while due.len() < limit {
            let Some((at, node)) = self.queue.pop_first() else { break };
            if at > now {
                self.queue.insert((at, node));
                break;
            }
            let Some(known) = self.nodes.get_mut(&node) else { continue };
            if let Link::Orphan(lost) = known.link
                && now >= lost + HUB_GRACE_MS
            {
                known.link = Link::Down(now);
                continue;
            }
            // A little early by a part that is the node's own, so that nodes that came together spread.
            known.due = now + RENEW_MS - hash(&node) % (RENEW_MS / 10);
            self.queue.insert((known.due, node.clone()));
            due.push((node, known.session, now.saturating_sub(at)));
        }
        due
    }

    /// The lease was written.
    pub(crate) fn renewed(&mut self, node: &NodeName, now: u64) {
        if let Some(known) = self.nodes.get_mut(node) {
            known.renewed = Some(now);
        }
    }

    /// The lease was not written: try again soon.
    pub(crate) fn failed(&mut self, node: &NodeName, now: u64, after: u64) {
        let Some(known) = self.nodes.get_mut(node) else { return };
        if self.queue.remove(&(known.due, node.clone())) {
            known.due = now + after;
            self.queue.insert((known.due, node.clone()));
        }
    }

    /// Forgets nodes that are absent for long.
    pub(crate) fn forget(&mut self, now: u64) {
        self.nodes.retain(|_, node| !matches!(node.link, Link::Down(at) if now >= at + REMEMBER_MS));
    }

    /// Whether a hub has a session of the node now.
    pub(crate) fn is_connected(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|node| matches!(node.link, Link::Up(_)))
    }

    /// Connected nodes.
    pub(crate) fn connected(&self) -> usize {
        self.hubs.values().map(|hub| hub.nodes.len()).sum()
    }

    /// Nodes whose leases are renewed.
    pub(crate) fn renewing(&self) -> usize {
        self.queue.len()
    }
}

fn hash(node: &NodeName) -> u64 {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn node(i: u64) -> NodeName {
        NodeName::parse(&format!("edge-{i}")).unwrap()
    }

    fn hub(presence: &mut Presence, number: u64) {
        presence.hub_connected(number);
        presence.snapshot_done(number);
    }

    #[test]
    fn a_connected_node_is_renewed_once_per_interval() {
        let mut presence = Presence::default();
        hub(&mut presence, 1);
        for i in 0..100 {
            presence.joined(1, &node(i), 5, 0);
        }
        let mut count = HashMap::new();
        for now in (0..100_000).step_by(100) {
            for (node, session, _) in presence.take_due(now, 20) {
                assert_eq!(session, 5);
                *count.entry(node).or_insert(0) += 1;
            }
        }
        assert_eq!(count.len(), 100);
        assert!(count.values().all(|n| (10..=12).contains(n)), "{count:?}");
    }

    #[test]
    fn the_nodes_of_a_lost_hub_have_a_grace() {
        let mut presence = Presence::default();
        hub(&mut presence, 1);
        presence.joined(1, &node(1), 5, 0);
        presence.joined(1, &node(2), 5, 0);
        assert_eq!(presence.take_due(0, 10).len(), 2);
        presence.hub_lost(1, 1_000);
        assert_eq!(presence.connected(), 0);
        assert_eq!(presence.take_due(10_100, 10).len(), 2);
        hub(&mut presence, 2);
        presence.joined(2, &node(2), 6, 12_000);
        let due: Vec<_> = presence.take_due(30_000, 10).into_iter().map(|(n, s, _)| (n, s)).collect();
        assert_eq!(due, [(node(2), 6)]);
        assert!(!presence.is_connected(&node(1)));
    }

    /// Writes for a node that comes and goes every second, fifty times.
    fn writes_of_a_flapping_node(remember: bool) -> usize {
        let mut presence = Presence::default();
        hub(&mut presence, 1);
        let mut writes = 0;
        for session in 1..=50 {
            let now = session * 1_000;
            presence.joined(1, &node(1), session, now);
            for (node, ..) in presence.take_due(now, 10) {
                if remember {
                    presence.renewed(&node, now);
                }
                writes += 1;
            }
            presence.left(1, &node(1), session, now + 500);
        }
        writes
    }

    #[test]
    fn a_flapping_node_costs_no_extra_writes() {
        let writes = writes_of_a_flapping_node(true);
        assert!((5..=7).contains(&writes), "{writes}");
    }

    /// The control: without the memory of the last renewal each return is a write.
    #[test]
    fn control_without_a_memory_each_return_is_a_write() {
        assert_eq!(writes_of_a_flapping_node(false), 50);
    }

    #[test]
    fn an_older_session_changes_nothing() {
        let mut presence = Presence::default();
        hub(&mut presence, 1);
        hub(&mut presence, 2);
        presence.joined(2, &node(1), 9, 0);
        presence.joined(1, &node(1), 8, 0);
        presence.left(1, &node(1), 8, 0);
        presence.left(2, &node(1), 8, 0);
        assert!(presence.is_connected(&node(1)));
        presence.left(1, &node(1), 0, 0);
        assert!(presence.is_connected(&node(1)), "another hub has it");
        presence.left(2, &node(1), 0, 0);
        assert!(!presence.is_connected(&node(1)));
        assert_eq!(presence.renewing(), 0);
        presence.forget(REMEMBER_MS);
        assert!(presence.nodes.is_empty());
    }

    #[test]
    fn a_failed_renewal_is_due_soon() {
        let mut presence = Presence::default();
        hub(&mut presence, 1);
        presence.joined(1, &node(1), 1, 0);
        assert_eq!(presence.take_due(0, 1).len(), 1);
        presence.failed(&node(1), 100, 1_000);
        assert!(presence.take_due(1_099, 1).is_empty());
        assert_eq!(presence.take_due(1_100, 1).len(), 1);
    }
}
