//! Ends of different versions: what is newer than the other end is ignored or refused by name, and without a
//! common version of the protocol one line says which end has to be upgraded.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use skerry_common::{Key, drain, kinds};
use skerry_hub_tests::{BytesCodec, Edge, Fixture, Raw, eventually, watch, with_unknown, wrapped};
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_rpc::{Caller, Listen, Policy, Server, ServerConfig};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};

/// Numbers of the messages within a request and a response; [`NEW`] is none that we know.
const HELLO: u32 = 1;
const OPEN: u32 = 2;
const REPORT: u32 = 2;
const WELCOME: u32 = 1;
const DELTA: u32 = 2;
const IN_SYNC: u32 = 3;
const NEW: u32 = 99;

fn hello(protocols: &[u32], session: u64) -> pb::Hello {
    pb::Hello { protocols: protocols.to_vec(), session, agent: "edgehub/9.9".to_owned(), ..pb::Hello::default() }
}

fn pod() -> (Key, &'static str) {
    (Key::new("default", "web"), r#"{"metadata":{"namespace":"default","name":"web","uid":"web"},"newer":{"kept":1}}"#)
}

/// A stream of messages as bytes.
struct Newer {
    requests: mpsc::Sender<Bytes>,
    answers: Streaming<Bytes>,
}

impl Newer {
    async fn open(raw: &Raw, path: &'static str, hello: &pb::Hello) -> Self {
        let (requests, queue) = mpsc::channel(16);
        requests.send(wrapped(HELLO, &with_unknown(hello))).await.unwrap();
        let mut client = tonic::client::Grpc::new(raw.connection.channel());
        client.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static(path);
        let answers = client.streaming(Request::new(ReceiverStream::new(queue)), path, BytesCodec).await.unwrap();
        Self { requests, answers: answers.into_inner() }
    }

    async fn send(&self, field: u32, bytes: &[u8]) {
        self.requests.send(wrapped(field, bytes)).await.unwrap();
    }

    async fn next<T: prost::Message + Default>(&mut self) -> T {
        let next = tokio::time::timeout(Duration::from_secs(10), self.answers.message()).await;
        T::decode(next.expect("an answer").unwrap().expect("a message")).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_node_is_served_and_what_is_new_is_ignored_or_refused_by_name() {
    use pb::subscribe_response::Message as M;
    let fixture = Fixture::start().await.unwrap();
    let (key, body) = pod();
    fixture.cloud.put(kinds::POD, key, body);
    let hub = fixture.hub("hub-0").await.unwrap();
    let raw = Raw::connect(hub.address, fixture.node("edge-1").unwrap()).await.unwrap();

    let mut down = Newer::open(&raw, "/skerry.sync.v1.Source/Subscribe", &hello(&[2, 1], 1)).await;
    let first: pb::SubscribeResponse = down.next().await;
    assert!(matches!(first.message, Some(M::Welcome(welcome)) if welcome.protocol == 1));
    down.send(NEW, b"something new").await;
    let open = |id, kind: &str| pb::Open { subscription: id, kind: kind.to_owned(), ..pb::Open::default() };
    down.send(OPEN, &with_unknown(&open(1, "Gadget"))).await;
    let closed: pb::SubscribeResponse = down.next().await;
    assert!(matches!(closed.message, Some(M::Closed(closed)) if closed.code() == pb::CloseCode::UnknownKind));
    down.send(OPEN, &with_unknown(&open(2, kinds::POD))).await;
    let delta: pb::SubscribeResponse = down.next().await;
    let Some(M::Delta(delta)) = delta.message else { panic!("{delta:?}") };
    // What a hop does not know of an object stays in it.
    assert_eq!(delta.upserts[0].body, body.as_bytes());

    let mut up = Newer::open(&raw, "/skerry.sync.v1.Sink/Report", &hello(&[2, 1], 1)).await;
    let first: pb::ReportResponse = up.next().await;
    assert!(matches!(first.message, Some(pb::report_response::Message::Welcome(welcome)) if welcome.protocol == 1));
    up.send(NEW, b"something new").await;
    for (id, kind) in [(1, "GadgetStatus"), (2, kinds::POD_STATUS)] {
        let report = pb::Report {
            id,
            kind: kind.to_owned(),
            key: Some(pb::Key { namespace: "default".to_owned(), name: "web".to_owned() }),
            encoding: pb::Encoding::Identity.into(),
            ..pb::Report::default()
        };
        up.send(REPORT, &with_unknown(&report)).await;
        let answer: pb::ReportResponse = up.next().await;
        let Some(pb::report_response::Message::Outcome(outcome)) = answer.message else { panic!("{answer:?}") };
        assert_eq!(matches!(outcome.result, Some(pb::outcome::Result::Committed(_))), id == 2, "{outcome:?}");
        assert_eq!(matches!(outcome.result, Some(pb::outcome::Result::Rejected(_))), id == 1, "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_common_version_the_line_says_which_end_to_upgrade() {
    let fixture = Fixture::start().await.unwrap();
    let hub = fixture.hub("hub-0").await.unwrap();
    let raw = Raw::connect(hub.address, fixture.node("edge-1").unwrap()).await.unwrap();
    let edge = fixture.edge("edge-2", hub.address).await.unwrap();
    edge.link(true).await.unwrap();
    for (protocols, older) in [(vec![3, 2], true), (vec![0], false), (vec![], false)] {
        let upgrade = |us: &str| format!(": upgrade {}", if older { us } else { "edgehub" });
        let mut stream = raw.open(hello(&protocols, 1)).await.unwrap();
        refused(stream.next().await.unwrap_err(), &upgrade("cloudhub"));
        // The same between the services of a node.
        let service = pb::Hello { agent: "edged/9.9".to_owned(), ..hello(&protocols, 0) };
        let service = pb::SubscribeRequest { message: Some(pb::subscribe_request::Message::Hello(service)) };
        let mut client = SourceClient::new(edge.channel());
        let mut stream = client.subscribe(tokio_stream::iter([service])).await.unwrap().into_inner();
        let line = if older { ": upgrade edgehub" } else { ": upgrade edged" };
        refused(stream.message().await.unwrap_err(), line);
    }
    // No session came of it. The control: with a version in common there is one.
    assert!(!fixture.cloud.sessions().contains_key("edge-1"));
    let mut stream = raw.open(hello(&[1], 1)).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), Some(pb::subscribe_response::Message::Welcome(_))));
    eventually("the session", || fixture.cloud.sessions().contains_key("edge-1")).await.unwrap();
}

fn refused(status: Status, line: &str) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().ends_with(line) && !status.message().contains('\n'), "{line}: {}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_waits_for_a_source_that_it_understands() {
    let fixture = Fixture::start().await.unwrap();
    fixture.cloud.speak_newer(1);
    // The fixture waits until the hub is ready, which it is when it was connected with all of its sources.
    let start = fixture.hub("hub-0");
    tokio::pin!(start);
    let early = tokio::time::timeout(Duration::from_secs(2), &mut start).await;
    assert!(early.is_err(), "the hub is ready without a source that it understands");
    fixture.cloud.speak_newer(0);
    let hub = start.await.unwrap();
    fixture.edge("edge-1", hub.address).await.unwrap().link(true).await.unwrap();
}

/// A hub of another version.
#[derive(Clone)]
struct OtherHub {
    /// What it says that it speaks.
    protocol: u32,
    /// The number of the message in which it sends objects.
    delta: u32,
}

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl StreamingService<Bytes> for OtherHub {
    type Response = Bytes;
    type ResponseStream = Answers;
    type Future = std::future::Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (answers, queue) = mpsc::channel(16);
        let Self { protocol, delta } = *self;
        tokio::spawn(async move {
            let mut incoming = request.into_inner();
            while let Ok(Some(bytes)) = incoming.message().await {
                use pb::subscribe_request::Message as M;
                let messages = match pb::SubscribeRequest::decode(bytes).unwrap().message {
                    Some(M::Hello(_)) => {
                        let welcome = pb::Welcome { protocol, agent: "cloudhub/9.9".to_owned() };
                        vec![wrapped(WELCOME, &with_unknown(&welcome)), wrapped(NEW, b"something new")]
                    }
                    Some(M::Open(open)) if open.kind == kinds::POD => all_pods(open.subscription, delta),
                    _ => vec![],
                };
                for message in messages {
                    let _ = answers.send(Ok(message)).await;
                }
            }
        });
        let answers: Answers = Box::pin(ReceiverStream::new(queue));
        std::future::ready(Ok(Response::new(answers)))
    }
}

