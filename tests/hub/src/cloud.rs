//! A source and a sink in memory, where EdgeController stands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skerry_common::{Encoding, Key, NodeName, Version};
use skerry_proto::hub::v1 as hub;
use skerry_proto::hub::v1::registry_server::Registry;
use skerry_proto::identity::v1 as identity;
use skerry_proto::identity::v1::issuer_server::Issuer;
use skerry_proto::review::v1 as review;
use skerry_proto::review::v1::reviews_server::Reviews;
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::sink_server::Sink;
use skerry_proto::sync::v1::source_server::Source;
use skerry_proto::sync::v1::subscribe_request::Message as Down;
use skerry_proto::sync::v1::subscribe_response::Message as M;
use skerry_sync::{Fence, Lookup, Object, Out, Publisher, SubscriptionId, View};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A report that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Node, as the hub says.
    pub node: String,
    /// Session, as the hub says.
    pub session: u64,
    /// Kind of the report.
    pub kind: String,
    /// Its body.
    pub body: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<(String, Key), (Version, Vec<u8>)>,
    unsure: bool,
    reports: Vec<Reported>,
    sessions: BTreeMap<String, u64>,
    fence: Fence,
    refuse_reports: bool,
    version: u64,
    /// Added to the protocol version that it answers with.
    ahead: u32,
}

/// See the module documentation. Clones are the same cloud.
#[derive(Debug, Clone)]
pub struct Cloud {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    fences: watch::Sender<Option<(String, u64)>>,
}

impl Default for Cloud {
    fn default() -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new(0), fences: watch::Sender::new(None) }
    }
}

impl Cloud {
    /// Creates or changes an object.
    pub fn put(&self, kind: &str, key: Key, body: &str) {
        let mut state = self.lock();
        state.version += 1;
        let version = Version::new(format!("v{}", state.version));
        state.objects.insert((kind.to_owned(), key), (version, body.as_bytes().to_vec()));
        drop(state);
        self.touch();
    }

    /// Deletes an object.
    pub fn delete(&self, kind: &str, key: &Key) {
        self.lock().objects.remove(&(kind.to_owned(), key.clone()));
        self.touch();
    }

    /// Forgets all objects, and says that it cannot tell what there is.
    pub fn lose_everything(&self) {
        let mut state = self.lock();
        state.objects.clear();
        state.unsure = true;
        drop(state);
        self.touch();
    }

    /// Asks the reporters to come again later.
    pub fn refuse_reports(&self, refuse: bool) {
        self.lock().refuse_reports = refuse;
    }

    /// Answers hellos with a protocol version that is so much newer; zero speaks as the hub does.
    pub fn speak_newer(&self, ahead: u32) {
        self.lock().ahead = ahead;
    }

    fn welcome(&self) -> pb::Welcome {
        pb::Welcome { protocol: 1 + self.lock().ahead, agent: "cloud/9".to_owned() }
    }

    /// What was reported.
    pub fn reports(&self) -> Vec<Reported> {
        self.lock().reports.clone()
    }

    /// The sessions that hubs told of.
    pub fn sessions(&self) -> BTreeMap<String, u64> {
        self.lock().sessions.clone()
    }

    /// Tells all hubs to end older sessions of a node.
    pub fn fence(&self, node: &str, session: u64) {
        self.fences.send_replace(Some((node.to_owned(), session)));
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct KindView<'a> {
    cloud: &'a Cloud,
    kind: &'a str,
}

impl View for KindView<'_> {
    fn lookup(&mut self, key: &Key, _held: Option<&Version>) -> Lookup {
        let state = self.cloud.lock();
        match state.objects.get(&(self.kind.to_owned(), key.clone())) {
            Some((version, body)) => Lookup::Present(Object {
                version: version.clone(),
                body: body.clone().into(),
                encoding: Encoding::Identity,
            }),
            None if state.unsure => Lookup::Unknown,
            None => Lookup::Absent,
        }
    }

    fn keys(&mut self) -> Vec<Key> {
        let state = self.cloud.lock();
        state.objects.keys().filter(|(kind, _)| kind == self.kind).map(|(_, key)| key.clone()).collect()
    }

    fn complete(&self) -> bool {
        !self.cloud.lock().unsure
    }
}

struct Subscription {
    kind: String,
    publisher: Publisher,
    sent: BTreeSet<Key>,
}

