//! Resources of a pod that change while it runs.
//!
//! The worker asks [`Allocation::settle`] at every turn: what the spec wants and the node can give is
//! allocated and from then on is what the plan works towards; until then the pod goes on with what it
//! has, and a condition says why. Pure. Invariants: a resize never ends a pod; a pod that the node took
//! keeps what it was given; after a restart of the agent the allocation is read from the last status.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodStatus, ResourceRequirements};

use super::memory::Memory;
use super::observed::Container;
use super::spec::is_sidecar;

/// Why a resize waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    /// `Deferred`: other pods have it now. `Infeasible`: the node is too small.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What each container was given, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allocation(BTreeMap<String, ResourceRequirements>);

impl Allocation {
    /// Allocates what `pod` wants if it `fits`; else puts into `pod` what it has.
    pub(crate) fn settle(
        &mut self,
        pod: &mut Pod,
        last: Option<&PodStatus>,
        fits: impl FnOnce(&Pod) -> Result<(), Pending>,
    ) -> Option<Pending> {
        let known = |name: &str| {
            let lists = last.map(|s| [&s.container_statuses, &s.init_container_statuses]).into_iter().flatten();
            let mut all = lists.flat_map(|l| l.iter().flatten());
            all.find(|s| s.name == name && s.container_id.is_some()).and_then(|s| s.resources.clone())
        };
        let mut differs = false;
        for c in resizable(pod) {
            let wanted = c.resources.clone().unwrap_or_default();
            let given =
                self.0.entry(c.name.clone()).or_insert_with(|| known(&c.name).unwrap_or_else(|| wanted.clone()));
            differs |= *given != wanted;
        }
        if !differs {
            return None;
        }
        match fits(pod) {
            Ok(()) => {
                for c in resizable(pod) {
                    self.0.insert(c.name.clone(), c.resources.clone().unwrap_or_default());
                }
                None
            }
            Err(pending) => {
                for c in resizable(pod) {
                    c.resources = self.0.get(&c.name).cloned();
                }
                Some(pending)
            }
        }
    }
}

fn resizable(pod: &mut Pod) -> impl Iterator<Item = &mut Spec> {
    let spec = pod.spec.iter_mut();
    spec.flat_map(|s| {
        let sidecars = s.init_containers.iter_mut().flatten().filter(|c| is_sidecar(c));
        s.containers.iter_mut().chain(sidecars)
    })
}

/// The form in which resources are written on a container.
pub(crate) fn text(spec: &Spec) -> String {
    spec.resources.as_ref().and_then(|r| serde_json::to_string(r).ok()).unwrap_or_else(|| "{}".into())
}

/// What a container has now: what it was created with, or what it was given since. `None`: an agent made
/// it that did not write it down; nothing is concluded then.
pub(crate) fn actual(c: &Container, memory: &Memory) -> Option<ResourceRequirements> {
    let since = memory.containers.get(&c.name).and_then(|m| m.resized.as_ref()).filter(|(id, _)| *id == c.id);
    serde_json::from_str(since.map_or(c.resources.as_str(), |(_, text)| text)).ok()
}

/// What is to be done about the resources of a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    InPlace,
    Restart,
}

pub(crate) fn change(spec: &Spec, c: &Container, memory: &Memory) -> Change {
    let Some(has) = actual(c, memory) else { return Change::None };
    let wanted = spec.resources.clone().unwrap_or_default();
    if has == wanted {
        return Change::None;
    }
    let differs = |name: &str| {
        let of =
            |r: &ResourceRequirements| [&r.requests, &r.limits].map(|m| m.as_ref().and_then(|m| m.get(name)).cloned());
        of(&has) != of(&wanted)
    };
    let policies = spec.resize_policy.as_deref().unwrap_or_default();
    let restart = policies.iter().any(|p| p.restart_policy == "RestartContainer" && differs(&p.resource_name));
    if restart { Change::Restart } else { Change::InPlace }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str) -> Pod {
        serde_json::from_value(
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}),
        )
        .unwrap()
    }

    fn cpu(pod: &Pod) -> String {
        pod.spec.as_ref().unwrap().containers.first().unwrap().resources.as_ref().unwrap().requests.as_ref().unwrap()
            ["cpu"]
            .0
            .clone()
    }

    #[test]
    fn what_fits_is_allocated_and_what_does_not_waits() {
        let mut allocation = Allocation::default();
        let never = |_: &Pod| -> Result<(), Pending> { Err(Pending { reason: "Deferred", message: "m".into() }) };
        assert_eq!(allocation.settle(&mut pod("1"), None, never), None, "what it began with is its own");
        let mut bigger = pod("2");
        assert_eq!(allocation.settle(&mut bigger, None, never).unwrap().reason, "Deferred");
        assert_eq!(cpu(&bigger), "1", "the pod goes on with what it has");
        let mut bigger = pod("2");
        assert_eq!(allocation.settle(&mut bigger, None, |_| Ok(())), None);
        assert_eq!(allocation.settle(&mut pod("2"), None, never), None);
        // Another process finds it in the last status.
        let status = json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "containerID": "x://1", "resources": {"requests": {"cpu": "1"}}}]});
        let status: PodStatus = serde_json::from_value(status).unwrap();
        let mut bigger = pod("2");
        assert!(Allocation::default().settle(&mut bigger, Some(&status), never).is_some());
        assert_eq!(cpu(&bigger), "1");
    }

    #[test]
    fn the_policy_of_what_changes_decides() {
        let spec = |cpu: &str, memory: &str| -> Spec {
            serde_json::from_value(json!({"name": "c", "resources": {"limits": {"cpu": cpu, "memory": memory}},
                "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"},
                    {"resourceName": "cpu", "restartPolicy": "NotRequired"}]}))
            .unwrap()
        };
        let c =
            Container { id: "1".into(), name: "c".into(), resources: text(&spec("1", "1Gi")), ..Container::default() };
        let mut memory = Memory::default();
        assert_eq!(change(&spec("1", "1Gi"), &c, &memory), Change::None);
        assert_eq!(change(&spec("2", "1Gi"), &c, &memory), Change::InPlace);
        assert_eq!(change(&spec("2", "2Gi"), &c, &memory), Change::Restart);
        memory.container("c").resized = Some(("1".into(), text(&spec("2", "1Gi"))));
        assert_eq!(change(&spec("2", "1Gi"), &c, &memory), Change::None);
        let old = Container { resources: String::new(), ..c };
        assert_eq!(change(&spec("9", "9Gi"), &old, &Memory::default()), Change::None, "nothing is known of it");
    }
}
