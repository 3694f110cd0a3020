//! Pods of a benchmark, made through the API and watched there as a user would.
//!
//! One watch sees all of them; each time is that of the watcher. Names are given once.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use skerry_common::NodeName;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// API calls at a time, as many as kubectl's.
const CALLS: usize = 32;
/// How long a hundred pods may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// The image that the private runtime brings.
pub const IMAGE: &str = "skerry.test/busybox:1";
/// Runs until it is told to stop, and stops at once.
pub const SLEEP: &str = "trap 'exit 0' TERM; sleep 100000 & wait $!";

/// When each pod that exists was first seen running.
type Seen = HashMap<String, Option<Instant>>;

/// See the module documentation.
pub struct Pods {
    api: Api<Pod>,
    node: NodeName,
    seen: watch::Receiver<Seen>,
    watch: JoinHandle<()>,
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Pods {
    /// Begins to watch.
    pub fn new(client: kube::Client, node: NodeName) -> Self {
        let api: Api<Pod> = Api::namespaced(client, "default");
        let (tx, seen) = watch::channel(Seen::new());
        let watched = api.clone();
        let watch = tokio::spawn(async move {
            let mut events = watcher::watcher(watched, watcher::Config::default()).boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(pod) | Event::InitApply(pod)) => tx.send_modify(|seen| note(seen, &pod)),
                    Ok(Event::Delete(pod)) => tx.send_modify(|seen| {
                        seen.remove(pod.metadata.name.as_deref().unwrap_or_default());
                    }),
                    _ => {}
                }
            }
        });
        Self { api, node, seen, watch }
    }

    /// The spec of an ordinary pod.
    pub fn plain(&self) -> Value {
        json!({
            "nodeSelector": { "kubernetes.io/hostname": self.node },
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "main",
                "image": IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", SLEEP],
            }],
        })
    }

    /// Creates a pod; says when that began.
    ///
    /// # Errors
    /// When the API refuses it.
    pub async fn create(&self, name: &str, spec: &Value) -> anyhow::Result<Instant> {
        let pod = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec }))?;
        let began = Instant::now();
        self.api.create(&PostParams::default(), &pod).await?;
        Ok(began)
    }

    /// Waits until a pod runs; says when the watcher saw it.
    ///
    /// # Errors
    /// When it does not run in time.
    pub async fn running(&self, name: &str) -> anyhow::Result<Instant> {
        let mut seen = self.seen.clone();
        let wait = seen.wait_for(|seen| seen.get(name).is_some_and(Option::is_some));
        let found = tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("{name} does not run"))??;
        found.get(name).copied().flatten().context("seen just now")
    }

    /// Creates pods at once and waits until all run; seconds from the first call to the last pod.
    ///
    /// # Errors
    /// When one is refused or does not run in time.
    pub async fn at_once(&self, names: &[String], spec: &Value) -> anyhow::Result<f64> {
        let began = Instant::now();
        let creating = futures::stream::iter(names).map(|name| self.create(name, spec));
        creating.buffer_unordered(CALLS).try_collect::<Vec<_>>().await?;
        let mut last = began;
        for name in names {
            last = last.max(self.running(name).await?);
        }
        Ok(last.duration_since(began).as_secs_f64())
    }

    /// Deletes all pods of the benchmark and waits until they are gone.
    ///
    /// # Errors
    /// When the API refuses or a pod stays.
    pub async fn delete(&self, names: &[String]) -> anyhow::Result<()> {
        let deleting = futures::stream::iter(names)
            .map(|name| async move { self.api.delete(name, &DeleteParams::default()).await.map(drop) });
        deleting.buffer_unordered(CALLS).try_collect::<Vec<_>>().await?;
        let mut seen = self.seen.clone();
        let gone = seen.wait_for(|seen| names.iter().all(|name| !seen.contains_key(name)));
        tokio::time::timeout(PATIENCE, gone).await.context("pods stay")??;
        Ok(())
    }

    /// The pods as the API has them.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn list(&self) -> anyhow::Result<Vec<Pod>> {
        Ok(self.api.list(&Default::default()).await?.items)
    }
}

fn note(seen: &mut Seen, pod: &Pod) {
    let Some(name) = pod.metadata.name.clone() else { return };
    let running = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let entry = seen.entry(name).or_default();
    if running && entry.is_none() {
        *entry = Some(Instant::now());
    }
}

/// Names of pods: `<prefix>-000`, ….
pub fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n:03}")).collect()
}
