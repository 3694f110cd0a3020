//! What the probes of a pod have found, as the plan and the status read it. Pure data.
//!
//! Written by the prober, one entry per container that has a probe; read at every turn of the pod's
//! worker. Invariants: an entry speaks about one container id only, never about a later container of
//! the same name; a container without an entry is judged by whether it has probes at all.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container as Spec;

use crate::pod::observed::{Container, State};

/// The results for all containers of one pod, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Results(BTreeMap<String, Outcome>);

/// The results for one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The container that was probed.
    pub(crate) container_id: String,
    /// Its startup probe has succeeded, or it has none.
    pub(crate) started: bool,
    /// Its readiness probe succeeds, or it has none.
    pub(crate) ready: bool,
    /// Its liveness or startup probe has failed often enough: it is to be restarted.
    pub(crate) unhealthy: Option<Unhealthy>,
}

/// Why and how a container is to be restarted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unhealthy {
    /// For the Event: `Container c failed liveness probe, will be restarted`.
    pub(crate) message: String,
    /// The probe's own grace period in seconds; the pod's when there is none.
    pub(crate) grace_s: Option<i64>,
}

impl Results {
    pub(crate) fn set(&mut self, name: &str, outcome: Outcome) {
        self.0.insert(name.to_owned(), outcome);
    }

    #[cfg(test)]
    pub(crate) fn get(&self, name: &str) -> Option<&Outcome> {
        self.0.get(name)
    }

    fn of(&self, seen: &Container) -> Option<&Outcome> {
        self.0.get(&seen.name).filter(|o| o.container_id == seen.id)
    }

    /// Whether the container runs and its startup probe, if any, has succeeded.
    pub(crate) fn started(&self, spec: &Spec, seen: &Container) -> bool {
        seen.state == State::Running && self.of(seen).map_or(spec.startup_probe.is_none(), |o| o.started)
    }

    /// Whether the container has started and its readiness probe, if any, succeeds.
    pub(crate) fn ready(&self, spec: &Spec, seen: &Container) -> bool {
        self.started(spec, seen) && self.of(seen).map_or(spec.readiness_probe.is_none(), |o| o.ready)
    }

    /// Why this very container is to be restarted.
    pub(crate) fn unhealthy(&self, seen: &Container) -> Option<&Unhealthy> {
        self.of(seen)?.unhealthy.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Probe;

    use super::*;

    #[test]
    fn a_result_speaks_about_one_container_only() {
        let spec = Spec { readiness_probe: Some(Probe::default()), ..Spec::default() };
        let seen =
            |id: &str| Container { id: id.into(), name: "c".into(), state: State::Running, ..Container::default() };
        let mut results = Results::default();
        assert!(results.started(&spec, &seen("1")), "without a startup probe");
        assert!(!results.ready(&spec, &seen("1")), "not ready before the first result");
        assert!(results.ready(&Spec::default(), &seen("1")), "without a readiness probe");
        let unhealthy = Some(Unhealthy { message: "m".into(), grace_s: None });
        results.set("c", Outcome { container_id: "1".into(), started: true, ready: true, unhealthy });
        assert!(results.ready(&spec, &seen("1")) && results.unhealthy(&seen("1")).is_some());
        assert!(!results.ready(&spec, &seen("2")) && results.unhealthy(&seen("2")).is_none());
        let ended = Container { state: State::Exited, ..seen("1") };
        assert!(!results.started(&spec, &ended) && !results.ready(&spec, &ended));
    }
}
