//! Writes what is known of a device: its DeviceStatus, and in short the status of the Device itself.
//!
//! Called by the applier (a report came) and by the reconciler (something that the device depends on changed).
//! Level triggered: each call computes what should be there and writes only a difference. Every write has the
//! version that it was computed from as its precondition, and a difference is believed only against what was
//! read from the API in the same call; so any number of replicas may do this at once, and after a crash the
//! same is done again.
//!
//! A Device has no status subresource: a write of its status counts in its generation. The write therefore
//! says the generation that it makes, so that `observedGeneration` equals `generation` exactly as long as
//! nobody changes the Device, and `kubectl wait` may rely on it.
//!
//! Limits: values at most once per device and interval, [`Writer::statuses`] writes a second altogether,
//! [`REMEMBERED`] statuses in memory; beyond it the memory starts anew, which costs reads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use skerry_common::{Key, NodeName};
use skerry_k8s_types::{
    API_VERSION, Condition, Device, DeviceStatus, DeviceStatusFields, DeviceSummary, ONLINE, condition, set_condition,
    state,
};
use skerry_kubesync::{ApiError, Kind, KubeApi, Observer as _, Other, RateLimit, Tell};
use tokio::time::Instant;

use crate::judge::{Verdict, judge};
use crate::known::{Known, Snapshot, typed};
use crate::merge::{Change, merge};
use crate::metrics::Metrics;
use crate::told::{ANNOTATION, Told};

/// Attempts against concurrent writers.
const ATTEMPTS: usize = 4;

/// Statuses that are kept in memory.
const REMEMBERED: usize = 100_000;

/// How old `lastOnlineTime` of the Device itself may be: it is shown to people, and each change is a write.
const LAST_ONLINE_SECONDS: i64 = 60;

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Updated {
    /// The API has it.
    Done,
    /// Values of the device were written a moment ago: so long is to be waited.
    TooSoon(Duration),
    /// There is no such device any more.
    Gone,
}

/// A DeviceStatus as it was read or written last.
#[derive(Debug, Clone)]
struct Current {
    version: String,
    owned: bool,
    fields: DeviceStatusFields,
    told: Option<Told>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) api: KubeApi,
    pub(crate) known: Arc<Known>,
    pub(crate) tell: Tell,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) statuses: RateLimit,
    /// How often values of one device are written at most.
    pub(crate) interval: Duration,
    pub(crate) current: Mutex<Memory>,
}

/// What is kept between updates.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    statuses: HashMap<Key, Current>,
    /// When values of a device were written last.
    written: HashMap<Key, Instant>,
}

/// What the node reports.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) told: Told,
    pub(crate) fields: DeviceStatusFields,
}

