//! Kubernetes Events: what the node did and what went wrong, on the object that it concerns.
//!
//! Any task records; nothing waits. The same event (object, reason, message) has one name, so that
//! repetitions, also after a restart of the agent, become one object with a count. Invariants: a
//! repetition is sent when its count reaches a power of two, or [`REPEAT_AFTER`] later; one object
//! sends at most [`BURST`] different events at once and one more every [`REFILL`] after that; what is
//! dropped is counted. Limits: [`MAX_KNOWN`] events are remembered, the oldest are forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use skerry_common::{Key, fnv1a, kinds};
use skerry_hubclient::{Outbox, Report};

use crate::pod::spec::PodExt;

/// Different events of one object at once, as in the kubelet.
const BURST: f64 = 25.0;
/// One more every so often.
const REFILL: Duration = Duration::from_secs(300);
/// An unchanged repetition is told again after this time.
const REPEAT_AFTER: Duration = Duration::from_secs(300);
/// More than a node with 110 pods in trouble has.
const MAX_KNOWN: usize = 4096;
/// Longest part of the object's name in the name of an Event, which may have 253 bytes.
const MAX_NAME: usize = 230;
/// Longest message of an Event.
const MAX_MESSAGE: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Warning,
}

/// The object that an event is about.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    reference: ObjectReference,
}

impl Subject {
    pub(crate) fn pod(pod: &Pod) -> Self {
        Self {
            reference: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name().into()),
                namespace: Some(pod.namespace().into()),
                uid: Some(pod.uid().into()),
                resource_version: pod.metadata.resource_version.clone(),
                field_path: None,
            },
        }
    }

    pub(crate) fn container(pod: &Pod, name: &str) -> Self {
        let mut subject = Self::pod(pod);
        let list = match () {
            () if pod.init_containers().iter().any(|c| c.name == name) => "initContainers",
            () if pod.containers().iter().any(|c| c.name == name) => "containers",
            () => "ephemeralContainers",
        };
        subject.reference.field_path = Some(format!("spec.{list}{{{name}}}"));
        subject
    }

    pub(crate) fn node(name: &str) -> Self {
        Self {
            reference: ObjectReference {
                kind: Some("Node".into()),
                name: Some(name.into()),
                // What the kubelet writes, and what `kubectl describe node` looks for.
                uid: Some(name.into()),
                ..ObjectReference::default()
            },
        }
    }
}

struct Known {
    count: i32,
    first: jiff::Timestamp,
    sent: Instant,
}

struct Budget {
    left: f64,
    at: Instant,
}

#[derive(Default)]
struct State {
    known: HashMap<u64, Known>,
    budgets: HashMap<String, Budget>,
}

/// See the module documentation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    state: Arc<Mutex<State>>,
    outbox: Outbox,
    node: Arc<str>,
}

impl Events {
    pub(crate) fn new(outbox: Outbox, node: &str) -> Self {
        Self { state: Arc::default(), outbox, node: node.into() }
    }

    pub(crate) fn record(&self, subject: &Subject, kind: Kind, reason: &str, message: &str) {
        let message: String = message.chars().take(MAX_MESSAGE).collect();
        let of = &subject.reference;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let severity = if kind == Kind::Normal { "Normal" } else { "Warning" };
        let hash = fnv1a(&[&text(&of.kind), &text(&of.uid), &text(&of.field_path), severity, reason, &message]);
        let now = jiff::Timestamp::now();
        let Some((count, first)) = self.admit(of.uid.as_deref().unwrap_or_default(), hash, now) else { return };
        match kind {
            Kind::Normal => tracing::info!(object = of.name.as_deref(), reason, "{message}"),
            Kind::Warning => tracing::warn!(object = of.name.as_deref(), reason, "{message}"),
        }
        let namespace = of.namespace.clone().unwrap_or_else(|| "default".into());
        let prefix: String = of.name.iter().flat_map(|n| n.chars()).take(MAX_NAME).collect();
        let name = format!("{}.{hash:016x}", prefix.trim_end_matches(['-', '.']));
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: of.clone(),
            type_: Some(severity.into()),
            reason: Some(reason.into()),
            message: Some(message),
            count: Some(count),
            first_timestamp: Some(Time::from(first)),
            last_timestamp: Some(Time::from(now)),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(self.node.to_string()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.to_string()),
            ..Event::default()
        };
        if let Ok(body) = serde_json::to_vec(&event) {
            self.outbox.put(Report {
                kind: kinds::EVENT,
                key: Key::new(namespace, name),
                uid: of.uid.clone().unwrap_or_default(),
                body: body.into(),
            });
        }
    }

    /// Whether to send it now, with its count and first time.
    fn admit(&self, object: &str, hash: u64, now: jiff::Timestamp) -> Option<(i32, jiff::Timestamp)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let instant = Instant::now();
        if let Some(known) = state.known.get_mut(&hash) {
            known.count = known.count.saturating_add(1);
            let power = known.count.count_ones() == 1;
            if !power && instant.duration_since(known.sent) < REPEAT_AFTER {
                return None;
            }
            known.sent = instant;
            return Some((known.count, known.first));
        }
        let budget = state.budgets.entry(object.to_owned()).or_insert(Budget { left: BURST, at: instant });
        let refill = instant.duration_since(budget.at).as_secs_f64() / REFILL.as_secs_f64();
        budget.left = (budget.left + refill).min(BURST);
        budget.at = instant;
        if budget.left < 1.0 {
            tracing::debug!(object, "event dropped: too many of this object");
            return None;
        }
        budget.left -= 1.0;
        if state.known.len() >= MAX_KNOWN {
            let oldest = state.known.iter().min_by_key(|(_, k)| k.sent).map(|(h, _)| *h);
            oldest.and_then(|h| state.known.remove(&h));
        }
        if state.budgets.len() > MAX_KNOWN {
            state.budgets.retain(|_, b| instant.duration_since(b.at) < REFILL);
        }
        state.known.insert(hash, Known { count: 1, first: now, sent: instant });
        Some((1, now))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn take(outbox: &Outbox) -> Vec<Report> {
        outbox.after(0, usize::MAX).into_iter().map(|(id, report)| (outbox.remove(id), report).1).collect()
    }

    #[test]
    fn repetitions_are_one_object_and_few_reports() {
        let outbox = Outbox::default();
        let events = Events::new(outbox.clone(), "n");
        let subject = Subject::node("n");
        for _ in 0..20 {
            events.record(&subject, Kind::Warning, "R", "m");
        }
        let sent = take(&outbox);
        assert_eq!(sent.len(), 5, "1, 2, 4, 8, 16");
        let names: std::collections::BTreeSet<_> = sent.iter().map(|r| r.key.name.clone()).collect();
        assert_eq!(names.len(), 1);
        let last: Event = serde_json::from_slice(&sent.last().unwrap().body).unwrap();
        assert_eq!(last.count, Some(16));
    }

    #[test]
    fn one_object_cannot_flood() {
        let outbox = Outbox::default();
        let events = Events::new(outbox.clone(), "n");
        for i in 0..100 {
            events.record(&Subject::node("n"), Kind::Normal, "R", &i.to_string());
        }
        assert_eq!(take(&outbox).len(), 25);
    }
}
