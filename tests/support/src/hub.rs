//! A stand-in for EdgeHub: a Source and a Sink in this process, with objects that a test sets and
//! reports that it reads. The protocol is the real one, of `skerry_sync`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use skerry_common::{Encoding, Key, Version, drain};
use skerry_proto::review::v1::review_request::Who;
use skerry_proto::review::v1::reviews_server::{Reviews, ReviewsServer};
use skerry_proto::review::v1::{ReviewRequest, ReviewResponse};
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::sink_server::{Sink, SinkServer};
use skerry_proto::sync::v1::source_server::{Source, SourceServer};
use skerry_rpc::{Caller, Listen, PipeConnector, Policy, Server, ServerConfig};
use skerry_sync::{Lookup, Object, Out, Publisher, SubscriptionId, View};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

type Kinds = BTreeMap<String, BTreeMap<Key, (u64, Value)>>;

/// A report.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its kind.
    pub kind: String,
    /// Uid of the object that it is about.
    pub uid: String,
    /// Its JSON; null without one.
    pub body: Value,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Hub {
    kinds: Mutex<Kinds>,
    version: Mutex<u64>,
    /// Whether lists may be called complete.
    complete: Mutex<bool>,
    changed: broadcast::Sender<(String, Option<Key>)>,
    received: Mutex<Vec<Received>>,
    /// Whose tokens and names are known, and whether they may.
    reviews: Mutex<BTreeMap<String, (String, bool)>>,
    reviewed: Mutex<Vec<String>>,
    reviews_cut_off: AtomicBool,
}

struct Served(Arc<Hub>);

struct KindView<'a>(&'a Hub, &'a str);

impl View for KindView<'_> {
    fn lookup(&mut self, key: &Key, _: Option<&Version>) -> Lookup {
        match self.0.kinds.lock().unwrap().get(self.1).and_then(|k| k.get(key)) {
            Some((version, body)) => Lookup::Present(Object {
                version: Version::new(version.to_string()),
                body: body.to_string().into(),
                encoding: Encoding::Identity,
            }),
            None if *self.0.complete.lock().unwrap() => Lookup::Absent,
            None => Lookup::Unknown,
        }
    }

    fn keys(&mut self) -> Vec<Key> {
        self.0.kinds.lock().unwrap().get(self.1).map(|k| k.keys().cloned().collect()).unwrap_or_default()
    }

    fn complete(&self) -> bool {
        *self.0.complete.lock().unwrap()
    }
}

impl Hub {
    /// For an agent in this process.
    pub async fn start() -> (Arc<Self>, PipeConnector, drain::Trigger) {
        let (listener, connector) = skerry_rpc::pipe();
        let (hub, trigger) = Self::listen(Listen::Pipe(listener)).await;
        (hub, connector, trigger)
    }

    /// For an agent in a process of its own.
    pub async fn start_at(socket: &Path) -> (Arc<Self>, drain::Trigger) {
        Self::listen(Listen::Unix { path: socket.to_owned(), mode: 0o600 }).await
    }

    async fn listen(listen: Listen) -> (Arc<Self>, drain::Trigger) {
        let hub = Arc::new(Self {
            kinds: Mutex::default(),
            version: Mutex::new(0),
            complete: Mutex::new(true),
            changed: broadcast::channel(1024).0,
            received: Mutex::default(),
            reviews: Mutex::default(),
            reviewed: Mutex::default(),
            reviews_cut_off: AtomicBool::new(false),
        });
        let policy = Policy::new()
            .allow("skerry.sync.v1.Source", &[Caller::Local])
            .allow("skerry.sync.v1.Sink", &[Caller::Local])
            .allow("skerry.review.v1.Reviews", &[Caller::Local]);
        let bound = Server::bind(ServerConfig::new("edgehub", listen, policy)).await.unwrap();
        let (trigger, watch) = drain::channel(Duration::from_secs(1));
        let routes = tonic::service::Routes::new(SourceServer::new(Served(Arc::clone(&hub))))
            .add_service(SinkServer::new(Served(Arc::clone(&hub))))
            .add_service(ReviewsServer::new(Served(Arc::clone(&hub))));
        tokio::spawn(bound.serve(routes, watch));
        (hub, trigger)
    }

    /// The owner of a token, or of a certificate with this name, is known.
    pub fn review(&self, credential: &str, user: &str, allowed: bool) {
        self.reviews.lock().unwrap().insert(credential.into(), (user.into(), allowed));
    }

    /// What was asked: credential, verb, subresource.
    pub fn reviewed(&self) -> Vec<String> {
        self.reviewed.lock().unwrap().clone()
    }

    /// The cloud is away.
    pub fn cut_off_reviews(&self) {
        self.reviews_cut_off.store(true, Ordering::SeqCst);
    }

    /// Sets an object.
    pub fn put(&self, kind: &str, namespace: &str, name: &str, mut body: Value) {
        let key = Key::new(namespace, name);
        body["metadata"]["name"] = name.into();
        body["metadata"]["namespace"] = namespace.into();
        let version = {
            let mut version = self.version.lock().unwrap();
            *version += 1;
            *version
        };
        self.kinds.lock().unwrap().entry(kind.into()).or_default().insert(key.clone(), (version, body));
        let _ = self.changed.send((kind.into(), Some(key)));
    }

