//! An API server, the controllers, and nodes without machines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skerry_apiserver::{ApiServer, Config};
use skerry_common::drain;
use skerry_controllers::{Controllers, Options};
use tokio::task::JoinHandle;

/// Longest wait for anything: generous, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub client: Client,
    alive: Arc<Mutex<BTreeSet<String>>>,
    trigger: Option<drain::Trigger>,
    running: JoinHandle<Result<(), skerry_controllers::Error>>,
    kubelets: Vec<JoinHandle<()>>,
    server: ApiServer,
    _dir: tempfile::TempDir,
}

/// Timings that make tests short.
pub fn fast() -> Options {
    Options {
        node_monitor_grace: Duration::from_secs(3),
        node_startup_grace: Duration::from_secs(5),
        node_monitor_period: Duration::from_millis(200),
        node_eviction_rate: 10.0,
        pod_gc_period: Duration::from_millis(300),
        pod_gc_quarantine: Duration::from_millis(500),
        discovery_period: Duration::from_secs(2),
        scheduler_backoff: (Duration::from_millis(50), Duration::from_millis(200)),
        ..Options::default()
    }
}

pub async fn start() -> Cluster {
    start_with(fast()).await
}

pub async fn start_with(options: Options) -> Cluster {
    start_behind(options, |router| Client::new(router, "default")).await
}

/// The controllers reach the API only through the client that `through` makes.
pub async fn start_behind(options: Options, through: impl FnOnce(Router) -> Client) -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    config.listen = ([127, 0, 0, 1], 0).into();
    let server = config.build().await.unwrap();
    let client = Client::new(server.router(), "default");
    // Failing tests show what the controllers said; only the first of a process can set it up.
    let filter = std::env::var("SKERRY_LOG").unwrap_or_else(|_| "warn".into());
    let log = skerry_telemetry::LogConfig { filter: Some(filter), ..Default::default() };
    if let Ok(guard) = skerry_telemetry::init(&log) {
        std::mem::forget(guard);
    }
    let mut controllers = Controllers::new(through(server.router()), server.ca_pem());
    controllers.options = options;
    let (trigger, watch) = drain::channel(Duration::from_secs(10));
    let running = tokio::spawn(controllers.run(watch));
    let alive: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let kubelets =
        vec![tokio::spawn(kubelet(client.clone(), alive.clone())), tokio::spawn(renew(client.clone(), alive.clone()))];
    Cluster { client, alive, trigger: Some(trigger), running, kubelets, server, _dir: dir }
}

/// Runs every pod that is bound to a node that is alive, and lets go of those that are deleted.
async fn kubelet(client: Client, alive: Arc<Mutex<BTreeSet<String>>>) {
    let mut events = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    let mut next_ip = 0_u32;
    loop {
        let pod = match events.try_next().await {
            Ok(Some(pod)) => pod,
            Ok(None) => return,
            Err(_) => continue,
        };
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        if !alive.lock().unwrap().contains(&node) {
            continue;
        }
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
        if pod.metadata.deletion_timestamp.is_some() {
            let _ = api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
        } else if pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending") == "Pending" {
            next_ip += 1;
            let ip = format!("10.1.{}.{}", next_ip / 250, next_ip % 250 + 1);
            let ends = pod.labels().get("ends").cloned();
            let status = match ends.as_deref() {
                Some(phase) => json!({"status": {"phase": phase}}),
                None => json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [
                    {"type": "PodScheduled", "status": "True"},
                    {"type": "ContainersReady", "status": "True"},
                    {"type": "Ready", "status": "True", "lastTransitionTime": now()}]}}),
            };
            let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await;
        }
    }
}

fn now() -> String {
    k8s_time(Timestamp::now())
}

fn k8s_time(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn renew(client: Client, alive: Arc<Mutex<BTreeSet<String>>>) {
    let api: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    loop {
        let names = alive.lock().unwrap().clone();
        for name in names {
            let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
            let lease = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": time}});
            if api.patch(&name, &PatchParams::default(), &Patch::Merge(&lease)).await.is_err() {
                let _ = api.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

impl Cluster {
    pub fn ca_pem(&self) -> &str {
        self.server.ca_pem()
    }

    /// Registers a node that is alive and ready.
    pub async fn node(&self, name: &str) {
        self.node_with(name, json!({})).await;
    }

    pub async fn node_with(&self, name: &str, patch: Value) {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "capacity": {"cpu": "8", "memory": "16Gi", "pods": "500"},
                "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "500"},
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now(), "lastTransitionTime": now()}],
            }
        });
        json_patch::merge(&mut node, &patch);
        self.alive.lock().unwrap().insert(name.to_owned());
        let api: Api<Node> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    }

    /// The node goes silent.
    pub fn cut(&self, name: &str) {
        self.alive.lock().unwrap().remove(name);
    }

    /// The node speaks again, and reports itself and its pods.
    pub async fn mend(&self, name: &str) {
        self.alive.lock().unwrap().insert(name.to_owned());
        let ready =
            json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now()}]}});
        let api: Api<Node> = Api::all(self.client.clone());
        api.patch_status(name, &PatchParams::default(), &Patch::Strategic(ready)).await.unwrap();
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    pub async fn create<K>(&self, value: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let object: K = serde_json::from_value(value).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    pub async fn pods(&self, labels: &str) -> Vec<Pod> {
        self.api::<Pod>().list(&ListParams::default().labels(labels)).await.unwrap().items
    }

    pub async fn pod(&self, name: &str) -> Pod {
        self.api::<Pod>().get(name).await.unwrap()
    }

    /// Waits until the pods with these labels are exactly `count`, all Running on a node.
    pub async fn running(&self, labels: &str, count: usize) -> Vec<Pod> {
        until(&format!("{count} pods {labels} run"), async || {
            let pods = self.pods(labels).await;
            let up = pods.iter().filter(|p| is_running(p)).count();
            (pods.len() == count && up == count).then_some(pods)
        })
        .await
    }

    /// Stops the controllers in the middle of whatever they do, and starts new ones.
    pub async fn restart_controllers(&mut self) {
        self.trigger.take().unwrap().drain().await;
        (&mut self.running).await.unwrap().unwrap();
        let mut controllers = Controllers::new(self.client.clone(), self.server.ca_pem());
        controllers.options = fast();
        let (trigger, watch) = drain::channel(Duration::from_secs(10));
        self.trigger = Some(trigger);
        self.running = tokio::spawn(controllers.run(watch));
    }

    /// Stops the controllers and checks that they end cleanly.
    pub async fn stop(mut self) {
        self.trigger.take().unwrap().drain().await;
        for kubelet in &self.kubelets {
            kubelet.abort();
        }
        (&mut self.running).await.unwrap().unwrap();
    }
}

pub fn is_running(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
}

pub fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref().and_then(|s| s.node_name.clone())
}

pub fn condition(pod: &Pod, type_: &str) -> (String, String, String) {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let found = conditions.into_iter().find(|c| c.type_ == type_);
    found.map(|c| (c.status, c.reason.unwrap_or_default(), c.message.unwrap_or_default())).unwrap_or_default()
}

/// Pods per node.
pub fn spread(pods: &[Pod]) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for node in pods.iter().filter_map(node_of) {
        *out.entry(node).or_insert(0) += 1;
    }
    out
}

/// Asks again and again until `probe` has an answer.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
