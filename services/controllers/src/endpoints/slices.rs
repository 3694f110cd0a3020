//! Packs endpoints into slices, changing as few slices as possible.
//!
//! Pure. An endpoint stays in the slice that has it; new ones go into slices with room, then into new
//! slices; slices that are left empty go.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::desired::Group;
use crate::names;
use crate::pods::{controller_ref, name};

/// Most endpoints in a slice, as in Kubernetes: a change of one endpoint sends at most this many.
pub(super) const MAX_ENDPOINTS: usize = 100;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// The writes that bring the slices to what they should be.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(SERVICE_NAME.to_owned(), name(service).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

fn identity(endpoint: &Endpoint) -> (Option<String>, Vec<String>) {
    (endpoint.target_ref.as_ref().and_then(|t| t.uid.clone()), endpoint.addresses.clone())
}

/// Compares slices and groups.
pub(super) fn plan(service: &Service, groups: Vec<Group>, existing: &[Arc<EndpointSlice>]) -> Plan {
    let labels = labels(service);
    let mut plan = Plan::default();
    let mut left: Vec<&Arc<EndpointSlice>> =
        existing.iter().filter(|s| s.metadata.deletion_timestamp.is_none()).collect();
    left.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for group in groups {
        let (mine, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|s| {
            s.address_type == group.address_type && s.ports.as_deref().unwrap_or_default() == group.ports
        });
        left = others;
        pack(service, &labels, group, mine, &mut plan);
    }
    plan.delete.extend(left.into_iter().cloned());
    plan
}

fn pack(
    service: &Service,
    labels: &BTreeMap<String, String>,
    group: Group,
    mine: Vec<&Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let mut wanted: HashMap<_, Endpoint> = HashMap::new();
    let mut order = Vec::new();
    for endpoint in group.endpoints {
        let id = identity(&endpoint);
        if wanted.insert(id.clone(), endpoint).is_none() {
            order.push(id);
        }
    }
    let mut kept: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in mine {
        let endpoints = slice.endpoints.iter().filter_map(|e| wanted.remove(&identity(e))).collect();
        kept.push((slice, endpoints));
    }
    let mut fresh: VecDeque<Endpoint> = order.iter().filter_map(|id| wanted.remove(id)).collect();
    for (_, endpoints) in &mut kept {
        let room = MAX_ENDPOINTS.saturating_sub(endpoints.len()).min(fresh.len());
        endpoints.extend(fresh.drain(..room));
    }
    let total: usize = kept.iter().map(|(_, e)| e.len()).sum::<usize>() + fresh.len();
    let mut placeholder = total == 0;
    for (slice, endpoints) in kept {
        if endpoints.is_empty() && !std::mem::take(&mut placeholder) {
            plan.delete.push(slice.clone());
        } else if endpoints != slice.endpoints || slice.metadata.labels.as_ref() != Some(labels) {
            let mut changed = slice.as_ref().clone();
            changed.endpoints = endpoints;
            changed.metadata.labels = Some(labels.clone());
            plan.update.push(changed);
        }
    }
    while placeholder || !fresh.is_empty() {
        placeholder = false;
        let count = fresh.len().min(MAX_ENDPOINTS);
        plan.create.push(EndpointSlice {
            metadata: ObjectMeta {
                name: Some(names::generate(name(service))),
                generate_name: Some(format!("{}-", name(service))),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels.clone()),
                owner_references: Some(vec![controller_ref(service)]),
                ..Default::default()
            },
            address_type: group.address_type.to_owned(),
            ports: Some(group.ports.clone()),
            endpoints: fresh.drain(..count).collect(),
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn service() -> Service {
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns", "uid": "u"}})).unwrap()
    }

    fn group(ids: impl IntoIterator<Item = u32>) -> Group {
        let endpoint =
            |id: u32| Endpoint { addresses: vec![format!("10.0.{}.{}", id / 250, id % 250)], ..Default::default() };
        Group { address_type: "IPv4", ports: Vec::new(), endpoints: ids.into_iter().map(endpoint).collect() }
    }

    fn apply(existing: &[Arc<EndpointSlice>], plan: Plan) -> Vec<Arc<EndpointSlice>> {
        let mut by_name: BTreeMap<_, _> = existing.iter().map(|s| (s.metadata.name.clone(), s.clone())).collect();
        for slice in plan.delete {
            by_name.remove(&slice.metadata.name);
        }
        for slice in plan.update.into_iter().chain(plan.create) {
            by_name.insert(slice.metadata.name.clone(), Arc::new(slice));
        }
        by_name.into_values().collect()
    }

    #[test]
    fn one_change_touches_one_slice() {
        let slices = apply(&[], plan(&service(), vec![group(0..250)], &[]));
        assert_eq!(slices.len(), 3);
        let unchanged = plan(&service(), vec![group(0..250)], &slices);
        assert!(unchanged.create.is_empty() && unchanged.update.is_empty() && unchanged.delete.is_empty());
        let one_less = plan(&service(), vec![group(1..250)], &slices);
        assert_eq!((one_less.create.len(), one_less.update.len(), one_less.delete.len()), (0, 1, 0));
    }

    #[test]
    fn a_service_without_endpoints_keeps_one_empty_slice() {
        let slices = apply(&[], plan(&service(), vec![group(0..3)], &[]));
        let slices = apply(&slices, plan(&service(), vec![group([])], &slices));
        assert_eq!(slices.len(), 1);
        assert!(slices[0].endpoints.is_empty());
        let again = plan(&service(), vec![group([])], &slices);
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
    }

    #[test]
    fn labels_follow_the_service() {
        let slices = apply(&[], plan(&service(), vec![group(0..3)], &[]));
        let mut relabelled = service();
        relabelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        let plan = plan(&relabelled, vec![group(0..3)], &slices);
        assert_eq!(plan.update.len(), 1);
        assert_eq!(plan.update[0].metadata.labels.as_ref().unwrap()["kubernetes.io/service-name"], "s");
    }

    proptest! {
        #[test]
        fn slices_hold_exactly_what_is_wanted(steps in proptest::collection::vec(proptest::collection::btree_set(0_u32..400, 0..300), 1..5)) {
            let mut slices = Vec::new();
            for wanted in steps {
                slices = apply(&slices, plan(&service(), vec![group(wanted.iter().copied())], &slices));
                let have: Vec<_> = slices.iter().flat_map(|s| s.endpoints.iter().map(|e| e.addresses[0].clone())).collect();
                let want: BTreeSet<_> = group(wanted.iter().copied()).endpoints.into_iter().map(|e| e.addresses[0].clone()).collect();
                prop_assert_eq!(have.len(), want.len(), "no duplicates");
                prop_assert_eq!(have.into_iter().collect::<BTreeSet<_>>(), want);
                prop_assert!(slices.iter().all(|s| s.endpoints.len() <= MAX_ENDPOINTS));
                prop_assert!(!slices.is_empty());
            }
        }
    }
}
