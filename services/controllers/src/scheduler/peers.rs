//! Required affinity and anti-affinity between pods, and hard topology spread constraints.
//!
//! Pure. Before the nodes are looked at, [`Rules::of`] turns the constraints of a pod into sets of topology
//! values; then each node costs a lookup. Pods without such constraints, in a cluster where no pod has
//! anti-affinity, cost nothing.
//!
//! Limits: a pod with constraints looks at every placed pod once. Preferred terms, `minDomains`,
//! `matchLabelKeys` and `nodeTaintsPolicy` are not looked at.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, TopologySpreadConstraint};
use skerry_common::Key;

use super::filter::Reason;
use super::model::{Model, NodeState};
use crate::labels::{Selector, pod_selects_node};
use crate::pods::namespace;

type Labels = BTreeMap<String, String>;

/// What the rules need to know of the cluster beside the model.
pub(super) trait Cluster {
    /// The pod with this key.
    fn pod(&self, key: &Key) -> Option<Arc<Pod>>;
    /// The labels of a namespace.
    fn namespace_labels(&self, name: &str) -> Option<Labels>;
}

/// The constraints of one pod, ready to be checked against nodes.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Topology key and the values where a wanted peer is; `None`: anywhere with the key, since no peer
    /// exists and the pod would be its own.
    near: Vec<(String, Option<HashSet<String>>)>,
    /// Topology keys and values where a peer is that the pod does not want.
    away: HashSet<(String, String)>,
    /// Topology keys and values where a peer is that does not want the pod.
    unwanted: HashSet<(String, String)>,
    spread: Vec<Spread>,
}

#[derive(Debug)]
struct Spread {
    key: String,
    counts: HashMap<String, i32>,
    least: i32,
    max_skew: i32,
    /// 1 when the pod itself counts.
    own: i32,
}

fn near_terms(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.pod_affinity.as_ref());
    affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

fn away_terms(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.pod_anti_affinity.as_ref());
    affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

fn spread_constraints(pod: &Pod) -> impl Iterator<Item = &TopologySpreadConstraint> {
    let all = pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or_default();
    all.iter().filter(|c| c.when_unsatisfiable == "DoNotSchedule")
}

/// Does the pod keep others away?
pub(super) fn repels(pod: &Pod) -> bool {
    !away_terms(pod).is_empty()
}

fn topology<'n>(state: &'n NodeState, key: &str) -> Option<&'n String> {
    state.node.as_ref()?.metadata.labels.as_ref()?.get(key)
}

/// Does `term` of a pod in namespace `home` mean `other`?
fn term_means(term: &PodAffinityTerm, home: &str, other: &Pod, cluster: &impl Cluster) -> bool {
    let space = namespace(other);
    let named = term.namespaces.as_deref().unwrap_or_default();
    let in_scope = named.iter().any(|n| n == space)
        || match &term.namespace_selector {
            Some(selector) => Selector::parse(selector)
                .is_ok_and(|s| s.is_empty() || s.matches(cluster.namespace_labels(space).as_ref())),
            None => named.is_empty() && space == home,
        };
    in_scope && selects(term.label_selector.as_ref(), other)
}

fn selects(selector: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>, pod: &Pod) -> bool {
    // No selector selects nothing; an empty one selects everything.
    selector.and_then(|s| Selector::parse(s).ok()).is_some_and(|s| s.matches(pod.metadata.labels.as_ref()))
}

