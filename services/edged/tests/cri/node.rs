//! A node for a test: real containerd, edged in this process, and the stand-in for EdgeHub.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skerry_common::{NodeName, drain, kinds};
use skerry_edged::{Config, Connect, Edged, NodeConfig};
use skerry_rpc::PipeConnector;
use skerry_telemetry::Registry;
use skerry_test_support::Containerd;
use tokio::task::JoinHandle;

use crate::api::Identities;
use skerry_test_support::Hub;

pub(crate) const IMAGE: &str = "skerry.test/busybox:1";
/// Processes that one pod may have.
pub(crate) const POD_PIDS: i64 = 1000;
/// A step of a test that takes longer has failed. Generous: the machine runs other tests.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    pub(crate) hub: Arc<Hub>,
    pub(crate) name: String,
    pub(crate) identities: Identities,
    connector: PipeConnector,
    _hub_stop: drain::Trigger,
    /// Of the agent that runs.
    telemetry: Registry,
    node_ip: Option<IpAddr>,
    /// Socket of the runtime, if it is not the runtime's own.
    pub(crate) runtime_endpoint: Option<PathBuf>,
    agent: Option<(drain::Trigger, JoinHandle<Result<(), skerry_edged::Error>>)>,
    configure: fn(&mut NodeConfig),
    /// What tells whether the machine goes down.
    pub(crate) systemctl: Option<PathBuf>,
    /// Last: the agent and the hub stop before the runtime goes.
    pub(crate) containerd: Containerd,
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A node that has this address.
    pub(crate) async fn start_at(node_ip: Option<IpAddr>) -> Self {
        let mut node = Self::without_agent(|_| {}).await;
        node.node_ip = node_ip;
        node.start_agent().await;
        node
    }

    /// A node with a configuration of its own.
    pub(crate) async fn start_with(configure: fn(&mut NodeConfig)) -> Self {
        let mut node = Self::without_agent(configure).await;
        node.start_agent().await;
        node
    }

    /// A node whose agent is started later.
    pub(crate) async fn without_agent(configure: fn(&mut NodeConfig)) -> Self {
        let containerd = Containerd::start().await.unwrap();
        let (hub, connector, hub_stop) = Hub::start().await;
        let name = format!("node-{}", std::process::id());
        Self {
            hub,
            name,
            identities: Identities::new(),
            connector,
            _hub_stop: hub_stop,
            telemetry: Registry::new(),
            node_ip: None,
            runtime_endpoint: None,
            agent: None,
            configure,
            systemctl: None,
            containerd,
        }
    }

    /// A counter of the agent that runs, by name and labels; zero until it counted.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.telemetry.encode();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap()).unwrap_or_default()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.containerd.dir().join("edged")
    }

    /// Where the node looks for static pods.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.containerd.dir().join("manifests")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.containerd.dir().join("logs")
    }

    pub(crate) async fn start_agent(&mut self) {
        let mut config = Config::new(NodeName::parse(&self.name).unwrap());
        config.root_dir = self.root();
        config.pod_log_dir = self.logs();
        config.node.pod_pids_limit = POD_PIDS;
        config.static_pod_path = Some(self.manifests());
        config.cgroup_root = self.containerd.cgroup_root();
        let socket = self.runtime_endpoint.clone().unwrap_or_else(|| self.containerd.socket());
        config.runtime_endpoint = Some(socket.display().to_string());
        // The machine of a test is what it is: full disks are the business of tests about them.
        config.node.eviction_hard.clear();
        config.node.image_gc_high_threshold_percent = 100;
        config.node.container_log_links = Some(self.links());
        (self.configure)(&mut config.node);
        if let Some(systemctl) = &self.systemctl {
            config.node.systemctl.clone_from(systemctl);
        }
        config.node_ip = self.node_ip;
        config.api = Some(self.identities.api(self.containerd.dir(), &self.name));
        self.telemetry = Registry::new();
        let edged = Edged::build(config, Connect::Pipe(self.connector.clone()), &self.telemetry).await.unwrap();
        let (trigger, watch) = drain::channel(Duration::from_secs(5));
        self.agent = Some((trigger, tokio::spawn(edged.run(watch))));
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.containerd.dir().join("links")
    }

    /// Ends the agent as SIGTERM would.
    pub(crate) async fn stop_agent(&mut self) {
        let (trigger, task) = self.agent.take().unwrap();
        trigger.drain().await;
        task.await.unwrap().unwrap();
    }

    /// Ends the agent as a kill would: nothing is flushed, nothing is drained.
    pub(crate) async fn kill_agent(&mut self) {
        let (trigger, task) = self.agent.take().unwrap();
        task.abort();
        let _ = task.await;
        drop(trigger);
    }

    pub(crate) fn put_pod(&self, name: &str, uid: &str, spec: Value) {
        let body = json!({ "metadata": { "uid": uid }, "spec": spec });
        self.hub.put(kinds::POD, "test", name, body);
    }

    /// What `kubectl delete` does to the object.
    pub(crate) fn delete_gracefully(&self, name: &str, seconds: i64) {
        let mut pod = self.hub.get(kinds::POD, "test", name).unwrap();
        pod["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = seconds.into();
        self.hub.put(kinds::POD, "test", name, pod);
    }

    pub(crate) fn status(&self, uid: &str) -> Value {
        self.hub.newest(kinds::POD_STATUS, uid).map(|b| b["status"].clone()).unwrap_or(Value::Null)
    }

    /// Waits until the status of a pod is as wanted and returns it.
    pub(crate) async fn until(&self, uid: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let status = || self.status(uid);
        wait(what, || wanted(&status()), || format!("{:#}\nevents: {:#?}", status(), self.all_events())).await;
        status()
    }

    pub(crate) async fn until_running(&self, uid: &str) -> Value {
        self.until(uid, "running", |s| s["phase"] == "Running" && condition(s, "Ready") == "True").await
    }

    pub(crate) async fn until_deleted(&self, uid: &str) {
        let deleted = || self.hub.received(kinds::POD_DELETION).iter().any(|r| r.uid == uid);
        wait("deletion", deleted, || format!("{:#}\nevents: {:#?}", self.status(uid), self.all_events())).await;
    }

    pub(crate) async fn until_event(&self, uid: &str, reason: &str, part: &str) {
        let seen = || self.hub.events(uid, reason).iter().any(|m| m.contains(part));
        wait(reason, seen, || format!("{:#?}", self.all_events())).await;
    }

    pub(crate) fn node_condition(&self, kind: &str) -> Option<(String, String)> {
        let body = self.hub.newest(kinds::NODE_STATUS, "")?;
        let found = body["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)?.clone();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        Some((text(&found["status"]), text(&found["message"])))
    }

    pub(crate) fn all_events(&self) -> Vec<String> {
        self.hub.received(kinds::EVENT).iter().map(|r| format!("{}: {}", r.body["reason"], r.body["message"])).collect()
    }

    /// Runs ctr against this node's containerd.
    pub(crate) fn ctr(&self, args: &[&str]) -> String {
        let out = Command::new("ctr")
            .arg("--address")
            .arg(self.containerd.socket())
            .args(["-n", "k8s.io"])
            .args(args)
            .output()
            .unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    }

    /// Ids of all sandboxes that the runtime keeps.
    pub(crate) fn sandbox_ids(&self) -> Vec<String> {
        let dir = self.containerd.dir().join("state/containerd/io.containerd.grpc.v1.cri/sandboxes");
        let entries = std::fs::read_dir(dir).unwrap();
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }

    pub(crate) fn log(&self, name: &str, uid: &str, container: &str, attempt: u32) -> String {
        let path = self.logs().join(format!("test_{name}_{uid}/{container}/{attempt}.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }
}

pub(crate) fn condition(status: &Value, kind: &str) -> String {
    let all = status["conditions"].as_array().cloned().unwrap_or_default();
    all.iter().find(|c| c["type"] == kind).map(|c| c["status"].as_str().unwrap().to_owned()).unwrap_or_default()
}

pub(crate) async fn wait(what: &str, done: impl Fn() -> bool, state: impl Fn() -> String) {
    wait_within(PATIENCE, what, done, state).await;
}

pub(crate) async fn wait_within(limit: Duration, what: &str, done: impl Fn() -> bool, state: impl Fn() -> String) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < deadline, "waited too long for {what}: {}", state());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Paths below a directory that contain a text, for control groups.
pub(crate) fn find_paths(dir: &Path, part: &str, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return found };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        if entry.file_name().to_string_lossy().contains(part) {
            found.push(entry.path());
        }
        if depth > 0 {
            found.extend(find_paths(&entry.path(), part, depth - 1));
        }
    }
    found
}