fn all_pods(subscription: u64, number: u32) -> Vec<Bytes> {
    let (key, body) = pod();
    let upsert = pb::Upsert {
        key: Some(pb::Key { namespace: key.namespace.to_string(), name: key.name.to_string() }),
        version: "v1".to_owned(),
        encoding: pb::Encoding::Identity.into(),
        body: Bytes::from_static(body.as_bytes()),
    };
    let mut delta = with_unknown(&pb::Delta { subscription, nonce: 1, ..pb::Delta::default() });
    delta.extend(wrapped(3, &with_unknown(&upsert)));
    let in_sync = with_unknown(&pb::InSync { subscription });
    vec![wrapped(number, &delta), wrapped(NEW, b"something new"), wrapped(IN_SYNC, &in_sync)]
}

impl NamedService for OtherHub {
    const NAME: &'static str = "skerry.sync.v1.Source";
}

impl tower::Service<http::Request<tonic::body::Body>> for OtherHub {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let hub = self.clone();
        Box::pin(async move { Ok(Grpc::new(BytesCodec).streaming(hub, request).await) })
    }
}

/// Serves a hub of another version until the task is aborted.
async fn other_hub(fixture: &Fixture, hub: OtherHub) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let policy = Policy::new().allow("skerry.sync.v1.Source", &[Caller::Node]);
    let config = ServerConfig::new("other", Listen::Tcp(([127, 0, 0, 1], 0).into()), policy)
        .tls(watch(fixture.service("cloudhub").unwrap()).unwrap());
    let bound = Server::bind(config).await.unwrap();
    let address = bound.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (_trigger, stop) = drain::channel(Duration::from_secs(1));
        bound.serve(Routes::new(hub), stop).await.unwrap();
    });
    (address, task)
}