impl Rules {
    /// The rules of `pod`; `None` when there are none.
    pub(super) fn of(pod: &Pod, model: &Model, cluster: &impl Cluster) -> Option<Self> {
        let (near, away) = (near_terms(pod), away_terms(pod));
        let spread: Vec<&TopologySpreadConstraint> = spread_constraints(pod).collect();
        let mut rules = Self::default();
        for (key, state) in model.repelling() {
            let Some(other) = cluster.pod(key) else { continue };
            for term in away_terms(&other).iter().filter(|t| term_means(t, namespace(&*other), pod, cluster)) {
                if let Some(value) = topology(state, &term.topology_key) {
                    rules.unwanted.insert((term.topology_key.clone(), value.clone()));
                }
            }
        }
        if near.is_empty() && away.is_empty() && spread.is_empty() {
            return (!rules.unwanted.is_empty()).then_some(rules);
        }
        let home = namespace(pod);
        let mut found: Vec<HashSet<String>> = near.iter().map(|_| HashSet::new()).collect();
        let mut seen: Vec<bool> = near.iter().map(|_| false).collect();
        rules.spread = spread.iter().map(|c| Spread::new(c, pod, model)).collect();
        for (key, state) in model.placed() {
            let Some(other) = cluster.pod(key) else { continue };
            for ((term, values), seen) in near.iter().zip(&mut found).zip(&mut seen) {
                if term_means(term, home, &other, cluster) {
                    *seen = true;
                    values.extend(topology(state, &term.topology_key).cloned());
                }
            }
            for term in away.iter().filter(|t| term_means(t, home, &other, cluster)) {
                if let Some(value) = topology(state, &term.topology_key) {
                    rules.away.insert((term.topology_key.clone(), value.clone()));
                }
            }
            if namespace(&*other) == home && other.metadata.deletion_timestamp.is_none() {
                for (constraint, spread) in spread.iter().zip(&mut rules.spread) {
                    if selects(constraint.label_selector.as_ref(), &other)
                        && let Some(count) = topology(state, &spread.key).and_then(|v| spread.counts.get_mut(v))
                    {
                        *count += 1;
                    }
                }
            }
        }
        for spread in &mut rules.spread {
            spread.least = spread.counts.values().copied().min().unwrap_or(0);
        }
        rules.near = near
            .iter()
            .zip(found)
            .zip(seen)
            .map(|((term, values), seen)| {
                let own = !seen && term_means(term, home, pod, cluster);
                (term.topology_key.clone(), (!own).then_some(values))
            })
            .collect();
        Some(rules)
    }

    /// Why the node cannot take the pod, if it cannot.
    pub(super) fn check(&self, state: &NodeState) -> Option<Reason> {
        let blocked =
            |pairs: &HashSet<(String, String)>| pairs.iter().any(|(key, value)| topology(state, key) == Some(value));
        for spread in &self.spread {
            let Some(value) = topology(state, &spread.key) else { return Some(Reason::SpreadLabel) };
            let count = spread.counts.get(value).copied().unwrap_or(0);
            if count + spread.own - spread.least > spread.max_skew {
                return Some(Reason::Spread);
            }
        }
        let near = |(key, values): &(String, Option<HashSet<String>>)| {
            topology(state, key).is_some_and(|v| values.as_ref().is_none_or(|set| set.contains(v)))
        };
        if !self.near.iter().all(near) {
            return Some(Reason::PodAffinity);
        }
        if blocked(&self.away) {
            return Some(Reason::PodAntiAffinity);
        }
        blocked(&self.unwanted).then_some(Reason::ExistingAntiAffinity)
    }
}