impl Writer {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, key: &Key, current: Option<Current>) {
        let mut memory = self.memory();
        if memory.statuses.len() >= REMEMBERED {
            *memory = Memory::default();
        }
        match current {
            Some(current) => drop(memory.statuses.insert(key.clone(), current)),
            None => drop(memory.statuses.remove(key)),
        }
    }

    /// The device is gone: nothing of it is kept.
    fn forget(&self, key: &Key) {
        let mut memory = self.memory();
        memory.statuses.remove(key);
        memory.written.remove(key);
    }

    /// Reads every DeviceStatus, so that a start costs a few pages and not a read for each.
    pub(crate) async fn seed(&self) -> Result<(), ApiError> {
        for object in self.api.list(Other::DeviceStatus, "").await? {
            let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
            if let Ok(key) = Key::checked(namespace, object.metadata.name.as_deref().unwrap_or_default()) {
                let device = self.known.device(&key).map(|seen| seen.device);
                self.remember(&key, device.and_then(|device| current(&object, &device)));
            }
        }
        Ok(())
    }

    /// Brings the API to what is known, and to what a report says.
    pub(crate) async fn update(&self, key: &Key, report: Option<&Report>) -> Result<Updated, ApiError> {
        let mut last = ApiError::Conflict("the DeviceStatus".to_owned());
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            match self.attempt(key, report, fresh).await {
                Ok(Some(updated)) => return Ok(updated),
                // There is something to write: once more, against what the API has now.
                Ok(None) => {}
                Err(error @ (ApiError::Conflict(_) | ApiError::AlreadyExists | ApiError::NotFound)) => {
                    let device = self.api.get(Kind::Device, key).await?;
                    self.known.seen(Kind::Device, key, device.as_ref());
                    last = error;
                }
                Err(error) => return Err(error),
            }
            fresh = true;
        }
        Err(last)
    }

    /// `None`: there is something to write, and it was computed from memory.
    async fn attempt(&self, key: &Key, report: Option<&Report>, fresh: bool) -> Result<Option<Updated>, ApiError> {
        let Some(seen) = self.known.device(key) else {
            self.forget(key);
            return Ok(Some(Updated::Gone));
        };
        let remembered = if fresh { None } else { self.memory().statuses.get(key).cloned() };
        let was_read = remembered.is_none();
        let before = match remembered {
            Some(current) => Some(current),
            None => self.read(key, &seen.device).await?,
        };
        let empty = DeviceStatusFields::default();
        let old = before.as_ref().map_or(&empty, |before| &before.fields);
        let (mut next, mut change) = merge(&seen.device, old, report.map(|report| &report.fields));
        let told = report.map(|report| &report.told).or(before.as_ref().and_then(|before| before.told.as_ref()));
        if told != before.as_ref().and_then(|before| before.told.as_ref()) {
            change = Change::Urgent;
        }
        let verdicts = judge(key, &seen, told, &next.twins);
        let now = Timestamp::now();
        if apply(&mut next.conditions, &verdicts, now, None) {
            change = Change::Urgent;
        }
        next.device_generation = seen.device.metadata.generation;

        // A device that was never reported has its conditions on the Device alone.
        let writes = change != Change::Nothing && (before.is_some() || report.is_some());
        if writes
            && change == Change::Values
            && let Some(wait) = self.too_soon(key)
        {
            return Ok(Some(Updated::TooSoon(wait)));
        }
        // A report is written with the version of what it was computed from; whatever else is only worth a
        // write if it still differs from what the API has now.
        if writes && !was_read && report.is_none() {
            return Ok(None);
        }
        if writes {
            self.write(key, &seen.device, before.as_ref(), &next, told).await?;
        }
        let summary = summary(&seen, &next, &verdicts, now);
        if let Some(summary) = summary {
            if !writes && !was_read {
                return Ok(None);
            }
            self.mirror(key, &seen.device, &summary).await?;
            self.events(key, &seen.device, &summary);
        }
        Ok(Some(Updated::Done))
    }

    fn too_soon(&self, key: &Key) -> Option<Duration> {
        let written = self.memory().written.get(key).copied()?;
        self.interval.checked_sub(written.elapsed()).filter(|wait| !wait.is_zero())
    }

    async fn read(&self, key: &Key, device: &Device) -> Result<Option<Current>, ApiError> {
        let Some(object) = self.api.get(Other::DeviceStatus, key).await? else {
            self.remember(key, None);
            return Ok(None);
        };
        let found = current(&object, device);
        if found.is_none() {
            // It tells of an earlier Device of this name.
            let uid = object.metadata.uid.clone().unwrap_or_default();
            self.api.delete(Other::DeviceStatus, key, &uid, None).await?;
        }
        self.remember(key, found.clone());
        Ok(found)
    }

    async fn write(
        &self,
        key: &Key,
        device: &Device,
        before: Option<&Current>,
        next: &DeviceStatusFields,
        told: Option<&Told>,
    ) -> Result<(), ApiError> {
        self.statuses.acquire().await;
        let mut status = serde_json::to_value(next).unwrap_or_default();
        if let Some(status) = status.as_object_mut() {
            // Somebody else's.
            status.remove("extensions");
            // A list that became empty replaces what is there.
            status.entry("twins").or_insert_with(|| json!([]));
        }
        let mut meta = json!({"name": &*key.name, "namespace": &*key.namespace});
        if let (Some(told), Some(meta)) = (told, meta.as_object_mut()) {
            meta.insert("annotations".to_owned(), json!({ANNOTATION: told.text()}));
        }
        let owners = json!([{"apiVersion": API_VERSION, "kind": "Device", "name": &*key.name,
            "uid": device.metadata.uid, "controller": true, "blockOwnerDeletion": true}]);
        let written = match before {
            None => {
                if let Some(meta) = meta.as_object_mut() {
                    meta.insert("ownerReferences".to_owned(), owners);
                }
                let object = json!({"apiVersion": API_VERSION, "kind": "DeviceStatus", "metadata": meta,
                    "spec": {}, "status": status});
                self.api.create(Other::DeviceStatus, &key.namespace, object).await
            }
            Some(before) => {
                if let Some(meta) = meta.as_object_mut() {
                    meta.insert("resourceVersion".to_owned(), before.version.clone().into());
                    if !before.owned {
                        meta.insert("ownerReferences".to_owned(), owners);
                    }
                }
                self.api.merge(Other::DeviceStatus, key, &json!({"metadata": meta, "status": status})).await
            }
        };
        match written {
            Ok(object) => {
                self.metrics.status_writes.inc();
                self.remember(key, current(&object, device));
                let mut memory = self.memory();
                let interval = self.interval;
                if memory.written.len() >= REMEMBERED {
                    memory.written.retain(|_, at| at.elapsed() < interval);
                }
                memory.written.insert(key.clone(), Instant::now());
                Ok(())
            }
            Err(error) => {
                self.remember(key, None);
                Err(error)
            }
        }
    }

    /// Writes the status of the Device itself.
    async fn mirror(&self, key: &Key, device: &Device, summary: &DeviceSummary) -> Result<(), ApiError> {
        self.statuses.acquire().await;
        let patch = json!({
            "metadata": {"resourceVersion": device.metadata.resource_version},
            "status": {
                "state": summary.state,
                "lastOnlineTime": summary.last_online_time,
                "conditions": summary.conditions,
                "observedGeneration": summary.observed_generation,
            },
        });
        let object = self.api.merge(Kind::Device, key, &patch).await?;
        self.metrics.device_writes.inc();
        self.known.seen(Kind::Device, key, Some(&object));
        Ok(())
    }

    /// Tells what a user would look for: a condition that turned.
    fn events(&self, key: &Key, device: &Device, summary: &DeviceSummary) {
        let Ok(node) = NodeName::parse(&device.spec.node_name) else { return };
        let before = device.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        for new in &summary.conditions {
            let old = condition(before, &new.r#type).map(|old| old.status.as_str());
            let Some((warning, reason)) = event(old, new) else { continue };
            let message = if new.message.is_empty() { new.reason.clone() } else { new.message.clone() };
            if warning {
                self.tell.warn(&node, Kind::Device, key, reason, &message);
            } else {
                self.tell.note(&node, Kind::Device, key, reason, &message);
            }
        }
    }
}

