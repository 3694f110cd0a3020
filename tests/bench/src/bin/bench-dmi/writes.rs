//! What arrives in the API: every write of a DeviceStatus and of a Device, seen by watching them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, WatchEvent, WatchParams};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The longest watch that an API server grants.
const LONGEST: u32 = 294;

/// The kind of this name in the group of devices.
pub(crate) fn resource(kind: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk("devices.kubeedge.io", "v1beta1", kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

/// The writes of the objects of one kind, from now on.
pub(crate) struct Writes {
    seen: Arc<Mutex<BTreeMap<String, Vec<Instant>>>>,
    watching: JoinHandle<anyhow::Result<()>>,
}

impl Writes {
    pub(crate) async fn watch(client: &kube::Client, kind: &str, plural: &str) -> anyhow::Result<Self> {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind, plural));
        let now = api.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
        let seen: Arc<Mutex<BTreeMap<String, Vec<Instant>>>> = Arc::default();
        let mut events = api.watch(&WatchParams::default().timeout(LONGEST), &now).await?.boxed();
        let writes = Arc::clone(&seen);
        let watching = tokio::spawn(async move {
            while let Some(event) = events.try_next().await? {
                match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        let name = object.metadata.name.unwrap_or_default();
                        let mut writes = writes.lock().unwrap_or_else(PoisonError::into_inner);
                        writes.entry(name).or_default().push(Instant::now());
                    }
                    WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
                    WatchEvent::Error(error) => anyhow::bail!("the watch ended: {error:?}"),
                }
            }
            anyhow::bail!("the watch ended")
        });
        Ok(Self { seen, watching })
    }

    /// Forgets what was seen.
    pub(crate) fn begin(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many there were, and how many of them came sooner than `gap` after the one before of the same object.
    pub(crate) async fn count(self, gap: Duration) -> anyhow::Result<(usize, usize)> {
        if self.watching.is_finished() {
            self.watching.await??;
            anyhow::bail!("the watch ended");
        }
        self.watching.abort();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = |times: &Vec<Instant>| times.windows(2).filter(|pair| pair_gap(pair) < gap).count();
        Ok((seen.values().map(Vec::len).sum(), seen.values().map(soon).sum()))
    }
}

fn pair_gap(pair: &[Instant]) -> Duration {
    match pair {
        [before, after] => after.duration_since(*before),
        _ => Duration::MAX,
    }
}
