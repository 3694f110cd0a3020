//! Keeps one [`Cache`] equal to the API by one list and one watch.
//!
//! One task per kind for the whole process, started by [`crate::run`]. The watcher lists in pages,
//! watches with bookmarks, resumes after a cut, and lists again after 410; errors back off with jitter
//! from 0.8 s to 30 s.
//!
//! Invariant: an error or an incomplete list never removes anything from the cache; only a delete event
//! or a complete list does.
//!
//! Crash, cancel: the cache keeps its last state; a new run lists again.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::cache::{Cache, key_of};

/// How often a failing watch is logged as a warning; between, it is logged at debug level.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// Runs until cancelled. `trim` drops what no controller reads, before the object is cached.
pub(crate) async fn run<K>(api: Api<K>, config: watcher::Config, cache: Arc<Cache<K>>, trim: fn(&mut K))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let url = api.resource_url().to_owned();
    let stream = watcher(api, config).default_backoff();
    feed(&url, stream.boxed(), &cache, trim).await;
}

/// Feeds the events of `stream` into `cache`; for streams that are not of the kind `Api<K>` gives.
pub(crate) async fn feed<K>(
    url: &str,
    mut stream: futures::stream::BoxStream<'static, watcher::Result<watcher::Event<K>>>,
    cache: &Cache<K>,
    trim: fn(&mut K),
) where
    K: Resource + Send + Sync + 'static,
{
    let mut listed = HashSet::new();
    let mut warned: Option<Instant> = None;
    loop {
        match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => listed.clear(),
            Ok(Some(watcher::Event::InitApply(mut object))) => {
                trim(&mut object);
                listed.insert(key_of(&object));
                cache.upsert(object);
            }
            Ok(Some(watcher::Event::InitDone)) => {
                cache.retain_listed(&listed);
                listed = HashSet::new();
                tracing::debug!(url, objects = cache.len(), "cache is in sync");
            }
            Ok(Some(watcher::Event::Apply(mut object))) => {
                trim(&mut object);
                cache.upsert(object);
            }
            Ok(Some(watcher::Event::Delete(object))) => cache.remove(&key_of(&object)),
            Ok(None) => return,
            Err(error) => {
                let cause = skerry_common::chain(&error);
                if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                    warned = Some(Instant::now());
                    tracing::warn!(url, %cause, "watch failed, trying again");
                } else {
                    tracing::debug!(url, %cause, "watch failed, trying again");
                }
            }
        }
    }
}

/// The usual trim: who wrote which field is of no use here and is often the larger half of an object.
pub(crate) fn trim_meta<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}