async fn says(edge: &Edge, line: &str) {
    let deadline = tokio::time::Instant::now() + skerry_hub_tests::PATIENCE;
    loop {
        let reason = edge.status().await.unwrap().reason;
        if reason.ends_with(line) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{line}: {reason}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_hub_serves_a_node_that_does_not_know_all_of_it() {
    let fixture = Fixture::start().await.unwrap();
    let (address, task) = other_hub(&fixture, OtherHub { protocol: 1, delta: DELTA }).await;
    let edge = fixture.edge("edge-1", address).await.unwrap();
    let (key, body) = pod();
    let local = edge.view(kinds::POD, |local| local.in_sync && !local.objects.is_empty()).await.unwrap();
    assert_eq!(local.objects[&key], body.as_bytes());
    edge.link(true).await.unwrap();
    task.abort();
}

/// The control: a hub that speaks a newer protocol and says an older one. Nothing is refused, the node calls
/// its view complete, and the pods that were sent in a new way are not in it.
#[tokio::test(flavor = "multi_thread")]
async fn control_without_the_agreement_what_is_new_is_lost_in_silence() {
    let fixture = Fixture::start().await.unwrap();
    let (address, task) = other_hub(&fixture, OtherHub { protocol: 1, delta: NEW }).await;
    let edge = fixture.edge("edge-1", address).await.unwrap();
    let local = edge.view(kinds::POD, |local| local.in_sync).await.unwrap();
    assert!(local.objects.is_empty());
    edge.link(true).await.unwrap();
    task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_understand_its_hub_says_so_and_keeps_what_it_holds() {
    let fixture = Fixture::start().await.unwrap();
    let (key, body) = pod();
    fixture.cloud.put(kinds::POD, key.clone(), body);
    let hub = fixture.hub("hub-0").await.unwrap();
    let edge = fixture.edge("edge-1", hub.address).await.unwrap();
    edge.view(kinds::POD, |local| local.in_sync && !local.objects.is_empty()).await.unwrap();
    edge.stop().await.unwrap();
    for (protocol, line) in [(2, ": upgrade edgehub"), (0, ": upgrade cloudhub")] {
        let (address, task) = other_hub(&fixture, OtherHub { protocol, delta: DELTA }).await;
        let edge = fixture.edge("edge-1", address).await.unwrap();
        says(&edge, line).await;
        let local = edge.view(kinds::POD, |local| local.in_sync).await.unwrap();
        assert_eq!(local.objects.keys().collect::<Vec<_>>(), [&key]);
        edge.stop().await.unwrap();
        task.abort();
    }
    // Back at a hub of its own version it goes on.
    let edge = fixture.edge("edge-1", hub.address).await.unwrap();
    edge.link(true).await.unwrap();
}
