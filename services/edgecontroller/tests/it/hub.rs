//! A hub with nodes, as EdgeController sees them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use skerry_common::{Key, Version};
use skerry_proto::hub::v1::registry_client::RegistryClient;
use skerry_proto::hub::v1::{HubHello, HubUpdate, RegistryUpdate, Session, SessionLeft, SnapshotDone, hub_update};
use skerry_proto::sync::v1::sink_client::SinkClient;
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_proto::sync::v1::{self as pb, report_request, report_response, subscribe_request, subscribe_response};
use skerry_rpc::Channel;
use skerry_sync::{Change, Encoding, SubscribeLimits, Subscriber, SubscriptionId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::cluster::Controller;

const PATIENCE: Duration = Duration::from_secs(15);
/// How long nothing must come before it is believed that nothing comes.
const QUIET: Duration = Duration::from_millis(400);

fn hello(node: &str, session: u64) -> pb::Hello {
    pb::Hello { protocols: vec![1], node: node.to_owned(), session, agent: "test".to_owned() }
}

/// What a node holds of one kind.
pub struct Held {
    machine: Subscriber,
    pub objects: BTreeMap<String, (Version, Value)>,
    pub tombstones: Vec<String>,
    pub upserts: usize,
    pub closed: Option<pb::Closed>,
}

/// One source stream.
pub struct Source {
    tx: mpsc::Sender<pb::SubscribeRequest>,
    rx: Streaming<pb::SubscribeResponse>,
    pub subs: BTreeMap<u64, Held>,
    /// Deltas are acknowledged.
    pub acks: bool,
}

impl Source {
    pub async fn connect(controller: &Controller) -> Self {
        Self::over(controller.channel(), "", 0).await
    }

    /// The stream of a hub (no node), or of one node.
    pub async fn over(channel: Channel, node: &str, session: u64) -> Self {
        let (tx, outgoing) = mpsc::channel(64);
        let first = pb::SubscribeRequest { message: Some(subscribe_request::Message::Hello(hello(node, session))) };
        tx.send(first).await.unwrap();
        let mut client = SourceClient::new(channel).max_decoding_message_size(4 << 20);
        let mut rx = client.subscribe(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        let welcome = rx.message().await.unwrap().unwrap().message.unwrap();
        assert!(matches!(welcome, subscribe_response::Message::Welcome(w) if w.protocol == 1));
        Self { tx, rx, subs: BTreeMap::new(), acks: true }
    }

    /// What a hub is told that speaks these versions; its stream is refused.
    pub async fn refused(controller: &Controller, protocols: &[u32]) -> tonic::Status {
        let hello = pb::Hello { protocols: protocols.to_vec(), agent: "cloudhub/9.9".to_owned(), ..hello("", 0) };
        let first = pb::SubscribeRequest { message: Some(subscribe_request::Message::Hello(hello)) };
        let mut client = SourceClient::new(controller.channel());
        let mut rx = client.subscribe(tokio_stream::iter([first])).await.unwrap().into_inner();
        rx.message().await.unwrap_err()
    }

    pub async fn open(&mut self, id: u64, node: &str, session: u64, kind: &str, held: &[(String, Version)]) {
        let mut machine = Subscriber::new(SubscriptionId(id), kind, SubscribeLimits::default());
        let list: Vec<_> = held.iter().map(|(name, version)| (key(name), version.clone())).collect();
        for message in machine.open(node, session, "", list) {
            self.tx.send(message).await.unwrap();
        }
        let objects = held.iter().map(|(name, version)| (name.clone(), (version.clone(), Value::Null))).collect();
        let held = Held { machine, objects, tombstones: Vec::new(), upserts: 0, closed: None };
        self.subs.insert(id, held);
    }

    pub async fn raw(&self, message: subscribe_request::Message) {
        self.tx.send(pb::SubscribeRequest { message: Some(message) }).await.unwrap();
    }

    /// Takes one message; false when none came in time.
    async fn step(&mut self, within: Duration) -> bool {
        let Ok(message) = tokio::time::timeout(within, self.rx.message()).await else { return false };
        let Some(message) = message.unwrap() else { return false };
        match message.message.unwrap() {
            subscribe_response::Message::Delta(delta) => {
                let sub = self.subs.get_mut(&delta.subscription).unwrap();
                let apply = sub.machine.delta(delta).unwrap();
                for change in apply.changes {
                    match change {
                        Change::Upsert { key, version, body, encoding, .. } => {
                            let plain = match encoding {
                                Encoding::Identity => body.to_vec(),
                                Encoding::Zstd => zstd::bulk::decompress(&body, 8 << 20).unwrap(),
                            };
                            let value = serde_json::from_slice(&plain).unwrap();
                            sub.objects.insert(key.to_string(), (version, value));
                            sub.upserts += 1;
                        }
                        Change::Delete { key } => {
                            sub.objects.remove(&key.to_string());
                            sub.tombstones.push(key.to_string());
                        }
                    }
                }
                if !self.acks {
                    return true;
                }
                let ack = sub.machine.committed(apply.nonce);
                self.raw(subscribe_request::Message::Ack(ack)).await;
            }
            subscribe_response::Message::InSync(mark) => {
                self.subs.get_mut(&mark.subscription).unwrap().machine.in_sync(mark).unwrap();
            }
            subscribe_response::Message::Closed(closed) => {
                let id = closed.subscription;
                self.subs.get_mut(&id).unwrap().closed = Some(closed);
            }
            subscribe_response::Message::Welcome(_) => panic!("a second welcome"),
        }
        true
    }

    pub async fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !done(self) {
            assert!(tokio::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
            self.step(Duration::from_millis(100)).await;
        }
    }

    pub async fn in_sync(&mut self) {
        self.until("all subscriptions are in sync", |s| s.subs.values().all(|sub| sub.machine.is_in_sync())).await;
    }

    /// Takes what comes until nothing comes any more; how many messages.
    pub async fn quiet(&mut self) -> usize {
        let mut count = 0;
        while self.step(QUIET).await {
            count += 1;
        }
        count
    }

    pub fn held(&self, id: u64) -> Vec<(String, Version)> {
        self.subs[&id].objects.iter().map(|(name, (version, _))| (name.clone(), version.clone())).collect()
    }

    pub fn names(&self, id: u64) -> Vec<&str> {
        self.subs[&id].objects.keys().map(String::as_str).collect()
    }

    pub fn body(&self, id: u64, name: &str) -> &Value {
        &self.subs[&id].objects[name].1
    }
}

pub fn key(text: &str) -> Key {
    match text.split_once('/') {
        Some((namespace, name)) => Key::new(namespace, name),
        None => Key::new("", text),
    }
}

/// One sink stream.
pub struct Sink {
    tx: mpsc::Sender<pb::ReportRequest>,
    rx: Streaming<pb::ReportResponse>,
    next: u64,
}

impl Sink {
    pub async fn connect(controller: &Controller) -> Self {
        Self::over(controller.channel(), "", 0).await
    }

    /// The stream of a hub (no node), or of one node.
    pub async fn over(channel: Channel, node: &str, session: u64) -> Self {
        let (tx, outgoing) = mpsc::channel(64);
        let first = pb::ReportRequest { message: Some(report_request::Message::Hello(hello(node, session))) };
        tx.send(first).await.unwrap();
        let mut client = SinkClient::new(channel);
        let mut rx = client.report(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        let welcome = rx.message().await.unwrap().unwrap().message.unwrap();
        assert!(matches!(welcome, report_response::Message::Welcome(_)));
        Self { tx, rx, next: 1 }
    }

    pub async fn report(
        &mut self,
        node: &str,
        session: u64,
        kind: &str,
        name: &str,
        uid: &str,
        body: Value,
    ) -> pb::outcome::Result {
        let id = self.next;
        self.next += 1;
        let key = key(name);
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
        let report = pb::Report {
            id,
            node: node.to_owned(),
            session,
            kind: kind.to_owned(),
            key: Some(pb::Key { namespace: key.namespace.to_string(), name: key.name.to_string() }),
            uid: uid.to_owned(),
            encoding: pb::Encoding::Identity as i32,
            body: body.into(),
            ..pb::Report::default()
        };
        let message = pb::ReportRequest { message: Some(report_request::Message::Report(report)) };
        self.tx.send(message).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(30), self.rx.message()).await.expect("no outcome");
        match answer.unwrap().unwrap().message.unwrap() {
            report_response::Message::Outcome(outcome) => {
                assert_eq!((outcome.id, outcome.node.as_str()), (id, node));
                outcome.result.unwrap()
            }
            report_response::Message::Welcome(_) => panic!("a second welcome"),
        }
    }
}

pub fn committed(result: &pb::outcome::Result) -> bool {
    matches!(result, pb::outcome::Result::Committed(_))
}

pub fn rejected(result: &pb::outcome::Result) -> bool {
    matches!(result, pb::outcome::Result::Rejected(_))
}

pub fn later(result: &pb::outcome::Result) -> bool {
    matches!(result, pb::outcome::Result::RetryLater(_))
}

/// One registry stream.
pub struct Registry {
    tx: mpsc::Sender<HubUpdate>,
    pub rx: Streaming<RegistryUpdate>,
}

impl Registry {
    pub async fn connect(controller: &Controller, hub: &str) -> Self {
        let (tx, outgoing) = mpsc::channel(64);
        let hello = HubHello { hub: hub.to_owned(), agent: "test".to_owned() };
        let send = |message| HubUpdate { message: Some(message) };
        tx.send(send(hub_update::Message::Hello(hello))).await.unwrap();
        tx.send(send(hub_update::Message::SnapshotDone(SnapshotDone {}))).await.unwrap();
        let mut client = RegistryClient::new(controller.channel());
        let rx = client.connect(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { tx, rx }
    }

    pub async fn joined(&self, node: &str, session: u64) {
        let joined = Session { node: node.to_owned(), session, ..Session::default() };
        self.tx.send(HubUpdate { message: Some(hub_update::Message::Joined(joined)) }).await.unwrap();
    }

    pub async fn left(&self, node: &str, session: u64) {
        let left = SessionLeft { node: node.to_owned(), session, reason: "test".to_owned() };
        self.tx.send(HubUpdate { message: Some(hub_update::Message::Left(left)) }).await.unwrap();
    }
}
