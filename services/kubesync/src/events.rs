//! Tells users what happened: Events on the object that they applied.
//!
//! Called from the streams without waiting; one task ([`tell`]) writes. Limits: [`QUEUE`] wait, the rest is
//! dropped (it is logged and counted in any case); [`PER_SECOND`] a second. An equal Event within the hour
//! only raises the count of the one that is there.

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde_json::{Value, json};
use skerry_common::{Key, NodeName};
use tokio::sync::mpsc;

use crate::api::{ApiError, KubeApi, Other};
use crate::cache::Cache;
use crate::kinds::Kind;
use crate::work::RateLimit;

/// Events that wait to be written.
const QUEUE: usize = 256;

/// Events a second: they inform people.
const PER_SECOND: u32 = 10;

/// Longest message of an Event, as the API server demands.
const MAX_MESSAGE: usize = 1_024;

/// Something to tell.
#[derive(Debug)]
pub struct Told {
    warning: bool,
    kind: Kind,
    key: Key,
    reason: &'static str,
    message: String,
    node: NodeName,
}

/// Where to tell it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tell(mpsc::Sender<Told>);

impl Tell {
    /// With the receiving half, for [`tell`].
    pub fn channel() -> (Self, mpsc::Receiver<Told>) {
        let (tx, rx) = mpsc::channel(QUEUE);
        (Self(tx), rx)
    }

    /// Tells on the object itself what went wrong.
    pub fn warn(&self, node: &NodeName, kind: Kind, key: &Key, reason: &'static str, message: &str) {
        self.send(true, node, kind, key, reason, message);
    }

    /// Tells on the object itself what happened.
    pub fn note(&self, node: &NodeName, kind: Kind, key: &Key, reason: &'static str, message: &str) {
        self.send(false, node, kind, key, reason, message);
    }

    fn send(&self, warning: bool, node: &NodeName, kind: Kind, key: &Key, reason: &'static str, message: &str) {
        // A derived token has no object of its own to show it on.
        let (kind, key) = match kind {
            Kind::ServiceAccountToken => (Kind::Node, Key::new("", node.as_str())),
            kind => (kind, key.clone()),
        };
        let told = Told { warning, kind, key, reason, message: message.to_owned(), node: node.clone() };
        // Full: it is in the log and in the metrics.
        let _ = self.0.try_send(told);
    }
}

/// Writes until cancelled.
pub async fn tell(api: KubeApi, cache: Cache, mut queue: mpsc::Receiver<Told>) {
    let rate = RateLimit::new(PER_SECOND, PER_SECOND);
    while let Some(told) = queue.recv().await {
        rate.acquire().await;
        if let Err(error) = write(&api, &cache, &told).await {
            tracing::debug!(error = skerry_common::chain(&error), "event not written");
        }
    }
}

async fn write(api: &KubeApi, cache: &Cache, told: &Told) -> Result<(), ApiError> {
    let uid = cache.read().get(told.kind, &told.key).map(|object| object.uid.to_string());
    let api_version = told.kind.resource().map_or_else(String::new, |r| r.api_version);
    let namespace = if told.key.namespace.is_empty() { "default" } else { &told.key.namespace };
    let now = Timestamp::now();
    let text = cut(&told.message, MAX_MESSAGE);
    // The name is a hash of what is said, so that saying it again finds it.
    let hour = now.as_second() / 3600;
    let said = format!("{}\n{}\n{text}\n{}\n{hour}", told.kind.as_str(), told.reason, told.node);
    let name = format!("{}.{}", cut(&told.key.name, 200), short_hash(said.as_bytes()));
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": api_version,
            "kind": told.kind.as_str(),
            "namespace": &*told.key.namespace,
            "name": &*told.key.name,
            "uid": uid.unwrap_or_default(),
        },
        "reason": told.reason,
        "message": text,
        "type": if told.warning { "Warning" } else { "Normal" },
        "count": 1,
        "firstTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "lastTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "source": {"component": api.manager(), "host": told.node.as_str()},
        "reportingComponent": api.manager(),
        "reportingInstance": told.node.as_str(),
    });
    create_or_count(api, namespace, &name, &told.node, event).await.map(drop)
}

/// What became of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is in the API.
    Yes,
    /// Its name belongs to an Event of somebody else.
    Foreign,
}

/// Creates an Event, or counts it up when it is there. The same Event twice (by its last time) counts once.
pub async fn create_or_count(
    api: &KubeApi,
    namespace: &str,
    name: &str,
    node: &NodeName,
    event: Value,
) -> Result<Recorded, ApiError> {
    let last = event.get("lastTimestamp").cloned().unwrap_or(Value::Null);
    let said = event.get("count").and_then(Value::as_i64).unwrap_or(1);
    match api.create(Other::Event, namespace, event).await {
        Ok(_) => return Ok(Recorded::Yes),
        Err(ApiError::AlreadyExists) => {}
        Err(error) => return Err(error),
    }
    let key = Key::new(namespace, name);
    // Expired in between: it was recorded.
    let Some(found) = api.get(Other::Event, &key).await? else { return Ok(Recorded::Yes) };
    let host = found.data.get("source").and_then(|source| source.get("host")).and_then(Value::as_str);
    if host != Some(node.as_str()) {
        return Ok(Recorded::Foreign);
    }
    let count = found.data.get("count").and_then(Value::as_i64).unwrap_or(1);
    if found.data.get("lastTimestamp") == Some(&last) && count >= said {
        return Ok(Recorded::Yes);
    }
    let count = if said > 1 { said.max(count) } else { count.saturating_add(1) };
    let patch = json!({"count": count, "lastTimestamp": last});
    api.merge(Other::Event, &key, &patch).await.map(|_| Recorded::Yes)
}

/// The first bytes of a text, at a character's boundary.
pub fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The first 128 bits of SHA-256, hex: what is said twice is one Event.
fn short_hash(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hex::encode(hash.as_ref().get(..16).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_between_characters() {
        assert_eq!(cut("aäb", 2), "a");
        assert_eq!(cut("aäb", 3), "aä");
        assert_eq!(cut("ab", 9), "ab");
    }
}
