//! Events from nodes: about the node itself, or a pod bound to it.
//!
//! What is written is built anew from the fields that an Event may carry, so that a node cannot set owners,
//! labels or another source. The name is the report's key: a report that comes twice counts once.

use serde_json::{Map, Value, json};
use skerry_common::Key;

use skerry_kubesync::{ApiError, Applied, Job, Kind, Recorded, Verb, create_or_count, cut};

use super::Applier;

/// Longest message, as the API server demands.
const MAX_MESSAGE: usize = 1_024;

/// Longest reason and action, as the API server demands.
const MAX_REASON: usize = 128;

/// Fields that are taken over as they are.
const FIELDS: [&str; 6] = ["count", "firstTimestamp", "lastTimestamp", "eventTime", "series", "related"];

impl Applier {
    pub(super) async fn event(&self, job: &Job) -> Applied {
        self.try_event(job).await.unwrap_or_else(|answer| answer)
    }

    async fn try_event(&self, job: &Job) -> Result<Applied, Applied> {
        let about = job.body.get("involvedObject").cloned().unwrap_or(Value::Null);
        let part = |field: &str| about.get(field).and_then(Value::as_str).unwrap_or_default();
        let bad = |e: skerry_common::NameError| Applied::rejected(format!("involved object: {e}"));
        let (kind, key, namespace) = match part("kind") {
            "Node" => (Kind::Node, Key::checked("", part("name")).map_err(bad)?, "default"),
            "Pod" => {
                let key = Key::checked(part("namespace"), part("name")).map_err(bad)?;
                (Kind::Pod, key, part("namespace"))
            }
            _ => return Err(Applied::rejected("a node may record Events about itself and its pods only")),
        };
        if !job.key.namespace.is_empty() && &*job.key.namespace != namespace {
            return Err(Applied::rejected("an Event belongs to the namespace of its object"));
        }
        if kind == Kind::Pod && self.cache.bound(&key).is_none() {
            self.prove(kind, &key).await?;
            if self.cache.bound(&key).is_none() {
                // The pod is gone. Its last Events are still worth having, but nothing proves any more that
                // it was this node's.
                return Ok(Applied::Committed);
            }
        }
        self.allowed(job, Verb::Record, kind, &key).await?;
        self.turn(&self.events, job).await?;
        let event = event(job, kind, &key, namespace, part("uid"), part("fieldPath"));
        match create_or_count(&self.api, namespace, &job.key.name, &job.node, event).await {
            Ok(Recorded::Yes) => Ok(Applied::Committed),
            Ok(Recorded::Foreign) => Err(Applied::rejected("the name belongs to an Event of somebody else")),
            // The namespace is being deleted: there is no place for it any more.
            Err(ApiError::Refused { code: 403, message }) if message.contains("being terminated") => {
                Ok(Applied::Committed)
            }
            Err(error) => Err(Applied::failed(&error)),
        }
    }
}

fn event(job: &Job, kind: Kind, key: &Key, namespace: &str, uid: &str, path: &str) -> Value {
    let text = |field: &str, longest: usize| {
        cut(job.body.get(field).and_then(Value::as_str).unwrap_or_default(), longest).to_owned()
    };
    let component = job.body.get("source").and_then(|s| s.get("component")).and_then(Value::as_str);
    let component = cut(component.unwrap_or("edged"), MAX_REASON).to_owned();
    let mut event: Map<String, Value> = FIELDS
        .iter()
        .filter_map(|field| job.body.get(*field).filter(|v| !v.is_null()).map(|v| ((*field).to_owned(), v.clone())))
        .collect();
    let fixed = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": &*job.key.name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": kind.as_str(),
            "namespace": &*key.namespace,
            "name": &*key.name,
            "uid": uid,
            "fieldPath": path,
        },
        "type": if job.body.get("type").and_then(Value::as_str) == Some("Warning") { "Warning" } else { "Normal" },
        "reason": text("reason", MAX_REASON),
        "message": text("message", MAX_MESSAGE),
        "action": text("action", MAX_REASON),
        "source": {"component": component, "host": job.node.as_str()},
        "reportingComponent": component,
        "reportingInstance": job.node.as_str(),
    });
    if let Value::Object(fixed) = fixed {
        event.extend(fixed);
    }
    Value::Object(event)
}