    /// An object as it was set.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.kinds.lock().unwrap().get(kind)?.get(&Key::new(namespace, name)).map(|(_, b)| b.clone())
    }

    /// Deletes an object.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let key = Key::new(namespace, name);
        self.kinds.lock().unwrap().entry(kind.into()).or_default().remove(&key);
        let _ = self.changed.send((kind.into(), Some(key)));
    }

    /// Forgets everything without a tombstone and says that it cannot tell: a damaged store.
    pub fn lose_everything(&self) {
        *self.complete.lock().unwrap() = false;
        self.kinds.lock().unwrap().clear();
        let _ = self.changed.send((String::new(), None));
    }

    /// Says that the lists are complete.
    pub fn say_complete(&self) {
        *self.complete.lock().unwrap() = true;
        let _ = self.changed.send((String::new(), None));
    }

    /// All reports of a kind, oldest first.
    pub fn received(&self, kind: &str) -> Vec<Received> {
        self.received.lock().unwrap().iter().filter(|r| r.kind == kind).cloned().collect()
    }

    /// The newest report of a kind for a uid.
    pub fn newest(&self, kind: &str, uid: &str) -> Option<Value> {
        self.received.lock().unwrap().iter().rev().find(|r| r.kind == kind && r.uid == uid).map(|r| r.body.clone())
    }

    /// All messages of Events about an object with this reason.
    pub fn events(&self, uid: &str, reason: &str) -> Vec<String> {
        self.received("Event")
            .iter()
            .filter(|r| r.uid == uid && r.body["reason"] == reason)
            .map(|r| r.body["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    async fn serve(
        self: Arc<Self>,
        mut incoming: Streaming<pb::SubscribeRequest>,
        out: mpsc::Sender<Result<pb::SubscribeResponse, Status>>,
    ) {
        use pb::subscribe_request::Message as In;
        use pb::subscribe_response::Message as M;
        let mut changed = self.changed.subscribe();
        let mut publishers: HashMap<u64, (String, Publisher)> = HashMap::new();
        loop {
            tokio::select! {
                message = incoming.message() => {
                    let Ok(Some(message)) = message else { return };
                    match message.message.unwrap() {
                        In::Hello(_) => {}
                        In::Open(open) => {
                            let mut publisher = Publisher::new(SubscriptionId(open.subscription), Default::default());
                            publisher.hold_wire(&open.held).unwrap();
                            if !open.more {
                                publisher.start(&mut KindView(&self, &open.kind));
                            }
                            publishers.insert(open.subscription, (open.kind, publisher));
                        }
                        In::Held(held) => {
                            let (kind, publisher) = publishers.get_mut(&held.subscription).unwrap();
                            publisher.hold_wire(&held.held).unwrap();
                            if !held.more {
                                publisher.start(&mut KindView(&self, kind));
                            }
                        }
                        In::Ack(ack) => drop(publishers.get_mut(&ack.subscription).unwrap().1.ack(ack.nonce).unwrap()),
                        In::Nack(nack) => {
                            publishers.get_mut(&nack.subscription).unwrap().1.nack(nack.nonce, nack.failures).unwrap();
                        }
                        In::Close(_) => {}
                    }
                }
                change = changed.recv() => match change {
                    Ok((kind, Some(key))) => {
                        for (_, publisher) in publishers.values_mut().filter(|(k, _)| *k == kind) {
                            publisher.changed(key.clone());
                        }
                    }
                    _ => publishers.values_mut().for_each(|(_, p)| p.recheck()),
                }
            }
            for (kind, publisher) in publishers.values_mut() {
                while let Some(next) = publisher.poll(&mut KindView(&self, kind)) {
                    let message = match next {
                        Out::Delta(delta) => M::Delta(delta),
                        Out::InSync(mark) => M::InSync(mark),
                        Out::Oversize { .. } => continue,
                    };
                    if out.send(Ok(pb::SubscribeResponse { message: Some(message) })).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Source for Served {
    type SubscribeStream = ReceiverStream<Result<pb::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (tx, rx) = mpsc::channel(64);
        tokio::spawn(Arc::clone(&self.0).serve(request.into_inner(), tx));
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

#[tonic::async_trait]
impl Reviews for Served {
    async fn review(&self, request: Request<ReviewRequest>) -> Result<Response<ReviewResponse>, Status> {
        if self.0.reviews_cut_off.load(Ordering::SeqCst) {
            return Err(Status::unavailable("the cloud is not connected"));
        }
        let ReviewRequest { who, verb, subresource, .. } = request.into_inner();
        let (credential, stranger) = match who.unwrap() {
            Who::Token(token) => (token, String::new()),
            Who::User(user) => (user.name.clone(), user.name),
        };
        self.0.reviewed.lock().unwrap().push(format!("{credential} {verb} {subresource}"));
        let known = self.0.reviews.lock().unwrap().get(&credential).cloned();
        let (user, allowed) = known.unwrap_or((stranger, false));
        Ok(Response::new(ReviewResponse { user, allowed }))
    }
}

#[tonic::async_trait]
impl Sink for Served {
    type ReportStream = ReceiverStream<Result<pb::ReportResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<pb::ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let (tx, rx) = mpsc::channel(64);
        let mut incoming = request.into_inner();
        let hub = Arc::clone(&self.0);
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                let Some(pb::report_request::Message::Report(report)) = message.message else { continue };
                let body = if report.encoding == pb::Encoding::Zstd as i32 {
                    zstd::decode_all(&*report.body).unwrap()
                } else {
                    report.body.to_vec()
                };
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                hub.received.lock().unwrap().push(Received { kind: report.kind, uid: report.uid, body });
                let outcome = pb::Outcome {
                    id: report.id,
                    node: String::new(),
                    result: Some(pb::outcome::Result::Committed(pb::Committed {})),
                };
                let message = Some(pb::report_response::Message::Outcome(outcome));
                if tx.send(Ok(pb::ReportResponse { message })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}
