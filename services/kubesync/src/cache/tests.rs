//! The cache: what a node may be told, and when.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::authorize::{Decision, Verb, authorize};
use crate::trim::trim;

fn object(kind: Kind, namespace: &str, name: &str, rest: Value) -> Trimmed {
    let mut value = json!({"metadata": {"name": name, "namespace": namespace, "uid": format!("{kind:?}-{name}")}});
    value.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    if namespace.is_empty() {
        value["metadata"].as_object_mut().unwrap().remove("namespace");
    }
    trim(kind, &kind.resource().unwrap(), serde_json::from_value(value).unwrap()).unwrap()
}

fn pod(name: &str, node: &str, maps: &[&str]) -> Trimmed {
    let from: Vec<Value> = maps.iter().map(|m| json!({"configMapRef": {"name": m}})).collect();
    let token = json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}});
    let spec = json!({"nodeName": node, "containers": [{"name": "c", "envFrom": from}], "volumes": [token,
        {"persistentVolumeClaim": {"claimName": format!("{name}-data")}}]});
    object(Kind::Pod, "ns", name, json!({ "spec": spec }))
}

fn map(name: &str, value: &str) -> Trimmed {
    object(Kind::ConfigMap, "ns", name, json!({"data": {"k": value}}))
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn key(name: &str) -> Key {
    Key::new("ns", name)
}

fn synced() -> Cache {
    let cache = Cache::new(Kind::Pod);
    for kind in Kind::ALL {
        cache.init(kind);
        cache.init_done(kind);
    }
    cache
}

fn sight(cache: &Cache, n: &str, kind: Kind, name: &str) -> &'static str {
    match cache.read().visible(&node(n), kind, &key(name)) {
        Sight::Visible(_) => "visible",
        Sight::Absent => "absent",
        Sight::Unproven => "unproven",
        Sight::Unsettled => "unsettled",
    }
}

#[test]
fn a_node_sees_its_pods_and_what_they_refer_to() {
    let cache = synced();
    cache.apply(Kind::Pod, pod("web", "n1", &["cm"]));
    cache.apply(Kind::ConfigMap, map("cm", "1"));
    cache.apply(Kind::ConfigMap, map("other", "1"));
    cache.declare(&node("n1"), Vec::new());
    cache.declare(&node("n2"), Vec::new());
    assert_eq!(sight(&cache, "n1", Kind::Pod, "web"), "visible");
    assert_eq!(sight(&cache, "n1", Kind::ConfigMap, "cm"), "visible");
    assert_eq!(sight(&cache, "n1", Kind::ConfigMap, "other"), "absent");
    assert_eq!(sight(&cache, "n2", Kind::Pod, "web"), "absent");
    assert_eq!(sight(&cache, "n2", Kind::ConfigMap, "cm"), "absent");
    assert_eq!(cache.read().keys(&node("n1"), Kind::ConfigMap), [key("cm")]);
    assert_eq!(cache.read().keys(&node("n1"), Kind::ServiceAccountToken).len(), 1);
}

#[test]
fn before_the_first_list_nothing_is_absent() {
    let cache = Cache::new(Kind::Pod);
    cache.init(Kind::Pod);
    cache.declare(&node("n1"), vec![key("web")]);
    assert_eq!(sight(&cache, "n1", Kind::Pod, "web"), "unsettled");
    assert_eq!(sight(&cache, "n1", Kind::ConfigMap, "cm"), "unsettled");
}