/// The Event of a condition: whether it warns, and its reason. `old`: the status before.
fn event(old: Option<&str>, new: &Condition) -> Option<(bool, &'static str)> {
    if old == Some(new.status.as_str()) {
        return None;
    }
    match (new.r#type.as_str(), new.status.as_str(), new.reason.as_str()) {
        (ONLINE, "True", _) => Some((false, "DeviceOnline")),
        (ONLINE, "False", _) => Some((true, "DeviceOffline")),
        (ONLINE, _, _) if old == Some("True") => Some((true, "DeviceUnknown")),
        (skerry_k8s_types::READY, "False", _) if old.is_some() => Some((true, "DeviceNotReady")),
        (skerry_k8s_types::SYNCED, "False", "DesiredRefused") => Some((true, "DesiredRefused")),
        (skerry_k8s_types::SYNCED, "True", _) if old == Some("False") => Some((false, "DesiredReached")),
        _ => None,
    }
}

/// A DeviceStatus as it is in the API; `None` when it belongs to another Device of the name.
fn current(object: &DynamicObject, device: &Device) -> Option<Current> {
    let typed: DeviceStatus = typed(object)?;
    let owner = typed.metadata.owner_references.iter().find(|owner| owner.kind == "Device");
    if owner.is_some_and(|owner| owner.uid != device.metadata.uid) {
        return None;
    }
    Some(Current {
        version: typed.metadata.resource_version.clone(),
        owned: owner.is_some(),
        told: typed.metadata.annotations.get(ANNOTATION).and_then(|text| Told::parse(text)),
        fields: typed.status,
    })
}

