//! A node as a machine has it: `skerry edge` as a process of its own, on a real containerd.
//!
//! The link to the hub goes through a proxy, so that a benchmark can take the cloud away. Everything is
//! below the directory of the private containerd and goes with it, also when a benchmark fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use nix::sys::signal::Signal;
use skerry_common::NodeName;
use skerry_hub_tests::{FaultProxy, Mode};
use skerry_identity::CredentialStore;
use skerry_proto::edge::v1::GetStatusRequest;
use skerry_proto::edge::v1::edge_client::EdgeClient;
use skerry_rpc::Channel;
use skerry_test_support::Containerd;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::proc::Process;

/// How long a node may take to be Ready, also on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(20);
/// Name of the program that is shipped to nodes.
const PROGRAM: &str = "skerry";

/// See the module documentation.
pub struct Machine {
    agent: Option<Process>,
    /// Its name.
    pub name: NodeName,
    program: PathBuf,
    data: PathBuf,
    logs: PathBuf,
    link: FaultProxy,
    /// Its runtime.
    pub containerd: Containerd,
}

impl Machine {
    /// Starts a node with `program`, or with the one beside this benchmark, and waits until it is Ready.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(cluster: &Cluster, name: &str, admin_port: u16, program: &Path) -> anyhow::Result<Self> {
        let name = NodeName::parse(name)?;
        let containerd = Containerd::start().await?;
        let link = FaultProxy::start(cluster.hub_address.parse()?).await?;
        let (data, logs) = (containerd.dir().join("edge"), containerd.dir().join("logs"));
        let credentials = data.join("credentials");
        std::fs::create_dir_all(&data)?;
        CredentialStore::open(&credentials)?.save(&cluster.node_credentials(&name)?)?;
        let config = serde_json::json!({
            "nodeName": name,
            "hubs": [link.address().to_string()],
            "trustDomain": cluster.trust_domain(),
            "runtimeEndpoint": containerd.socket(),
            "podLogDir": logs,
            "cgroupRoot": containerd.cgroup_root(),
            // The disk of the machine is what it is: a full one is not what is measured.
            "node": { "evictionHard": {} },
            "dmi": {
                "socket": data.join("dmi.sock"),
                "mapperSocketDirs": [containerd.dir()],
                "statusSeconds": cluster.value_seconds,
            },
            "adminListen": format!("127.0.0.1:{admin_port}"),
            "kubeletListen": format!("127.0.0.1:{}", admin_port + 3),
        });
        std::fs::write(data.join("edge.yaml"), config.to_string())?;
        let mut machine = Self { agent: None, name, program: program.to_owned(), data, logs, link, containerd };
        machine.start_agent()?;
        machine.until_ready(&cluster.client).await?;
        Ok(machine)
    }

    /// The program that is shipped to nodes, of the build that this benchmark belongs to.
    ///
    /// # Errors
    /// When the benchmark does not know where it is.
    pub fn shipped() -> anyhow::Result<PathBuf> {
        Ok(crate::proc::binaries()?.join(PROGRAM))
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&mut self) -> anyhow::Result<()> {
        let data = self.data.to_str().context("a path is text")?.to_owned();
        let arguments = ["--log-filter", "warn", "edge", "--data-dir", &data];
        self.agent = Some(Process::start(&self.program, &arguments, self.containerd.dir())?);
        Ok(())
    }

    /// Kills the agent as a crash would.
    pub fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// The agent's process.
    ///
    /// # Errors
    /// When it was killed.
    pub fn agent(&self) -> anyhow::Result<&Process> {
        self.agent.as_ref().context("the agent was killed")
    }

    /// Takes the cloud away, or gives it back.
    pub fn set_cloud(&self, there: bool) {
        self.link.set(if there { Mode::Pass } else { Mode::Blackhole });
    }

    /// What a reboot does: the agent, the runtime and all processes of pods end; the runtime starts again,
    /// the agent does not yet.
    ///
    /// # Errors
    /// When the runtime does not come back.
    pub fn reboot(&mut self) -> anyhow::Result<()> {
        self.kill_agent();
        self.containerd.runtime()?.kill_daemon(Signal::SIGKILL);
        self.containerd.lose_processes();
        self.containerd.runtime()?.start_daemon()?;
        Ok(())
    }

    /// Waits until the API says that the node is Ready.
    ///
    /// # Errors
    /// When it does not happen in time.
    pub async fn until_ready(&self, client: &kube::Client) -> anyhow::Result<()> {
        let api: Api<Node> = Api::all(client.clone());
        let deadline = Instant::now() + START;
        loop {
            let node = api.get_opt(self.name.as_str()).await?;
            let conditions = node.iter().filter_map(|n| n.status.as_ref()?.conditions.as_ref()).flatten();
            if conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True") {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "the node is not Ready: {}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How many reports wait in the node's store for the cloud; `None` while EdgeHub does not answer.
    pub async fn waiting_reports(&self) -> Option<u64> {
        let mut edge = EdgeClient::new(Channel::unix(self.data.join("edgehub.sock")));
        Some(edge.get_status(GetStatusRequest {}).await.ok()?.into_inner().outbox)
    }

    /// The socket of mappers; their own are below the folder of the runtime.
    pub fn dmi_socket(&self) -> PathBuf {
        self.data.join("dmi.sock")
    }

    /// Where the agent keeps the files of pods: on disk, and in memory.
    pub fn pods_dirs(&self) -> [PathBuf; 2] {
        ["edged/pods", "edged/memory"].map(|dir| self.data.join(dir))
    }

    /// Where the logs of pods are.
    pub fn logs_dir(&self) -> &Path {
        &self.logs
    }

    /// The end of the agent's log.
    pub fn log(&self) -> String {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(self.containerd.dir().join(format!("{name}.log"))).unwrap_or_default();
        text.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }
}