/// N5: an empty or failed list never deletes.
#[test]
fn a_list_that_lacks_a_key_deletes_nothing() {
    let cache = synced();
    cache.apply(Kind::Pod, pod("web", "n1", &["cm"]));
    cache.apply(Kind::ConfigMap, map("cm", "1"));
    cache.declare(&node("n1"), vec![key("web")]);
    for kind in [Kind::Pod, Kind::ConfigMap] {
        cache.init(kind);
        let (wakes, suspects) = cache.init_done(kind);
        assert!(wakes.is_empty());
        assert_eq!(suspects.len(), 1);
    }
    assert_eq!(sight(&cache, "n1", Kind::Pod, "web"), "visible");
    assert_eq!(sight(&cache, "n1", Kind::ConfigMap, "cm"), "visible");
    // The API server says by name that it is gone.
    let before = cache.snapshot(Kind::Pod, &key("web"));
    let wakes = cache.confirmed(Kind::Pod, &key("web"), before, None);
    assert!(wakes.contains(&Wake::Key(node("n1"), Kind::Pod, key("web"))));
    assert!(wakes.contains(&Wake::Key(node("n1"), Kind::ConfigMap, key("cm"))));
    assert_eq!(sight(&cache, "n1", Kind::Pod, "web"), "absent");
}

/// N5, after a restart: the first list is truncated, and the node holds more.
#[test]
fn what_a_node_holds_is_proven_before_it_is_absent() {
    let cache = synced();
    cache.declare(&node("n1"), vec![key("web")]);
    assert_eq!(sight(&cache, "n1", Kind::Pod, "web"), "unproven");
    // Its ConfigMap is not unreferenced as long as the pod may exist.
    assert_eq!(sight(&cache, "n1", Kind::ConfigMap, "cm"), "unsettled");
    let before = cache.snapshot(Kind::Pod, &key("web"));
    let wakes = cache.confirmed(Kind::Pod, &key("web"), before, Some(pod("web", "n1", &["cm"])));
    assert!(wakes.contains(&Wake::Node(node("n1"))));
    assert_eq!(sight(&cache, "n1", Kind::Pod, "web"), "visible");
    assert_eq!(sight(&cache, "n1", Kind::ConfigMap, "cm"), "unproven");
    assert_eq!(sight(&cache, "n1", Kind::ConfigMap, "unreferenced"), "absent");
}

#[test]
fn a_late_answer_does_not_undo_newer_news() {
    let cache = synced();
    cache.apply(Kind::ConfigMap, map("cm", "1"));
    let before = cache.snapshot(Kind::ConfigMap, &key("cm"));
    cache.apply(Kind::ConfigMap, map("cm", "2"));
    cache.confirmed(Kind::ConfigMap, &key("cm"), before, None);
    assert!(cache.read().get(Kind::ConfigMap, &key("cm")).is_some());

    let before = cache.snapshot(Kind::ConfigMap, &key("cm"));
    cache.delete(Kind::ConfigMap, &key("cm"));
    cache.confirmed(Kind::ConfigMap, &key("cm"), before, Some(map("cm", "2")));
    assert!(cache.read().get(Kind::ConfigMap, &key("cm")).is_none());
}

#[test]
fn a_change_that_the_edge_cannot_see_wakes_nobody() {
    let cache = synced();
    assert!(!cache.apply(Kind::Pod, pod("web", "n1", &["cm"])).is_empty());
    assert_eq!(cache.apply(Kind::Pod, pod("web", "n1", &["cm"])), []);
    cache.apply(Kind::ConfigMap, map("cm", "1"));
    assert_eq!(cache.apply(Kind::ConfigMap, map("cm", "1")), []);
    let wakes = cache.apply(Kind::ConfigMap, map("cm", "2"));
    assert_eq!(wakes, [Wake::Key(node("n1"), Kind::ConfigMap, key("cm"))]);
    // Nobody refers to it.
    assert_eq!(cache.apply(Kind::ConfigMap, map("other", "1")), []);
}

#[test]
fn a_volume_is_seen_through_its_claim() {
    let cache = synced();
    cache.apply(Kind::Pod, pod("web", "n1", &[]));
    cache.declare(&node("n1"), Vec::new());
    let volume = Key::new("", "pv-1");
    let visible =
        |cache: &Cache| matches!(cache.read().visible(&node("n1"), Kind::PersistentVolume, &volume), Sight::Visible(_));
    cache.apply(
        Kind::PersistentVolume,
        object(
            Kind::PersistentVolume,
            "",
            "pv-1",
            json!({"spec": {"claimRef": {"namespace": "ns", "name": "web-data"}}}),
        ),
    );
    assert!(!visible(&cache));
    let claim = object(Kind::PersistentVolumeClaim, "ns", "web-data", json!({"spec": {"volumeName": "pv-1"}}));
    let wakes = cache.apply(Kind::PersistentVolumeClaim, claim);
    assert!(wakes.contains(&Wake::Key(node("n1"), Kind::PersistentVolume, volume.clone())));
    assert!(visible(&cache));
    let wakes = cache.delete(Kind::Pod, &key("web"));
    assert!(wakes.contains(&Wake::Key(node("n1"), Kind::PersistentVolume, volume.clone())));
    assert!(!visible(&cache));
}

