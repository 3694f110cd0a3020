//! The CRI client: every call has a deadline, and lists show only what this node's edged made.
//!
//! Cheap to clone; all clones share one connection that comes back by itself after a restart of the
//! runtime. Called by workers, the relist and the node's status. Invariants: an answer that does not
//! come is an error, never an empty list; removing and stopping what is gone succeeds. Limits: the
//! deadlines below; messages of 16 MiB.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skerry_common::notify::Held;
use skerry_proto::containerd::tasks::v1::DeleteTaskRequest;
use skerry_proto::containerd::tasks::v1::tasks_client::TasksClient;
use skerry_proto::cri::v1::image_service_client::ImageServiceClient;
use skerry_proto::cri::v1::runtime_service_client::RuntimeServiceClient;
use skerry_proto::cri::v1::{
    AttachRequest, AuthConfig, Container, ContainerConfig, ContainerEventResponse, ContainerFilter, ContainerStats,
    ContainerStatsFilter, ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest, ExecRequest,
    ExecSyncRequest, ExecSyncResponse, FilesystemUsage, GetEventsRequest, Image, ImageFsInfoRequest, ImageSpec,
    ImageStatusRequest, LinuxContainerResources, ListContainerStatsRequest, ListContainersRequest, ListImagesRequest,
    ListPodSandboxRequest, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatus, PodSandboxStatusRequest,
    PortForwardRequest, PullImageRequest, RemoveContainerRequest, RemoveImageRequest, RemovePodSandboxRequest,
    ReopenContainerLogRequest, RunPodSandboxRequest, StartContainerRequest, StatusRequest, StatusResponse,
    StopContainerRequest, StopPodSandboxRequest, UpdateContainerResourcesRequest, VersionRequest, VersionResponse,
};
use skerry_rpc::limits::CRI_MESSAGE_BYTES;
use skerry_rpc::{Channel, ClientLimits, Target, deadline};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::pod::labels;

/// Lists and statuses are answered from the runtime's memory; a runtime that takes longer hangs.
pub(crate) const LIST: Duration = Duration::from_secs(10);
/// Creating, starting and removing may wait for a slow disk.
const CHANGE: Duration = Duration::from_secs(120);
/// A sandbox waits for the network plugins; the kubelet gives it as long.
const SANDBOX: Duration = Duration::from_secs(240);
/// Beyond the grace period a kill must be quick.
const STOP_MARGIN: Duration = Duration::from_secs(30);
/// A runtime that is busy kills a command this much later than asked. One that hangs is not waited for.
const EXEC_MARGIN: Duration = Duration::from_secs(5);
/// A large image over a thin line.
const PULL: Duration = Duration::from_secs(3600);

/// When the agent is killed, the runtime finishes the calls that were under way: one that is cut off while it
/// starts a container kills it again, and the next agent would start it a second time.
static CONNECTION: Held = Held::new("cri");

/// Lets go of connections of earlier agents, when nothing of theirs is under way any more.
pub(crate) async fn forget_earlier_agents() {
    tokio::time::sleep(SANDBOX).await;
    CONNECTION.forget_older();
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    tasks: TasksClient<Channel>,
    node: Arc<str>,
}

type Reply<T> = Result<T, Status>;