impl Spread {
    fn new(constraint: &TopologySpreadConstraint, pod: &Pod, model: &Model) -> Self {
        let honor = constraint.node_affinity_policy.as_deref() != Some("Ignore");
        // Only domains where the pod could go count, as in Kubernetes.
        let eligible = model.nodes().iter().filter(|s| {
            let selected = |node| pod.spec.as_ref().is_none_or(|spec| pod_selects_node(spec, node));
            s.node.as_ref().is_some_and(|node| !honor || selected(node))
        });
        Self {
            counts: eligible.filter_map(|s| topology(s, &constraint.topology_key)).map(|v| (v.clone(), 0)).collect(),
            key: constraint.topology_key.clone(),
            least: 0,
            max_skew: constraint.max_skew,
            own: i32::from(selects(constraint.label_selector.as_ref(), pod)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::super::need::Need;
    use super::*;
    use serde_json::{Value, json};

    #[derive(Default)]
    struct World {
        model: Model,
        pods: HashMap<Key, Arc<Pod>>,
    }

    impl Cluster for World {
        fn pod(&self, key: &Key) -> Option<Arc<Pod>> {
            self.pods.get(key).cloned()
        }

        fn namespace_labels(&self, name: &str) -> Option<Labels> {
            Some([("name".to_owned(), name.to_owned())].into())
        }
    }

    fn pod(space: &str, app: &str, spec: Value) -> Pod {
        let mut base = json!({"containers": []});
        json_patch::merge(&mut base, &spec);
        serde_json::from_value(json!({"metadata": {"namespace": space, "labels": {"app": app}}, "spec": base})).unwrap()
    }

    impl World {
        /// Two zones of two nodes each: a1, a2, b1, b2.
        fn new() -> Self {
            let mut world = Self::default();
            for name in ["a1", "a2", "b1", "b2"] {
                let node = json!({"metadata": {"name": name, "labels": {"zone": &name[..1], "host": name}}});
                world.model.set_node(&Arc::new(serde_json::from_value(node).unwrap()));
            }
            world
        }

        fn place(mut self, node: &str, pod: Pod) -> Self {
            let key = Key::new(namespace(&pod), format!("p{}", self.pods.len()));
            self.model.place(&key, node, Need::of(&pod));
            self.pods.insert(key, Arc::new(pod));
            self
        }

        fn fits(&self, pod: &Pod) -> Vec<String> {
            let rules = Rules::of(pod, &self.model, self);
            let fits = |s: &&NodeState| rules.as_ref().is_none_or(|r| r.check(s).is_none());
            self.model.nodes().iter().filter(fits).map(|s| s.name.to_string()).collect()
        }
    }

    fn term(key: &str, app: &str) -> Value {
        json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
    }

    fn near(term: Value) -> Value {
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    }

    fn away(term: Value) -> Value {
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    }

    #[test]
    fn affinity_and_anti_affinity() {
        let plain = |app: &str| pod("ns", app, json!({}));
        let none: [&str; 0] = [];
        for (world, pod, expected) in [
            (World::new().place("a1", plain("x")), plain("y"), &["a1", "a2", "b1", "b2"][..]),
            (World::new().place("a1", plain("x")), pod("ns", "y", near(term("zone", "x"))), &["a1", "a2"]),
            (World::new().place("a1", plain("x")), pod("ns", "y", away(term("zone", "x"))), &["b1", "b2"]),
            (World::new().place("a1", plain("x")), pod("ns", "y", away(term("host", "x"))), &["a2", "b1", "b2"]),
            (World::new(), pod("ns", "y", near(term("zone", "x"))), &none),
            (World::new(), pod("ns", "x", near(term("zone", "x"))), &["a1", "a2", "b1", "b2"]),
            (World::new(), pod("ns", "x", near(term("rack", "x"))), &none),
            (World::new().place("a1", pod("ns", "x", away(term("zone", "y")))), plain("y"), &["b1", "b2"]),
            (World::new().place("a1", plain("x")), pod("other", "y", near(term("zone", "x"))), &none),
            (
                World::new().place("a1", plain("x")),
                pod("other", "y", near(json!({"topologyKey": "zone", "namespaces": ["ns"], "labelSelector": {}}))),
                &["a1", "a2"],
            ),
            (
                World::new().place("a1", plain("x")),
                pod(
                    "other",
                    "y",
                    away(json!({"topologyKey": "zone", "labelSelector": {},
                    "namespaceSelector": {"matchLabels": {"name": "ns"}}})),
                ),
                &["b1", "b2"],
            ),
        ] {
            assert_eq!(world.fits(&pod), expected, "{pod:?}");
        }
    }

    #[test]
    fn spread_keeps_the_skew() {
        let constraint = |key: &str, skew: i32| {
            json!({"topologySpreadConstraints": [{"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "x"}}}]})
        };
        let x = || pod("ns", "x", json!({}));
        let wanted = pod("ns", "x", constraint("zone", 1));
        assert_eq!(World::new().place("a1", x()).fits(&wanted), ["b1", "b2"]);
        assert_eq!(World::new().place("a1", x()).place("b1", x()).fits(&wanted).len(), 4);
        let loose = pod("ns", "x", constraint("zone", 2));
        assert_eq!(World::new().place("a1", x()).fits(&loose).len(), 4);
        assert!(World::new().fits(&pod("ns", "x", constraint("rack", 1))).is_empty());
        let soft = json!({"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}]});
        assert_eq!(World::new().place("a1", x()).fits(&pod("ns", "x", soft)).len(), 4);
    }
}