#[derive(Debug, Clone)]
enum Step {
    Apply(u8, u8, Vec<u8>),
    Delete(u8),
    Map(u8, u8),
    DeleteMap(u8),
    Relist(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8, 0..3_u8, proptest::collection::vec(0..4_u8, 0..3)).prop_map(|(p, n, m)| Step::Apply(p, n, m)),
        (0..4_u8).prop_map(Step::Delete),
        (0..4_u8, 0..3_u8).prop_map(|(m, v)| Step::Map(m, v)),
        (0..4_u8).prop_map(Step::DeleteMap),
        proptest::collection::vec(0..4_u8, 0..4).prop_map(Step::Relist),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// After any history: a view shows only what the authorizer allows, the index equals one computed from
    /// nothing, and no list took anything away.
    #[test]
    fn a_view_shows_only_what_the_authorizer_allows(steps in proptest::collection::vec(step(), 0..60)) {
        let cache = synced();
        let mut pods: std::collections::BTreeMap<u8, (u8, Vec<u8>)> = Default::default();
        for n in 0..3 {
            cache.declare(&node(&format!("n{n}")), Vec::new());
        }
        for step in steps {
            match step {
                Step::Apply(p, n, maps) => {
                    let names: Vec<String> = maps.iter().map(|m| format!("m{m}")).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    cache.apply(Kind::Pod, pod(&format!("p{p}"), &format!("n{n}"), &names));
                    pods.insert(p, (n, maps));
                }
                Step::Delete(p) => {
                    cache.delete(Kind::Pod, &key(&format!("p{p}")));
                    pods.remove(&p);
                }
                Step::Map(m, v) => drop(cache.apply(Kind::ConfigMap, map(&format!("m{m}"), &v.to_string()))),
                Step::DeleteMap(m) => drop(cache.delete(Kind::ConfigMap, &key(&format!("m{m}")))),
                Step::Relist(listed) => {
                    cache.init(Kind::Pod);
                    for p in listed {
                        cache.init_seen(Kind::Pod, key(&format!("p{p}")));
                    }
                    cache.init_done(Kind::Pod);
                }
            }
        }
        for n in 0..3_u8 {
            let name = node(&format!("n{n}"));
            let expected: std::collections::BTreeSet<String> =
                pods.values().filter(|(on, _)| *on == n).flat_map(|(_, m)| m.iter().map(|m| format!("ns/m{m}"))).collect();
            let got: std::collections::BTreeSet<String> =
                cache.read().keys(&name, Kind::ConfigMap).iter().map(ToString::to_string).collect();
            prop_assert_eq!(got, expected);
            for i in 0..4_u8 {
                for (kind, object) in [(Kind::Pod, format!("p{i}")), (Kind::ConfigMap, format!("m{i}"))] {
                    let object = key(&object);
                    let visible = matches!(cache.read().visible(&name, kind, &object), Sight::Visible(_));
                    let allowed = authorize(&name, Verb::Read, kind, &object, &cache) == Decision::Allow;
                    prop_assert!(!visible || allowed, "{:?} sees {:?} {:?}", name, kind, object);
                }
            }
        }
    }
}

#[test]
fn a_node_that_is_not_registered_is_unproven() {
    let cache = synced();
    let key = Key::new("", "n1");
    assert!(matches!(cache.read().visible(&node("n1"), Kind::Node, &key), Sight::Unproven));
    assert_eq!(cache.read().keys(&node("n1"), Kind::Node), [key]);
}
