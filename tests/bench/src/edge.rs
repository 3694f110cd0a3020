//! A node with a real EdgeHub and its store, behind a link that can fail.
//!
//! In place of edged there is a reporter that does what edged does towards EdgeHub: it registers the
//! node, reports its status whenever the link comes up and every five minutes, and nothing else.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use skerry_common::{NodeName, drain, kinds};
use skerry_edgehub::{Config, EdgeHub, LinkTimes, Listen};
use skerry_hub_tests::FaultProxy;
use skerry_identity::CredentialStore;
use skerry_proto::edge::v1::edge_client::EdgeClient;
use skerry_proto::edge::v1::{GetStatusRequest, LinkState};
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::sink_client::SinkClient;
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_rpc::Channel;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use crate::cluster::Cluster;

/// How often a node reports its status although nothing changed.
const STATUS_EVERY: Duration = Duration::from_secs(300);

/// See the module documentation.
pub struct Edge {
    /// The node's name.
    pub name: NodeName,
    /// Its link.
    pub link: FaultProxy,
    channel: Channel,
    tasks: Vec<JoinHandle<()>>,
    _trigger: drain::Trigger,
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Edge {
    /// Starts a node whose files are below `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(cluster: &Cluster, name: &str, folder: &Path) -> anyhow::Result<Self> {
        let name = NodeName::parse(name)?;
        let link = FaultProxy::start(cluster.hub_address.parse()?).await?;
        let folder = folder.join(name.as_str());
        let credentials = folder.join("credentials");
        std::fs::create_dir_all(&folder)?;
        CredentialStore::open(&credentials)?.save(&cluster.node_credentials(&name)?)?;
        let config = Config {
            node_name: name.clone(),
            hubs: vec![link.address().to_string()],
            trust_domain: cluster.trust_domain().to_owned(),
            credentials,
            store: folder.join("store"),
            services: true,
            devices: false,
            times: LinkTimes::default(),
        };
        let (listener, connector) = skerry_rpc::pipe();
        let hub = EdgeHub::build(config, Listen::Pipe(listener), &skerry_telemetry::Registry::new()).await?;
        let (trigger, stop) = drain::channel(Duration::from_secs(5));
        let channel = Channel::pipe(connector);
        let hub = tokio::spawn(async move {
            if let Err(error) = hub.run(stop).await {
                crate::say(&format!("a node failed: {}", skerry_common::chain(&error)));
            }
        });
        let reporter = tokio::spawn({
            let (channel, name) = (channel.clone(), name.clone());
            async move {
                if let Err(error) = report(channel, name).await {
                    crate::say(&format!("a reporter ended: {error:#}"));
                }
            }
        });
        Ok(Self { name, link, channel, tasks: vec![hub, reporter], _trigger: trigger })
    }

    /// Whether the node says that the cloud is connected.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connected(&self) -> anyhow::Result<bool> {
        let status = EdgeClient::new(self.channel.clone()).get_status(GetStatusRequest {}).await?;
        Ok(status.into_inner().link() == LinkState::Connected)
    }

    /// How many objects of a kind the node holds.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn count(&self, kind: &str) -> anyhow::Result<u64> {
        let status = EdgeClient::new(self.channel.clone()).get_status(GetStatusRequest {}).await?.into_inner();
        Ok(status.kinds.iter().find(|known| known.kind == kind).map_or(0, |known| known.objects))
    }
}