impl Cri {
    /// A client for a socket; nothing is connected yet.
    pub(crate) fn new(socket: &Path, node: &str) -> Self {
        let channel = Channel::lazy(&Target::unix_held(socket, &CONNECTION), ClientLimits::local());
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(CRI_MESSAGE_BYTES),
            tasks: TasksClient::new(channel.clone()),
            images: ImageServiceClient::new(channel).max_decoding_message_size(CRI_MESSAGE_BYTES),
            node: node.into(),
        }
    }

    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    pub(crate) async fn version(&self) -> Reply<VersionResponse> {
        let request = VersionRequest { version: "v1".into() };
        Ok(self.runtime.clone().version(deadline(request, LIST)).await?.into_inner())
    }

    pub(crate) async fn status(&self, verbose: bool) -> Reply<StatusResponse> {
        Ok(self.runtime.clone().status(deadline(StatusRequest { verbose }, LIST)).await?.into_inner())
    }

    fn selector(&self, uid: Option<&str>) -> HashMap<String, String> {
        let mut labels = HashMap::from([(labels::NODE.to_owned(), self.node.to_string())]);
        if let Some(uid) = uid {
            labels.insert(labels::POD_UID.to_owned(), uid.to_owned());
        }
        labels
    }

    /// Sandboxes of one pod, or of all pods of this node.
    pub(crate) async fn sandboxes(&self, uid: Option<&str>) -> Reply<Vec<PodSandbox>> {
        let filter = PodSandboxFilter { label_selector: self.selector(uid), ..PodSandboxFilter::default() };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        Ok(self.runtime.clone().list_pod_sandbox(deadline(request, LIST)).await?.into_inner().items)
    }

    /// Containers of one pod, or of all pods of this node.
    pub(crate) async fn containers(&self, uid: Option<&str>) -> Reply<Vec<Container>> {
        let filter = ContainerFilter { label_selector: self.selector(uid), ..ContainerFilter::default() };
        let request = ListContainersRequest { filter: Some(filter) };
        Ok(self.runtime.clone().list_containers(deadline(request, LIST)).await?.into_inner().containers)
    }

    /// Containers of everybody who uses the runtime.
    pub(crate) async fn all_containers(&self) -> Reply<Vec<Container>> {
        let request = ListContainersRequest { filter: None };
        Ok(self.runtime.clone().list_containers(deadline(request, LIST)).await?.into_inner().containers)
    }

    /// `None`: it is gone.
    pub(crate) async fn sandbox_status(&self, id: &str) -> Reply<Option<PodSandboxStatus>> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let reply = found(self.runtime.clone().pod_sandbox_status(deadline(request, LIST)).await)?;
        Ok(reply.and_then(|r| r.status))
    }

    /// `None`: it is gone.
    pub(crate) async fn container_status(&self, id: &str) -> Reply<Option<ContainerStatusResponse>> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        found(self.runtime.clone().container_status(deadline(request, LIST)).await)
    }

    pub(crate) async fn run_sandbox(&self, config: PodSandboxConfig, handler: String) -> Reply<String> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: handler };
        Ok(self.runtime.clone().run_pod_sandbox(deadline(request, SANDBOX)).await?.into_inner().pod_sandbox_id)
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Reply<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        found(self.runtime.clone().stop_pod_sandbox(deadline(request, SANDBOX)).await).map(drop)
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Reply<()> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        found(self.runtime.clone().remove_pod_sandbox(deadline(request, CHANGE)).await).map(drop)
    }

    pub(crate) async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Reply<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(self.runtime.clone().create_container(deadline(request, CHANGE)).await?.into_inner().container_id)
    }

    pub(crate) async fn start_container(&self, id: &str) -> Reply<()> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().start_container(deadline(request, CHANGE)).await.map(drop)
    }

    /// Gives a running container other limits.
    pub(crate) async fn update_resources(&self, id: &str, linux: LinuxContainerResources) -> Reply<()> {
        let request = UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..UpdateContainerResourcesRequest::default()
        };
        self.runtime.clone().update_container_resources(deadline(request, CHANGE)).await.map(drop)
    }

    pub(crate) async fn stop_container(&self, id: &str, grace_s: i64) -> Reply<()> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: grace_s };
        let within = Duration::from_secs(u64::try_from(grace_s).unwrap_or(0)).saturating_add(STOP_MARGIN);
        found(self.runtime.clone().stop_container(deadline(request, within)).await).map(drop)
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Reply<()> {
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        found(self.runtime.clone().remove_container(deadline(request, CHANGE)).await).map(drop)
    }

    /// Has containerd forget the ended task of a container that it cannot remove because of it. A task that runs
    /// is refused; other runtimes do not know the call.
    pub(crate) async fn forget_task(&self, id: &str) -> Reply<()> {
        let mut request = deadline(DeleteTaskRequest { container_id: id.to_owned() }, CHANGE);
        request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static("k8s.io"));
        found(self.tasks.clone().delete(request).await).map(drop)
    }

    /// Runs a command and waits for its end; the runtime kills it after `within`, rounded up to seconds.
    ///
    /// # Errors
    /// `DeadlineExceeded` when it was killed. Dropping the future kills it too.
    pub(crate) async fn exec_sync(&self, id: &str, cmd: Vec<String>, within: Duration) -> Reply<ExecSyncResponse> {
        // Zero would mean for ever.
        let seconds = within.as_millis().div_ceil(1000).max(1);
        let timeout = i64::try_from(seconds).unwrap_or(i64::MAX);
        let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        let within = within.saturating_add(EXEC_MARGIN);
        Ok(self.runtime.clone().exec_sync(deadline(request, within)).await?.into_inner())
    }

    /// The number of a container's main process on this machine, where the runtime tells it.
    pub(crate) async fn main_process(&self, id: &str) -> Reply<Option<i32>> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let reply = found(self.runtime.clone().container_status(deadline(request, LIST)).await)?;
        let info = reply.and_then(|reply| serde_json::from_str::<serde_json::Value>(reply.info.get("info")?).ok());
        Ok(info.and_then(|info| i32::try_from(info.get("pid")?.as_i64()?).ok()).filter(|pid| *pid > 0))
    }

    /// Where to run a command in a container: a URL of the runtime's streaming server.
    pub(crate) async fn exec(&self, request: ExecRequest) -> Reply<String> {
        Ok(self.runtime.clone().exec(deadline(request, LIST)).await?.into_inner().url)
    }

    /// Where to attach to a container.
    pub(crate) async fn attach(&self, request: AttachRequest) -> Reply<String> {
        Ok(self.runtime.clone().attach(deadline(request, LIST)).await?.into_inner().url)
    }

    /// Where to forward ports of a pod.
    pub(crate) async fn port_forward(&self, request: PortForwardRequest) -> Reply<String> {
        Ok(self.runtime.clone().port_forward(deadline(request, LIST)).await?.into_inner().url)
    }

    /// What happens to containers, as it happens.
    ///
    /// # Errors
    /// `Unimplemented` when the runtime does not offer it.
    pub(crate) async fn events(&self) -> Reply<tonic::Streaming<ContainerEventResponse>> {
        Ok(self.runtime.clone().get_container_events(GetEventsRequest {}).await?.into_inner())
    }

    pub(crate) async fn image(&self, name: &str) -> Reply<Option<Image>> {
        let request = ImageStatusRequest { image: Some(spec(name)), verbose: false };
        Ok(self.images.clone().image_status(deadline(request, LIST)).await?.into_inner().image)
    }

    pub(crate) async fn pull(
        &self,
        name: &str,
        auth: Option<AuthConfig>,
        sandbox_config: PodSandboxConfig,
    ) -> Reply<String> {
        let request = PullImageRequest { image: Some(spec(name)), auth, sandbox_config: Some(sandbox_config) };
        Ok(self.images.clone().pull_image(deadline(request, PULL)).await?.into_inner().image_ref)
    }

    /// Where images lie and what they take.
    pub(crate) async fn image_fs(&self) -> Reply<FilesystemUsage> {
        let reply = self.images.clone().image_fs_info(deadline(ImageFsInfoRequest {}, LIST)).await?.into_inner();
        Ok(reply.image_filesystems.into_iter().next().unwrap_or_default())
    }

    /// What the containers of this node use.
    pub(crate) async fn container_stats(&self) -> Reply<Vec<ContainerStats>> {
        let filter = ContainerStatsFilter { label_selector: self.selector(None), ..ContainerStatsFilter::default() };
        let request = ListContainerStatsRequest { filter: Some(filter) };
        Ok(self.runtime.clone().list_container_stats(deadline(request, LIST)).await?.into_inner().stats)
    }

    pub(crate) async fn remove_image(&self, id: &str) -> Reply<()> {
        let request = RemoveImageRequest { image: Some(spec(id)) };
        found(self.images.clone().remove_image(deadline(request, CHANGE)).await).map(drop)
    }

    /// Makes the runtime write a container's log into a new file.
    pub(crate) async fn reopen_log(&self, id: &str) -> Reply<()> {
        let request = ReopenContainerLogRequest { container_id: id.to_owned() };
        self.runtime.clone().reopen_container_log(deadline(request, LIST)).await.map(drop)
    }

    pub(crate) async fn list_images(&self) -> Reply<Vec<Image>> {
        let request = ListImagesRequest { filter: None };
        Ok(self.images.clone().list_images(deadline(request, LIST)).await?.into_inner().images)
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned(), ..ImageSpec::default() }
}

fn found<T>(reply: Reply<tonic::Response<T>>) -> Reply<Option<T>> {
    match reply {
        Ok(reply) => Ok(Some(reply.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// Whether the runtime itself, not the request, is the trouble.
pub(crate) fn is_runtime_trouble(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}
