//! Planted bugs: what the checks must find, or they check nothing.
//!
//! Two of them sit between CloudHub and DeviceController, as a relay that behaves as a DeviceController with the bug
//! would; the third is a store that forgets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use kube::Client;
use serde_json::Value;
use skerry_common::kinds::{self, desired_base};
use skerry_identity::CredentialWatch;
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::sink_client::SinkClient;
use skerry_proto::sync::v1::sink_server::{Sink, SinkServer};
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_proto::sync::v1::source_server::{Source, SourceServer};
use skerry_rpc::{Caller, Channel, ClientLimits, Listen, Policy, Server, ServerConfig};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::api::{Kubernetes, devices_api};
use crate::part::Part;

/// Messages that wait in one direction.
const QUEUE: usize = 64;

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A desired value of the node is written whatever the cloud wants by now.
    BaseIgnored,
    /// The node never hears that the cloud's value is another, so what was set on it holds for ever.
    OverlayNeverEnds,
    /// A desired value that was acknowledged is lost in a crash.
    NotDurable,
}

impl Bug {
    /// Whether the relay is needed.
    pub(crate) fn on_the_way(self) -> bool {
        self != Self::NotDurable
    }
}

/// Both ends of the relay.
pub(crate) struct Ends {
    pub(crate) listen: SocketAddr,
    pub(crate) target: SocketAddr,
    pub(crate) server: CredentialWatch,
    pub(crate) client: CredentialWatch,
}

/// Starts the relay.
pub(crate) async fn start(bug: Bug, ends: Ends, kubernetes: Kubernetes) -> anyhow::Result<Part> {
    let part = Part::start("relay", move |stop| async move {
        let hub = [Caller::Service("cloudhub")];
        let policy = Policy::new().allow("skerry.sync.v1.Source", &hub).allow("skerry.sync.v1.Sink", &hub);
        let config = ServerConfig::new("relay", Listen::Tcp(ends.listen), policy).tls(ends.server);
        let bound = Server::bind(config).await?;
        let target = ends.target.to_string();
        let channel = Channel::tcp([target], "devicecontroller", ends.client, ClientLimits::default())?;
        let relay = Relay { bug, channel, client: kubernetes.client("relay"), first: Arc::default() };
        let routes = Routes::new(SourceServer::new(relay.clone())).add_service(SinkServer::new(relay));
        Ok(((), async move { Ok(bound.serve(routes, stop).await.map(drop)?) }))
    });
    Ok(part.await?.0)
}

#[derive(Clone)]
struct Relay {
    bug: Bug,
    channel: Channel,
    client: Client,
    /// The properties of each Device as they were first.
    first: Arc<Mutex<BTreeMap<String, Value>>>,
}

#[tonic::async_trait]
impl Source for Relay {
    type SubscribeStream = ReceiverStream<Result<pb::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut incoming = request.into_inner();
        let (up, queue) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                if up.send(message).await.is_err() {
                    return;
                }
            }
        });
        let mut source = SourceClient::new(self.channel.clone());
        let mut stream = source.subscribe(ReceiverStream::new(queue)).await?.into_inner();
        let (down, answers) = mpsc::channel(QUEUE);
        let relay = self.clone();
        tokio::spawn(async move {
            while let Some(message) = stream.message().await.transpose() {
                if down.send(message.map(|message| relay.down(message))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

#[tonic::async_trait]
impl Sink for Relay {
    type ReportStream = ReceiverStream<Result<pb::ReportResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<pb::ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let mut incoming = request.into_inner();
        let (up, queue) = mpsc::channel(QUEUE);
        let relay = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                if up.send(relay.up(message).await).await.is_err() {
                    return;
                }
            }
        });
        let mut sink = SinkClient::new(self.channel.clone());
        let mut stream = sink.report(ReceiverStream::new(queue)).await?.into_inner();
        let (down, answers) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Some(message) = stream.message().await.transpose() {
                if down.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

impl Relay {
    fn down(&self, mut message: pb::SubscribeResponse) -> pb::SubscribeResponse {
        if let (Bug::OverlayNeverEnds, Some(pb::subscribe_response::Message::Delta(delta))) =
            (self.bug, &mut message.message)
        {
            for upsert in &mut delta.upserts {
                let Some(mut body) = json(&upsert.body, upsert.encoding) else { continue };
                if body["kind"] != kinds::DEVICE {
                    continue;
                }
                let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
                let properties = first.entry(name).or_insert_with(|| body["spec"]["properties"].clone());
                body["spec"]["properties"] = properties.clone();
                if let Some(meta) = body["metadata"].as_object_mut() {
                    meta.remove("annotations");
                }
                upsert.body = body.to_string().into();
                upsert.encoding = pb::Encoding::Identity.into();
            }
        }
        message
    }

    async fn up(&self, mut message: pb::ReportRequest) -> pb::ReportRequest {
        if let (Bug::BaseIgnored, Some(pb::report_request::Message::Report(report))) = (self.bug, &mut message.message)
            && report.kind == kinds::DEVICE_DESIRED
            && let Some(mut body) = json(&report.body, report.encoding)
        {
            let devices = devices_api(&self.client, "Device");
            let device = devices.get_opt(body["device"].as_str().unwrap_or_default()).await.ok().flatten();
            let properties = device.as_ref().and_then(|device| device.data["spec"]["properties"].as_array());
            let property = properties.into_iter().flatten().find(|property| property["name"] == body["property"]);
            let now = property.and_then(|property| property["desired"]["value"].as_str());
            body["base"] = desired_base(now).into();
            report.body = body.to_string().into();
            report.encoding = pb::Encoding::Identity.into();
        }
        message
    }
}

fn json(body: &[u8], encoding: i32) -> Option<Value> {
    if encoding == i32::from(pb::Encoding::Zstd) {
        return serde_json::from_slice(&zstd::stream::decode_all(body).ok()?).ok();
    }
    serde_json::from_slice(body).ok()
}