/// Reports the node as edged does.
async fn report(channel: Channel, name: NodeName) -> anyhow::Result<()> {
    let (reports, queue) = mpsc::channel(8);
    let hello = pb::Hello { protocols: vec![1], ..pb::Hello::default() };
    send_report(&reports, pb::report_request::Message::Hello(hello.clone())).await?;
    let mut sink = SinkClient::new(channel.clone());
    let mut outcomes = sink.report(ReceiverStream::new(queue)).await?.into_inner();
    tokio::spawn(async move { while let Ok(Some(_)) = outcomes.message().await {} });

    let (requests, queue) = mpsc::channel(8);
    let open = pb::Open { subscription: 1, kind: kinds::LINK.to_owned(), ..pb::Open::default() };
    for message in [pb::subscribe_request::Message::Hello(hello), pb::subscribe_request::Message::Open(open)] {
        requests.send(pb::SubscribeRequest { message: Some(message) }).await?;
    }
    let mut source = SourceClient::new(channel);
    let mut link = source.subscribe(ReceiverStream::new(queue)).await?.into_inner();

    let mut id = 1;
    let body = node(&name, jiff::Timestamp::now());
    send_report(&reports, message(&name, id, kinds::NODE_REGISTRATION, &body)).await?;
    loop {
        let due = match tokio::time::timeout(STATUS_EVERY, link.message()).await {
            Err(_) => true,
            Ok(update) => match update?.context("the stream ended")?.message {
                Some(pb::subscribe_response::Message::Delta(delta)) => {
                    let ack = pb::Ack { subscription: 1, nonce: delta.nonce };
                    let ack = Some(pb::subscribe_request::Message::Ack(ack));
                    requests.send(pb::SubscribeRequest { message: ack }).await?;
                    let says = |upsert: &pb::Upsert| {
                        serde_json::from_slice::<serde_json::Value>(&upsert.body)
                            .is_ok_and(|link| link.get("connected").is_some_and(|connected| connected == true))
                    };
                    delta.upserts.iter().any(says)
                }
                _ => false,
            },
        };
        if due {
            id += 1;
            let body = node(&name, jiff::Timestamp::now());
            send_report(&reports, message(&name, id, kinds::NODE_STATUS, &body)).await?;
        }
    }
}

async fn send_report(
    reports: &mpsc::Sender<pb::ReportRequest>,
    message: pb::report_request::Message,
) -> anyhow::Result<()> {
    reports.send(pb::ReportRequest { message: Some(message) }).await.context("the stream is closed")
}

fn message(name: &NodeName, id: u64, kind: &str, body: &serde_json::Value) -> pb::report_request::Message {
    pb::report_request::Message::Report(pb::Report {
        id,
        kind: kind.to_owned(),
        key: Some(pb::Key { namespace: String::new(), name: name.to_string() }),
        encoding: pb::Encoding::Identity.into(),
        body: body.to_string().into(),
        ..pb::Report::default()
    })
}

/// A Node of ordinary size.
fn node(name: &NodeName, now: jiff::Timestamp) -> serde_json::Value {
    let condition = |kind: &str, status: &str, reason: &str| {
        serde_json::json!({
            "type": kind,
            "status": status,
            "reason": reason,
            "message": "said by the benchmark",
            "lastHeartbeatTime": now.to_string(),
            "lastTransitionTime": now.to_string(),
        })
    };
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "status": {
            "capacity": { "cpu": "4", "memory": "4Gi", "pods": "110", "ephemeral-storage": "30Gi" },
            "allocatable": { "cpu": "4", "memory": "4Gi", "pods": "110", "ephemeral-storage": "30Gi" },
            "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }, { "type": "Hostname", "address": name }],
            "nodeInfo": {
                "architecture": "amd64", "bootID": "b", "containerRuntimeVersion": "containerd://1.6.20",
                "kernelVersion": "6.1.0", "kubeProxyVersion": "", "kubeletVersion": "v1.33.0-skerry.0.1.0",
                "machineID": "m", "operatingSystem": "linux", "osImage": "Debian GNU/Linux 12", "systemUUID": "s",
            },
            "conditions": [
                condition("MemoryPressure", "False", "SufficientMemory"),
                condition("DiskPressure", "False", "SufficientDisk"),
                condition("PIDPressure", "False", "SufficientPIDs"),
                condition("Ready", "True", "NodeReady"),
            ],
        },
    })
}
