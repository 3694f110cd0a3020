//! The authorizer against a table that was written apart from it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A small cluster.
#[derive(Debug, Clone, Default)]
struct Cluster {
    /// Pod to node.
    bound: BTreeMap<Key, String>,
    /// Pod to what it refers to.
    refs: BTreeSet<(Key, Kind, Key)>,
    /// Claim to volume.
    claims: BTreeMap<Key, Key>,
}

impl Graph for Cluster {
    fn bound_node(&self, _: Kind, pod: &Key) -> Option<NodeName> {
        self.bound.get(pod).map(|n| NodeName::parse(n).unwrap())
    }

    fn refers(&self, node: &NodeName, kind: Kind, key: &Key) -> bool {
        let mine = |pod: &Key| self.bound.get(pod).map(String::as_str) == Some(node.as_str());
        self.refs.iter().any(|(pod, k, object)| {
            mine(pod)
                && ((*k == kind && object == key)
                    || (kind == Kind::PersistentVolume
                        && *k == Kind::PersistentVolumeClaim
                        && self.claims.get(object) == Some(key)))
        })
    }
}

/// The oracle: the rules as sentences of the Kubernetes documentation, one line each. It knows names and
/// sets only, and shares no code with the authorizer.
fn oracle(cluster: &Cluster, node: &str, verb: Verb, kind: Kind, key: &Key) -> &'static str {
    let pods: Vec<&Key> = cluster.bound.iter().filter(|(_, n)| *n == node).map(|(p, _)| p).collect();
    let refers =
        |kind: Kind, key: &Key| pods.iter().any(|pod| cluster.refs.contains(&((*pod).clone(), kind, key.clone())));
    let rules: &[(&[Verb], &[Kind], &str)] = &[
        // "A kubelet may read and write its own Node and its status, and record events about it."
        (&[Verb::Read, Verb::Register, Verb::UpdateStatus, Verb::Record], &[Kind::Node], "self"),
        // "... pods bound to it: read, update status, delete (NodeRestriction), events, bound tokens."
        // "NodeRestriction: may create mirror pods bound to itself", whose other rules are in `apply::mirror`.
        (
            &[Verb::Read, Verb::Register, Verb::UpdateStatus, Verb::Delete, Verb::Record, Verb::RequestToken],
            &[Kind::Pod],
            "bound",
        ),
        // "A node sees and reports only devices assigned to it."
        (&[Verb::Read, Verb::UpdateStatus, Verb::SetDesired, Verb::Record], &[Kind::Device], "bound"),
        // "Services and EndpointSlices may be read by every node."
        (&[Verb::Read], &[Kind::Service, Kind::EndpointSlice], "any"),
        // "Secrets, ConfigMaps, PVCs only when a pod of the node refers to them."
        (
            &[Verb::Read],
            &[
                Kind::Secret,
                Kind::ConfigMap,
                Kind::PersistentVolumeClaim,
                Kind::Namespace,
                Kind::RuntimeClass,
                Kind::DeviceModel,
            ],
            "referenced",
        ),
        // "PVs through a claim of a pod of the node."
        (&[Verb::Read], &[Kind::PersistentVolume], "volume"),
        (&[Verb::Read], &[Kind::ServiceAccountToken], "pod decides"),
    ];
    let Some((_, _, rule)) = rules.iter().find(|(verbs, kinds, _)| verbs.contains(&verb) && kinds.contains(&kind))
    else {
        return "deny";
    };
    match *rule {
        "self" if key.to_string() == node => "allow",
        "bound" if pods.contains(&key) => "allow",
        "bound" if !cluster.bound.contains_key(key) => "unknown",
        "any" => "allow",
        "referenced" if refers(kind, key) => "allow",
        "volume" if cluster.claims.iter().any(|(c, v)| v == key && refers(Kind::PersistentVolumeClaim, c)) => "allow",
        "pod decides" => "unknown",
        _ => "deny",
    }
}

fn key() -> impl Strategy<Value = Key> {
    (prop_oneof![Just(""), Just("a"), Just("b")], prop_oneof![Just("n1"), Just("n2"), Just("x"), Just("y")])
        .prop_map(|(ns, name)| Key::new(ns, name))
}

fn kind() -> impl Strategy<Value = Kind> {
    (0..Kind::ALL.len()).prop_map(|i| Kind::ALL[i])
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let bound = proptest::collection::btree_map(key(), prop_oneof![Just("n1".to_owned()), Just("n2".to_owned())], 0..4);
    let refs = proptest::collection::btree_set((key(), kind(), key()), 0..12);
    let claims = proptest::collection::btree_map(key(), key(), 0..4);
    (bound, refs, claims).prop_map(|(bound, refs, claims)| Cluster {
        bound,
        // A pod refers to claims, never to volumes.
        refs: refs.into_iter().filter(|(_, kind, _)| *kind != Kind::PersistentVolume).collect(),
        claims,
    })
}

fn verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        4 => Just(Verb::Read),
        1 => Just(Verb::Register),
        1 => Just(Verb::UpdateStatus),
        1 => Just(Verb::Delete),
        1 => Just(Verb::Record),
        1 => Just(Verb::RequestToken),
        1 => Just(Verb::SetDesired),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A node reads and writes only its own objects (A3).
    #[test]
    fn the_authorizer_equals_the_oracle(
        cluster in cluster(), node in prop_oneof![Just("n1"), Just("n2")], verb in verb(), kind in kind(), key in key()
    ) {
        let name = NodeName::parse(node).unwrap();
        let decided = match authorize(&name, verb, kind, &key, &cluster) {
            Decision::Allow => "allow",
            Decision::Deny(_) => "deny",
            Decision::Unknown => "unknown",
        };
        prop_assert_eq!(decided, oracle(&cluster, node, verb, kind, &key), "{} {:?} {:?} {:?}", node, verb, kind, key);
    }
}
