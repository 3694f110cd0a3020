//! Who owns whom, by uid.
//!
//! No IO. Fed with the metadata of every object; says which objects have to be looked at after a change.
//!
//! Invariant: `dependents` of an owner are exactly the items that name its uid (a property test).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::ApiResource;
use skerry_common::Key;

/// The finalizer of an object that waits for its dependents.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependents are to be orphaned.
pub(super) const ORPHAN: &str = "orphan";

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) uid: Arc<str>,
    pub(super) resource: Arc<ApiResource>,
    pub(super) key: Key,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    pub(super) orphan: bool,
}

impl Item {
    /// `None` for an object without uid, which the API never gives.
    pub(super) fn new(resource: &Arc<ApiResource>, meta: &ObjectMeta) -> Option<Self> {
        let finalizers = meta.finalizers.as_deref().unwrap_or_default();
        Some(Self {
            uid: meta.uid.as_deref()?.into(),
            resource: resource.clone(),
            key: Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default()),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: finalizers.iter().any(|f| f == FOREGROUND),
            orphan: finalizers.iter().any(|f| f == ORPHAN),
        })
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Graph {
    items: HashMap<Arc<str>, Arc<Item>>,
    dependents: HashMap<Arc<str>, HashSet<Arc<str>>>,
}

impl Graph {
    /// The item with this uid.
    pub(super) fn get(&self, uid: &str) -> Option<Arc<Item>> {
        self.items.get(uid).cloned()
    }

    /// All uids.
    pub(super) fn uids(&self) -> Vec<Arc<str>> {
        self.items.keys().cloned().collect()
    }

    /// The items that name `uid` as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Arc<Item>> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|u| self.items.get(u).cloned()).collect()
    }

    /// Stores an item. Returns what has to be looked at.
    pub(super) fn put(&mut self, item: Item) -> Vec<Arc<str>> {
        let mut look = Vec::new();
        let old = self.items.get(&item.uid).cloned();
        let changed = old.as_ref().is_none_or(|o| {
            o.owners != item.owners
                || (o.deleting, o.foreground, o.orphan) != (item.deleting, item.foreground, item.orphan)
        });
        if let Some(old) = old {
            self.unlink(&old);
            // An owner that waits may have lost a dependent.
            look.extend(self.waiting_owners(&old));
        }
        for owner in &item.owners {
            self.dependents.entry(owner.uid.as_str().into()).or_default().insert(item.uid.clone());
        }
        let to_do = !item.owners.is_empty() || (item.deleting && (item.foreground || item.orphan));
        if changed && to_do {
            look.push(item.uid.clone());
        }
        self.items.insert(item.uid.clone(), Arc::new(item));
        look
    }

    /// The item is gone. Returns what has to be looked at.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<Arc<str>> {
        let Some(old) = self.items.remove(uid) else { return Vec::new() };
        self.unlink(&old);
        let mut look: Vec<Arc<str>> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        look.extend(self.waiting_owners(&old));
        look
    }

    fn waiting_owners(&self, item: &Item) -> Vec<Arc<str>> {
        let owners = item.owners.iter().filter_map(|o| self.items.get(o.uid.as_str()));
        owners.filter(|o| o.deleting && o.foreground).map(|o| o.uid.clone()).collect()
    }

    fn unlink(&mut self, item: &Item) {
        for owner in &item.owners {
            if let Some(set) = self.dependents.get_mut(owner.uid.as_str()) {
                set.remove(&item.uid);
                if set.is_empty() {
                    self.dependents.remove(owner.uid.as_str());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn item(uid: &str, owners: &[&str], deleting: bool, finalizers: &[&str]) -> Item {
        let resource = Arc::new(ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()));
        let meta = serde_json::from_value(serde_json::json!({
            "uid": uid, "name": uid, "namespace": "ns", "finalizers": finalizers,
            "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z"),
            "ownerReferences": owners.iter().map(|o| serde_json::json!({"uid": o, "name": o, "kind": "K", "apiVersion": "v1"})).collect::<Vec<_>>(),
        }))
        .unwrap();
        Item::new(&resource, &meta).unwrap()
    }

    fn names(mut uids: Vec<Arc<str>>) -> Vec<String> {
        uids.sort();
        uids.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_has_to_be_looked_at() {
        let mut graph = Graph::default();
        assert!(graph.put(item("owner", &[], false, &[])).is_empty());
        assert_eq!(names(graph.put(item("child", &["owner"], false, &[]))), ["child"]);
        assert!(graph.put(item("child", &["owner"], false, &[])).is_empty(), "nothing changed");
        assert_eq!(names(graph.put(item("owner", &[], true, &[FOREGROUND]))), ["owner"]);
        assert_eq!(names(graph.remove("child")), ["owner"], "a waiting owner hears of it");
        graph.put(item("child", &["owner"], false, &[]));
        assert_eq!(names(graph.remove("owner")), ["child"], "dependents of a gone owner");
    }

    proptest! {
        #[test]
        fn dependents_are_who_names_the_owner(ops in proptest::collection::vec((0_u8..5, proptest::collection::vec(0_u8..5, 0..3), any::<bool>()), 0..50)) {
            let mut graph = Graph::default();
            let mut truth: HashMap<u8, Vec<u8>> = HashMap::new();
            for (id, owners, put) in ops {
                if put {
                    let names: Vec<String> = owners.iter().map(ToString::to_string).collect();
                    graph.put(item(&id.to_string(), &names.iter().map(String::as_str).collect::<Vec<_>>(), false, &[]));
                    truth.insert(id, owners);
                } else {
                    graph.remove(&id.to_string());
                    truth.remove(&id);
                }
            }
            for owner in 0_u8..5 {
                let want = truth.values().filter(|o| o.contains(&owner)).count();
                prop_assert_eq!(graph.dependents(&owner.to_string()).len(), want);
            }
        }
    }
}
