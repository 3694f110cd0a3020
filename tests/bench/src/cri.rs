//! The runtime alone: the same sandboxes and containers as edged makes, asked for directly.
//!
//! What is made here has no label of edged, which therefore leaves it alone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use futures::{StreamExt as _, TryStreamExt as _};
use skerry_proto::cri::v1::runtime_service_client::RuntimeServiceClient;
use skerry_proto::cri::v1::{
    Container, ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
    ListContainersRequest, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
};
use skerry_rpc::Channel;
use skerry_rpc::limits::CRI_MESSAGE_BYTES;
use tokio::time::Instant;

use crate::pods::{IMAGE, SLEEP};

/// Label by which edged knows its own.
const NODE_LABEL: &str = "skerry.io/node";
/// Sandboxes that are removed at a time.
const REMOVALS: usize = 8;

/// See the module documentation.
pub struct Runtime {
    client: RuntimeServiceClient<Channel>,
    folder: PathBuf,
}

impl Runtime {
    /// A client for a socket; files for containers go below `folder`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(socket: &Path, folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        for file in ["hosts", "message"] {
            std::fs::write(folder.join(file), "")?;
        }
        let client = RuntimeServiceClient::new(Channel::unix(socket)).max_decoding_message_size(CRI_MESSAGE_BYTES);
        Ok(Self { client, folder: folder.to_owned() })
    }

    /// Starts pods, so many at a time, and removes them; seconds until the last one ran.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub async fn pods(&self, count: usize, at_a_time: usize) -> anyhow::Result<f64> {
        let began = Instant::now();
        let starting = futures::stream::iter(0..count).map(|n| self.start(n));
        let sandboxes = starting.buffer_unordered(at_a_time).try_collect::<Vec<_>>().await?;
        let took = began.elapsed().as_secs_f64();
        let removing = futures::stream::iter(sandboxes).map(|id| self.remove(id));
        removing.buffer_unordered(REMOVALS).try_collect::<Vec<_>>().await?;
        Ok(took)
    }

    async fn start(&self, n: usize) -> anyhow::Result<String> {
        let mut client = self.client.clone();
        let config = self.sandbox(n)?;
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let sandbox = client.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(self.container()),
            sandbox_config: Some(config),
        };
        let container_id = client.create_container(request).await?.into_inner().container_id;
        client.start_container(StartContainerRequest { container_id }).await?;
        Ok(sandbox)
    }

    async fn remove(&self, id: String) -> anyhow::Result<()> {
        let mut client = self.client.clone();
        client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
        client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
        Ok(())
    }

    fn sandbox(&self, n: usize) -> anyhow::Result<PodSandboxConfig> {
        let uid = format!("bench-{n}");
        let logs = self.folder.join(&uid);
        std::fs::create_dir_all(logs.join("main"))?;
        Ok(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: uid.clone(),
                uid: uid.clone(),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: uid.clone(),
            log_directory: logs.display().to_string(),
            labels: HashMap::from([("bench".to_owned(), uid)]),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        })
    }

    fn container(&self) -> ContainerConfig {
        let bind = |container_path: &str, file: &str| Mount {
            container_path: container_path.to_owned(),
            host_path: self.folder.join(file).display().to_string(),
            ..Mount::default()
        };
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.into(), ..ImageSpec::default() }),
            command: ["/bin/sh", "-c", SLEEP].map(str::to_owned).to_vec(),
            mounts: vec![
                bind("/etc/hosts", "hosts"),
                bind("/dev/termination-log", "message"),
                bind("/var/run/secrets/kubernetes.io/serviceaccount", "hosts"),
            ],
            log_path: "main/0.log".into(),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    cpu_shares: 2,
                    oom_score_adj: 1000,
                    ..LinuxContainerResources::default()
                }),
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..LinuxContainerSecurityContext::default()
                }),
            }),
            ..ContainerConfig::default()
        }
    }

    /// The containers that edged made, as the runtime lists them.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn of_edged(&self) -> anyhow::Result<Vec<Container>> {
        let mut client = self.client.clone();
        let all = client.list_containers(ListContainersRequest { filter: None }).await?.into_inner().containers;
        Ok(all.into_iter().filter(|c| c.labels.contains_key(NODE_LABEL)).collect())
    }
}

fn namespaces() -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..NamespaceOption::default()
    }
}