/// Sets the conditions; whether one of them says something else than before.
fn apply(
    conditions: &mut Vec<Condition>,
    verdicts: &[(&'static str, Verdict); 3],
    now: Timestamp,
    generation: Option<i64>,
) -> bool {
    let mut changed = false;
    for (r#type, (status, reason, message)) in verdicts {
        let old = condition(conditions, r#type);
        let same = |old: &Condition| old.status == *status && old.reason == *reason && old.message == *message;
        changed |= !old.is_some_and(same);
        set_condition(
            conditions,
            Condition {
                r#type: (*r#type).to_owned(),
                status: status.clone(),
                reason: reason.clone(),
                message: message.clone(),
                last_transition_time: seconds(now),
                observed_generation: generation,
            },
        );
    }
    changed
}

/// The status of the Device itself, if it has to be written.
fn summary(
    seen: &Snapshot,
    fields: &DeviceStatusFields,
    verdicts: &[(&'static str, Verdict); 3],
    now: Timestamp,
) -> Option<DeviceSummary> {
    let empty = DeviceSummary::default();
    let old = seen.device.status.as_ref().unwrap_or(&empty);
    let generation = seen.device.metadata.generation;
    // The write itself makes the next one.
    let written = generation.map(|generation| generation + 1);
    let mut conditions = old.conditions.clone();
    let mut changed = apply(&mut conditions, verdicts, now, written);
    changed |= conditions.len() != old.conditions.len();

    // What nobody can know now is not shown as if it was known.
    let known = verdicts.iter().any(|(r#type, (status, ..))| *r#type == ONLINE && status != "Unknown");
    let state = if known || fields.state.is_empty() { fields.state.clone() } else { state::UNKNOWN.to_owned() };
    changed |= state != old.state;
    changed |= old.observed_generation.is_none() || old.observed_generation < generation;
    let stale = |old: &str| match (old.parse::<Timestamp>(), fields.last_online_time.parse::<Timestamp>()) {
        (Ok(old), Ok(new)) => new.duration_since(old).as_secs().abs() >= LAST_ONLINE_SECONDS,
        (Err(_), Ok(_)) => true,
        (_, Err(_)) => false,
    };
    changed |= stale(&old.last_online_time);
    changed.then(|| DeviceSummary {
        state,
        last_online_time: fields.last_online_time.clone(),
        conditions,
        observed_generation: written,
        ..DeviceSummary::default()
    })
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Looks at each device that something happened to, until cancelled. An error is tried again; the device of it
/// waits behind the others.
pub(crate) async fn reconcile(writer: Arc<Writer>, retry: Duration) {
    loop {
        let key = writer.known.dirty().await;
        if let Err(error) = writer.update(&key, None).await {
            tracing::warn!(%key, error = skerry_common::chain(&error), "the status of a device is not written");
            writer.known.mark(&key);
            tokio::time::sleep(retry).await;
        }
        writer.metrics.devices.set(i64::try_from(writer.known.len()).unwrap_or(i64::MAX));
    }
}

/// The object with one desired value set, or taken away; `None` when it names no such property.
pub(crate) fn with_desired(mut object: DynamicObject, property: &str, value: Option<&str>) -> Option<DynamicObject> {
    let properties = object.data.get_mut("spec")?.get_mut("properties")?.as_array_mut()?;
    let named = |p: &&mut Value| p.get("name").and_then(Value::as_str) == Some(property);
    let found = properties.iter_mut().find(named)?.as_object_mut()?;
    match value {
        Some(value) => {
            let desired = found.entry("desired").or_insert_with(|| json!({}));
            desired.as_object_mut()?.insert("value".to_owned(), value.into());
        }
        None => drop(found.remove("desired")),
    }
    Some(object)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
