//! The scheduler's picture of the cluster: nodes, and what the pods on them use.
//!
//! Kept up to date change by change by the scheduler's one task, so that placing a pod needs no list.
//! A pod that was just placed is in the picture at once (assumed), long before the API shows it.
//!
//! Invariant: what a node is said to use is the sum over the pods in `pods` that are on it (a property
//! test removes and adds in any order).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use skerry_common::Key;

use super::need::{Amounts, HostPort, Need};
use crate::taints;
use skerry_common::quantity;

/// The label that carries the host name of a node.
pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";
/// Pods per node when the node does not say, as kubelet's default.
const DEFAULT_PODS: i64 = 110;

/// One node and what is used of it.
#[derive(Debug)]
pub(crate) struct NodeState {
    pub(crate) name: Arc<str>,
    /// `None`: pods are bound to it but there is no Node object (yet).
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) allocatable: Amounts,
    pub(crate) max_pods: i64,
    pub(crate) used: Amounts,
    pub(crate) scored: (i64, i64),
    pub(crate) pods: i64,
    pub(crate) ports: BTreeMap<HostPort, u32>,
    pub(crate) owners: HashMap<Arc<str>, u32>,
}

impl NodeState {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            node: None,
            taints: Vec::new(),
            allocatable: Amounts::default(),
            max_pods: 0,
            used: Amounts::default(),
            scored: (0, 0),
            pods: 0,
            ports: BTreeMap::new(),
            owners: HashMap::new(),
        }
    }

    fn apply(&mut self, need: &Need, sign: i64) {
        self.used.add(&need.amounts, sign);
        self.scored.0 = self.scored.0.saturating_add(need.scored.0.saturating_mul(sign));
        self.scored.1 = self.scored.1.saturating_add(need.scored.1.saturating_mul(sign));
        self.pods += sign;
        for port in &need.ports {
            count(&mut self.ports, port, sign);
        }
        if let Some(owner) = &need.owner {
            let entry = self.owners.entry(owner.clone()).or_insert(0);
            *entry = entry.saturating_add_signed(if sign > 0 { 1 } else { -1 });
            if *entry == 0 {
                self.owners.remove(owner);
            }
        }
    }
}

fn count(ports: &mut BTreeMap<HostPort, u32>, port: &HostPort, sign: i64) {
    let entry = ports.entry(port.clone()).or_insert(0);
    *entry = entry.saturating_add_signed(if sign > 0 { 1 } else { -1 });
    if *entry == 0 {
        ports.remove(port);
    }
}

#[derive(Debug)]
struct Placed {
    node: usize,
    need: Need,
}

/// All nodes and placed pods; see the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Model {
    nodes: Vec<NodeState>,
    by_name: HashMap<Arc<str>, usize>,
    by_hostname: HashMap<String, HashSet<usize>>,
    pods: HashMap<Key, Placed>,
    /// Placed pods with required anti-affinity.
    repelling: HashSet<Key>,
    present: usize,
}

impl Model {
    /// All nodes, also those without a Node object.
    pub(crate) fn nodes(&self) -> &[NodeState] {
        &self.nodes
    }

    /// Number of Node objects.
    pub(crate) fn present(&self) -> usize {
        self.present
    }

    /// The node with this name.
    pub(crate) fn node(&self, name: &str) -> Option<(usize, &NodeState)> {
        let index = *self.by_name.get(name)?;
        self.nodes.get(index).map(|n| (index, n))
    }

    /// The nodes with this host name label.
    pub(crate) fn with_hostname(&self, hostname: &str) -> Vec<usize> {
        self.by_hostname.get(hostname).map(|s| s.iter().copied().collect()).unwrap_or_default()
    }

    /// Stores a Node. Returns whether pods that fitted nowhere may fit now.
    pub(crate) fn set_node(&mut self, node: &Arc<Node>) -> bool {
        let name: Arc<str> = node.metadata.name.as_deref().unwrap_or_default().into();
        let index = self.index_of(&name);
        let Some(state) = self.nodes.get_mut(index) else { return false };
        let old = state.node.replace(node.clone());
        let taints = taints::effective(node);
        let list = node.status.as_ref().and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let allocatable = Amounts::parse(list);
        let max_pods = list.and_then(|l| l.get("pods")).and_then(|q| quantity::units(&q.0)).unwrap_or(DEFAULT_PODS);
        let labels = node.metadata.labels.as_ref();
        let old_labels = old.as_ref().and_then(|n| n.metadata.labels.as_ref());
        let better = old.is_none()
            || old_labels != labels
            || state.taints != taints
            || state.allocatable != allocatable
            || state.max_pods != max_pods;
        (state.taints, state.allocatable, state.max_pods) = (taints, allocatable, max_pods);
        self.present += usize::from(old.is_none());
        let hostname = |l: Option<&BTreeMap<String, String>>| l.and_then(|l| l.get(HOSTNAME)).cloned();
        let (before, after) = (hostname(old_labels), hostname(labels));
        if before != after {
            if let Some(set) = before.and_then(|h| self.by_hostname.get_mut(&h)) {
                set.remove(&index);
            }
            if let Some(after) = after {
                self.by_hostname.entry(after).or_default().insert(index);
            }
        }
        better
    }