#[tonic::async_trait]
impl Source for Cloud {
    type SubscribeStream = ReceiverStream<Result<pb::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        skerry_rpc::require_service(&request, &["cloudhub"])?;
        let (answers, queue) = mpsc::channel(256);
        let (cloud, mut incoming) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let mut changed = cloud.changed.subscribe();
            let mut open: BTreeMap<u64, Subscription> = BTreeMap::new();
            loop {
                let message = tokio::select! {
                    message = incoming.message() => match message {
                        Ok(Some(message)) => message.message,
                        _ => return,
                    },
                    _ = changed.changed() => None,
                };
                let mut out = Vec::new();
                cloud.take(message, &mut open, &mut out);
                for message in out {
                    let response = pb::SubscribeResponse { message: Some(message) };
                    if answers.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

impl Cloud {
    fn take(&self, message: Option<Down>, open: &mut BTreeMap<u64, Subscription>, out: &mut Vec<M>) {
        match message {
            Some(Down::Hello(_)) => out.push(M::Welcome(self.welcome())),
            Some(Down::Open(message)) => {
                let id = message.subscription;
                let admitted =
                    NodeName::parse(&message.node).map(|node| self.lock().fence.admit(&node, message.session));
                if let Ok(Err(stale)) = admitted {
                    let closed = pb::Closed {
                        subscription: id,
                        code: pb::CloseCode::StaleSession.into(),
                        reason: "stale".to_owned(),
                        newest_session: stale.newest,
                    };
                    out.push(M::Closed(closed));
                    return;
                }
                let mut publisher = Publisher::new(SubscriptionId(id), Default::default());
                if publisher.hold_wire(&message.held).is_ok() {
                    publisher.start(&mut KindView { cloud: self, kind: &message.kind });
                    open.insert(id, Subscription { kind: message.kind, publisher, sent: BTreeSet::new() });
                }
            }
            Some(Down::Ack(ack)) => {
                if let Some(subscription) = open.get_mut(&ack.subscription) {
                    let _ = subscription.publisher.ack(ack.nonce);
                }
            }
            Some(Down::Nack(nack)) => {
                if let Some(subscription) = open.get_mut(&nack.subscription) {
                    let _ = subscription.publisher.nack(nack.nonce, nack.failures);
                }
            }
            Some(Down::Close(close)) => drop(open.remove(&close.subscription)),
            Some(Down::Held(_)) => {}
            // Something changed: everything known may have.
            None => {
                for subscription in open.values_mut() {
                    let keys = KindView { cloud: self, kind: &subscription.kind }.keys();
                    subscription.sent.extend(keys);
                    for key in &subscription.sent {
                        subscription.publisher.changed(key.clone());
                    }
                }
            }
        }
        for subscription in open.values_mut() {
            let mut view = KindView { cloud: self, kind: &subscription.kind };
            while let Some(next) = subscription.publisher.poll(&mut view) {
                match next {
                    Out::Delta(delta) => {
                        let keys = delta.upserts.iter().filter_map(|upsert| upsert.key.as_ref());
                        subscription.sent.extend(keys.map(|key| Key::new(&*key.namespace, &*key.name)));
                        out.push(M::Delta(delta));
                    }
                    Out::InSync(mark) => out.push(M::InSync(mark)),
                    Out::Oversize { .. } => {}
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Sink for Cloud {
    type ReportStream = ReceiverStream<Result<pb::ReportResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<pb::ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        skerry_rpc::require_service(&request, &["cloudhub"])?;
        let (answers, queue) = mpsc::channel(256);
        let (cloud, mut incoming) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                let answer = match message.message {
                    Some(pb::report_request::Message::Report(report)) => cloud.outcome(report),
                    _ => pb::report_response::Message::Welcome(cloud.welcome()),
                };
                if answers.send(Ok(pb::ReportResponse { message: Some(answer) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

impl Cloud {
    fn outcome(&self, report: pb::Report) -> pb::report_response::Message {
        use pb::outcome::Result as R;
        let mut state = self.lock();
        let stale = NodeName::parse(&report.node).is_ok_and(|node| state.fence.admit(&node, report.session).is_err());
        let result = if stale {
            R::Rejected(pb::Rejected { reason: "stale session".to_owned() })
        } else if state.refuse_reports {
            R::RetryLater(pb::RetryLater { after_ms: 100, reason: "not now".to_owned() })
        } else {
            state.reports.push(Reported {
                node: report.node.clone(),
                session: report.session,
                kind: report.kind,
                body: report.body.to_vec(),
            });
            R::Committed(pb::Committed {})
        };
        pb::report_response::Message::Outcome(pb::Outcome { id: report.id, node: report.node, result: Some(result) })
    }
}

#[tonic::async_trait]
impl Registry for Cloud {
    type ConnectStream = ReceiverStream<Result<hub::RegistryUpdate, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<hub::HubUpdate>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (answers, queue) = mpsc::channel(16);
        let (cloud, mut incoming) = (self.clone(), request.into_inner());
        let mut fences = self.fences.subscribe();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    update = incoming.message() => match update.ok().flatten().and_then(|update| update.message) {
                        Some(hub::hub_update::Message::Joined(session)) => {
                            cloud.lock().sessions.insert(session.node, session.session);
                        }
                        Some(hub::hub_update::Message::Left(left)) => drop(cloud.lock().sessions.remove(&left.node)),
                        Some(_) => {}
                        None => return,
                    },
                    _ = fences.changed() => {
                        let fence = fences.borrow_and_update().clone();
                        if let Some((node, session)) = fence {
                            let fence = hub::registry_update::Message::Fence(hub::Fence { node, session });
                            let _ = answers.send(Ok(hub::RegistryUpdate { message: Some(fence) })).await;
                        }
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

#[tonic::async_trait]
impl Reviews for Cloud {
    /// Says what it was asked: the node as the hub says, who, and what.
    async fn review(
        &self,
        request: Request<review::ReviewRequest>,
    ) -> Result<Response<review::ReviewResponse>, Status> {
        let asked = request.into_inner();
        let user = format!("{} {} {}", asked.node, asked.verb, asked.subresource);
        Ok(Response::new(review::ReviewResponse { user, allowed: true }))
    }
}

#[tonic::async_trait]
impl Issuer for Cloud {
    async fn issue_for_join(
        &self,
        _request: Request<identity::IssueForJoinRequest>,
    ) -> Result<Response<identity::IssueForJoinResponse>, Status> {
        Err(Status::permission_denied("the join token is unknown"))
    }

    async fn issue_for_renewal(
        &self,
        _request: Request<identity::IssueForRenewalRequest>,
    ) -> Result<Response<identity::IssueForRenewalResponse>, Status> {
        Err(Status::unavailable("not here"))
    }
}
