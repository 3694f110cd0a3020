//! The list of revoked keys: one ConfigMap, `skerry-system/skerry-revocations`.
//!
//! Written by `nodes::revoke` and by the issuer (keys of a machine that was replaced), watched by every
//! EdgeController, which tells the hubs. An entry is `<fingerprint>: "<node> <end of certificate>"`; entries
//! go a day after the last certificate of the key has ended. Each write has a precondition, so none is lost.
//! An unreadable list keeps the last good one (doubt means refuse). Limit: [`MAX_REVOKED`] entries.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event};
use serde_json::{Value, json};
use skerry_common::{Key, NodeName};
use skerry_identity::{MAX_REVOKED, RevocationPublisher, RevocationSet};
use skerry_kubesync::{ApiError, Kind, KubeApi};

use crate::bindings;
use crate::error::ControllerError;
use crate::system::{MANAGER, NAMESPACE};

/// The ConfigMap.
pub(crate) const NAME: &str = "skerry-revocations";

/// How long an entry outlives the certificate.
const KEEP: i64 = 24 * 3600;

/// How long a key stays revoked of which no end is known: the longest life of a node's certificate.
const UNKNOWN_END: i64 = 31 * 24 * 3600;

/// Attempts against concurrent writers.
const ATTEMPTS: usize = 16;

/// How soon the watch is made anew when it cannot go on.
const RESTART: Duration = Duration::from_secs(1);

/// Revokes a node: every key that was certified for its name is refused by every hub, and its sessions end.
/// The name may join again with a new key. Returns how many keys were revoked.
///
/// # Errors
/// When the API refuses; nothing is done by halves.
pub async fn revoke_node(client: Client, node: &NodeName) -> Result<usize, ControllerError> {
    let api = KubeApi::detached(client, MANAGER);
    let record = bindings::read(&api, node).await.map_err(ControllerError::api(format!("read the keys of {node}")))?;
    let mut keys = record.keys;
    let object = api.get(Kind::Node, &Key::new("", node.as_str())).await;
    let object = object.map_err(ControllerError::api(format!("read the node {node}")))?;
    if let Some(key) = object.and_then(|o| o.metadata.annotations).and_then(|mut a| a.remove(bindings::KEY)) {
        keys.entry(key).or_insert_with(|| Timestamp::now().as_second() + UNKNOWN_END);
    }
    let count = keys.len();
    add(&api, node, &keys).await.map_err(ControllerError::api(format!("revoke {node}")))?;
    Ok(count)
}

/// Adds keys to the list.
pub(crate) async fn add(api: &KubeApi, node: &NodeName, keys: &BTreeMap<String, i64>) -> Result<(), ApiError> {
    if keys.is_empty() {
        return Ok(());
    }
    let key = Key::new(NAMESPACE, NAME);
    let now = Timestamp::now().as_second();
    for _ in 0..ATTEMPTS {
        let result = match api.get(Kind::ConfigMap, &key).await? {
            None => {
                let map = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": NAME, "namespace": NAMESPACE},
                    "data": entries(node, keys),
                });
                api.create(Kind::ConfigMap, NAMESPACE, map).await
            }
            Some(mut map) => {
                let mut data: BTreeMap<String, String> = data(&map);
                data.retain(|_, entry| end(entry).is_none_or(|end| end + KEEP > now));
                data.extend(entries(node, keys));
                if data.len() > MAX_REVOKED {
                    let message = format!("more than {MAX_REVOKED} revoked keys: replace the CA");
                    return Err(ApiError::Refused { code: 0, message });
                }
                if let Some(object) = map.data.as_object_mut() {
                    object.insert("data".to_owned(), json!(data));
                }
                api.replace(Kind::ConfigMap, &key, &map).await
            }
        };
        match result {
            Ok(_) => return Ok(()),
            Err(ApiError::Conflict(_) | ApiError::AlreadyExists | ApiError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Err(ApiError::Conflict("the list of revoked keys".to_owned()))
}

fn entries(node: &NodeName, keys: &BTreeMap<String, i64>) -> BTreeMap<String, String> {
    keys.iter().map(|(key, end)| (key.clone(), format!("{node} {end}"))).collect()
}

fn end(entry: &str) -> Option<i64> {
    entry.rsplit_once(' ').and_then(|(_, end)| end.parse().ok())
}

fn data(map: &DynamicObject) -> BTreeMap<String, String> {
    let data = map.data.get("data").and_then(Value::as_object);
    data.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

fn set(map: &DynamicObject) -> RevocationSet {
    RevocationSet { fingerprints: data(map).into_keys().collect(), ..RevocationSet::default() }
}

/// Reads the list once, at start: nobody is let in before it is known.
pub(crate) async fn load(api: &KubeApi, publisher: &RevocationPublisher) -> Result<(), ApiError> {
    if let Some(map) = api.get(Kind::ConfigMap, &Key::new(NAMESPACE, NAME)).await? {
        publisher.set(set(&map));
    }
    Ok(())
}

/// Watches until cancelled. A list that was deleted stays in force until the process ends.
pub(crate) async fn run(api: KubeApi, publisher: RevocationPublisher) {
    let Some(resource) = Kind::ConfigMap.resource() else { return };
    loop {
        let maps: Api<DynamicObject> = Api::namespaced_with(api.client(), NAMESPACE, &resource);
        let config = Config::default().fields(&format!("metadata.name={NAME}"));
        let mut events = pin!(watcher::watcher(maps, config).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(map) | Event::InitApply(map)) if map.metadata.name.as_deref() == Some(NAME) => {
                    if publisher.set(set(&map)) {
                        tracing::info!(keys = data(&map).len(), "list of revoked keys changed");
                    }
                }
                Ok(Event::Delete(_)) => tracing::warn!("the list of revoked keys was deleted; it stays in force"),
                Ok(_) => {}
                Err(watcher::Error::WatchStartFailed(kube::Error::Api(status))) if status.code == 410 => break,
                Err(error) => {
                    tracing::warn!(error = skerry_common::chain(&error), "watch of the revoked keys interrupted");
                }
            }
        }
        tokio::time::sleep(RESTART).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_tell_when_they_may_go() {
        assert_eq!(end("edge-1 1700000000"), Some(1_700_000_000));
        assert_eq!(end("edge-1"), None);
        assert_eq!(end("edge-1 soon"), None);
    }
}
