//! Records core/v1 Events: what a user sees in `kubectl describe`.
//!
//! Controllers call [`Recorder::event`], which never waits; one task writes. An event that repeats
//! (same object, reason and message) is written once and then counted up, as client-go does.
//!
//! Limits: [`QUEUE`] events waiting, then new ones are dropped and counted; [`REMEMBERED`] events are
//! remembered for counting; [`PER_OBJECT_BURST`] events per object at once and one every
//! [`PER_OBJECT_REFILL`] after that. Events are hints: losing some in a crash is harmless.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Events waiting to be written: one burst of the scheduler over a large, unschedulable set.
const QUEUE: usize = 4096;
/// Events remembered for counting, as in client-go.
const REMEMBERED: usize = 4096;
/// Events about one object that may be written at once.
const PER_OBJECT_BURST: f64 = 25.0;
/// After the burst, one event per object in this time.
const PER_OBJECT_REFILL: Duration = Duration::from_secs(300);
/// Longest message; the API allows 1024 bytes.
const MAX_MESSAGE: usize = 1024;

/// Normal or Warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    /// Something happened as wished.
    Normal,
    /// Something that a user should look at.
    Warning,
}

#[derive(Debug)]
struct Record {
    component: &'static str,
    severity: Severity,
    reason: &'static str,
    message: String,
    object: ObjectReference,
    at: Timestamp,
}

/// Where controllers put events; cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    tx: mpsc::Sender<Record>,
    dropped: Arc<AtomicU64>,
}

/// A reference to `object` as Events carry it.
pub(crate) fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

impl Recorder {
    /// The recorder and the task that writes its events.
    pub(crate) fn new(client: Client) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (tx, rx) = mpsc::channel(QUEUE);
        (Self { tx, dropped: Arc::default() }, write(client, rx))
    }

    /// Records an event about `object`.
    pub(crate) fn event<K: Resource<DynamicType = ()>>(
        &self,
        component: &'static str,
        object: &K,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.event_on(component, reference(object), severity, reason, message);
    }

    /// Records an event about the object that `object` refers to.
    pub(crate) fn event_on(
        &self,
        component: &'static str,
        object: ObjectReference,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let message = shorten(message.into());
        let record = Record { component, severity, reason, message, object, at: Timestamp::now() };
        if self.tx.try_send(record).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "events dropped because the API does not take them fast enough");
            }
        }
    }
}

fn shorten(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let mut end = MAX_MESSAGE - 3;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str("...");
    }
    message
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Same {
    uid: Option<String>,
    name: Option<String>,
    severity: Severity,
    reason: &'static str,
    message: String,
}

struct Written {
    namespace: String,
    name: String,
    count: i32,
}

/// A token bucket per object.
struct Allowance {
    tokens: f64,
    at: Instant,
}

#[derive(Default)]
struct Memory {
    written: HashMap<Same, Written>,
    order: VecDeque<Same>,
    allowances: HashMap<Option<String>, Allowance>,
}

impl Memory {
    fn allow(&mut self, uid: &Option<String>, now: Instant) -> bool {
        if self.allowances.len() > REMEMBERED {
            self.allowances.retain(|_, a| a.tokens + refill(now - a.at) < PER_OBJECT_BURST);
        }
        let allowance = self.allowances.entry(uid.clone()).or_insert(Allowance { tokens: PER_OBJECT_BURST, at: now });
        allowance.tokens = (allowance.tokens + refill(now - allowance.at)).min(PER_OBJECT_BURST);
        allowance.at = now;
        if allowance.tokens < 1.0 {
            return false;
        }
        allowance.tokens -= 1.0;
        true
    }

    fn remember(&mut self, same: Same, written: Written) {
        if self.written.insert(same.clone(), written).is_none() {
            self.order.push_back(same);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.written.remove(&oldest);
            }
        }
    }
}

fn refill(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() / PER_OBJECT_REFILL.as_secs_f64()
}

async fn write(client: Client, mut rx: mpsc::Receiver<Record>) {
    let mut memory = Memory::default();
    let mut serial = 0_u64;
    while let Some(record) = rx.recv().await {
        if !memory.allow(&record.object.uid, Instant::now()) {
            continue;
        }
        serial = serial.wrapping_add(1);
        if let Err(error) = write_one(&client, &mut memory, record, serial).await {
            tracing::debug!(cause = %skerry_common::chain(&error), "event not written");
        }
    }
    // All recorders are gone, so the controllers are stopping.
    std::future::pending().await
}

async fn write_one(client: &Client, memory: &mut Memory, record: Record, serial: u64) -> kube::Result<()> {
    let same = Same {
        uid: record.object.uid.clone(),
        name: record.object.name.clone(),
        severity: record.severity,
        reason: record.reason,
        message: record.message.clone(),
    };
    if let Some(written) = memory.written.get_mut(&same) {
        written.count = written.count.saturating_add(1);
        let api: Api<Event> = Api::namespaced(client.clone(), &written.namespace);
        let patch = serde_json::json!({"count": written.count, "lastTimestamp": Time(record.at)});
        match api.patch(&written.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(()),
            // Events expire; write a new one.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    // Events about cluster-scoped objects live in the namespace "default", as client-go puts them.
    let namespace = record.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let stamp = record.at.as_nanosecond().unsigned_abs() as u64;
    let name = format!("{}.{:x}{:03x}", record.object.name.as_deref().unwrap_or("unknown"), stamp, serial & 0xfff);
    let event = Event {
        metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace.clone()), ..Default::default() },
        involved_object: record.object,
        reason: Some(record.reason.to_owned()),
        message: Some(record.message),
        type_: Some(match record.severity {
            Severity::Normal => "Normal".to_owned(),
            Severity::Warning => "Warning".to_owned(),
        }),
        first_timestamp: Some(Time(record.at)),
        last_timestamp: Some(Time(record.at)),
        count: Some(1),
        source: Some(EventSource { component: Some(record.component.to_owned()), host: None }),
        reporting_component: Some(record.component.to_owned()),
        reporting_instance: Some(String::new()),
        ..Default::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    api.create(&PostParams::default(), &event).await?;
    memory.remember(same, Written { namespace, name, count: 1 });
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let short = shorten("ä".repeat(2000));
        assert!(short.len() <= MAX_MESSAGE);
        assert!(short.ends_with("..."));
    }

    #[tokio::test(start_paused = true)]
    async fn one_object_cannot_flood() {
        let mut memory = Memory::default();
        let uid = Some("u".to_owned());
        let allowed = (0..100).filter(|_| memory.allow(&uid, Instant::now())).count();
        assert_eq!(allowed, 25);
        tokio::time::advance(PER_OBJECT_REFILL).await;
        assert!(memory.allow(&uid, Instant::now()));
        assert!(!memory.allow(&uid, Instant::now()));
        assert!(memory.allow(&Some("other".to_owned()), Instant::now()));
    }

    #[test]
    fn memory_of_events_is_bounded() {
        let mut memory = Memory::default();
        for i in 0..REMEMBERED + 10 {
            let same = Same { uid: None, name: None, severity: Severity::Normal, reason: "R", message: i.to_string() };
            memory.remember(same, Written { namespace: String::new(), name: String::new(), count: 1 });
        }
        assert_eq!(memory.written.len(), REMEMBERED);
    }
}