    /// The Node object is gone; the pods on it stay counted until they are gone too.
    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(state) = self.by_name.get(name).and_then(|i| self.nodes.get_mut(*i)) else { return };
        let Some(old) = state.node.take() else { return };
        state.taints.clear();
        self.present -= 1;
        // The entry itself stays: names of nodes come back, and there are few. Its index is stable.
        if let Some(hostname) = old.metadata.labels.as_ref().and_then(|l| l.get(HOSTNAME))
            && let (Some(set), Some(index)) = (self.by_hostname.get_mut(hostname), self.by_name.get(name))
        {
            set.remove(index);
        }
    }

    fn index_of(&mut self, name: &Arc<str>) -> usize {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let index = self.nodes.len();
        self.nodes.push(NodeState::new(name.clone()));
        self.by_name.insert(name.clone(), index);
        index
    }

    /// The pod is on this node, or is about to be. Returns whether that is new.
    pub(crate) fn place(&mut self, key: &Key, node: &str, need: Need) -> bool {
        if let Some(placed) = self.pods.get(key)
            && self.nodes.get(placed.node).is_some_and(|n| &*n.name == node)
            && placed.need == need
        {
            return false;
        }
        self.remove(key);
        let index = self.index_of(&node.into());
        if let Some(state) = self.nodes.get_mut(index) {
            state.apply(&need, 1);
        }
        if need.repels {
            self.repelling.insert(key.clone());
        }
        self.pods.insert(key.clone(), Placed { node: index, need });
        true
    }

    /// All placed pods and their nodes.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (&Key, &NodeState)> {
        self.pods.iter().filter_map(|(key, placed)| Some((key, self.nodes.get(placed.node)?)))
    }

    /// The placed pods with required anti-affinity, and their nodes.
    pub(crate) fn repelling(&self) -> impl Iterator<Item = (&Key, &NodeState)> {
        self.repelling.iter().filter_map(|key| Some((key, self.nodes.get(self.pods.get(key)?.node)?)))
    }

    /// The pod uses nothing any more. Returns whether it did.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let Some(placed) = self.pods.remove(key) else { return false };
        self.repelling.remove(key);
        if let Some(state) = self.nodes.get_mut(placed.node) {
            state.apply(&placed.need, -1);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn use_of_a_node_is_the_sum_of_its_pods(ops in proptest::collection::vec((0_u8..6, 0_u8..3, 0_i64..500, any::<bool>()), 0..60)) {
            let mut model = Model::default();
            let mut truth: HashMap<u8, (u8, i64)> = HashMap::new();
            for (pod, node, cpu, place) in ops {
                let key = Key::new("ns", format!("p{pod}"));
                if place {
                    let need = Need { amounts: Amounts { cpu, ..Amounts::default() }, owner: Some("o".into()),
                        ports: vec![HostPort { protocol: "TCP".into(), ip: "".into(), port: i32::from(pod) }],
                        ..Need::default() };
                    model.place(&key, &format!("n{node}"), need);
                    truth.insert(pod, (node, cpu));
                } else {
                    prop_assert_eq!(model.remove(&key), truth.remove(&pod).is_some());
                }
            }
            for node in 0_u8..3 {
                let on: Vec<_> = truth.values().filter(|(n, _)| *n == node).collect();
                let cpu: i64 = on.iter().map(|(_, c)| *c).sum();
                if let Some((_, state)) = model.node(&format!("n{node}")) {
                    prop_assert_eq!(state.used.cpu, cpu);
                    prop_assert_eq!(state.pods as usize, on.len());
                    prop_assert_eq!(state.ports.len(), on.len());
                    prop_assert_eq!(state.owners.get("o").copied().unwrap_or(0) as usize, on.len());
                } else {
                    prop_assert!(on.is_empty());
                }
            }
        }
    }
}
