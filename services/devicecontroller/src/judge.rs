//! Ready, Online and Synced of a device, as the cloud sees them: what its node said, as far as that still
//! holds.
//!
//! Pure; called by the writer. The node judges what only it can see (the mapper, the device, what was
//! written). The cloud knows better when the model or the node is missing, when the node is not connected so
//! that its word is old, and when a desired value has changed since.

use skerry_common::Key;
use skerry_k8s_types::{AccessMode, Condition, ONLINE, READY, SYNCED, Twin, condition};

use crate::known::{NodeState, Snapshot, model_key};
use crate::told::Told;

/// Properties that are named in a message.
const MAX_NAMED: usize = 5;

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";

/// Status, reason, message.
pub(crate) type Verdict = (String, String, String);

fn verdict(status: &str, reason: &str, message: impl Into<String>) -> Verdict {
    (status.to_owned(), reason.to_owned(), message.into())
}

/// Judges. `told` is what the device's present node said last.
pub(crate) fn judge(key: &Key, seen: &Snapshot, told: Option<&Told>, twins: &[Twin]) -> [(&'static str, Verdict); 3] {
    let told = told.filter(|told| told.node == seen.device.spec.node_name);
    [(READY, ready(key, seen, told)), (ONLINE, online(seen, told)), (SYNCED, synced(seen, told, twins))]
}

fn said(told: Option<&Told>, r#type: &str) -> Option<Verdict> {
    let said: &Condition = condition(&told?.conditions, r#type)?;
    Some((said.status.clone(), said.reason.clone(), said.message.clone()))
}

/// Why nobody can speak for the device now.
fn unheard(seen: &Snapshot, status: &str) -> Option<Verdict> {
    let node = &seen.device.spec.node_name;
    if node.is_empty() {
        return Some(verdict(status, "NodeNotSet", "the device is assigned to no node: set spec.nodeName"));
    }
    match &seen.node {
        NodeState::Ready => None,
        NodeState::NotReady(reason) => {
            let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
            let message = format!(
                "the node {node} is not Ready{reason}, so nobody knows how the device is now: see kubectl describe node {node}"
            );
            Some(verdict(status, "NodeNotReady", message))
        }
        NodeState::Missing => {
            let message = format!("there is no node {node}: join it, or correct spec.nodeName");
            Some(verdict(status, "NodeNotFound", message))
        }
    }
}

fn not_reported(seen: &Snapshot) -> Verdict {
    let node = &seen.device.spec.node_name;
    let message = format!("the node {node} has not reported the device yet: see whether its device service runs");
    verdict(UNKNOWN, "NotReported", message)
}

fn ready(key: &Key, seen: &Snapshot, told: Option<&Told>) -> Verdict {
    if seen.model.is_none() {
        let model = model_key(key, &seen.device);
        return if model.name.is_empty() {
            verdict(FALSE, "ModelNotFound", "the device names no DeviceModel: set spec.deviceModelRef.name")
        } else {
            let message = format!(
                "there is no DeviceModel {} in the namespace {}: create it, or correct spec.deviceModelRef.name",
                model.name, model.namespace
            );
            verdict(FALSE, "ModelNotFound", message)
        };
    }
    unheard(seen, FALSE).or_else(|| said(told, READY)).unwrap_or_else(|| not_reported(seen))
}

fn online(seen: &Snapshot, told: Option<&Told>) -> Verdict {
    unheard(seen, UNKNOWN).or_else(|| said(told, ONLINE)).unwrap_or_else(|| not_reported(seen))
}

/// Whether the device has what is wanted. A word of the node that is older than the desired value counts for
/// nothing; that it once had today's value stays true while the node is away.
fn synced(seen: &Snapshot, told: Option<&Told>, twins: &[Twin]) -> Verdict {
    let (mut any, mut open) = (false, Vec::new());
    for property in &seen.device.spec.properties {
        let Some(desired) = &property.desired else { continue };
        let mode = seen.model.as_ref().and_then(|model| model.property(&property.name)?.access_mode);
        if mode == Some(AccessMode::ReadOnly) {
            continue;
        }
        any = true;
        let twin = twins.iter().find(|twin| twin.property_name == property.name);
        let observed = twin.and_then(|twin| twin.observed_desired.as_ref());
        if observed.map(|observed| observed.value.as_str()) != Some(desired.value.as_str()) {
            open.push(property.name.as_str());
        }
    }
    if !any {
        return verdict(TRUE, "NothingDesired", "");
    }
    if open.is_empty()
        && let Some(said) = said(told, SYNCED)
    {
        return said;
    }
    let more = open.len().saturating_sub(MAX_NAMED);
    open.truncate(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let pending = format!("the device does not have the desired value of {}{more} yet", open.join(", "));
    match unheard(seen, FALSE) {
        Some((status, reason, why)) if !open.is_empty() => (status, reason, format!("{pending}: {why}")),
        Some(unheard) => unheard,
        None if open.is_empty() => not_reported(seen),
        None => verdict(FALSE, "DesiredPending", pending),
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
