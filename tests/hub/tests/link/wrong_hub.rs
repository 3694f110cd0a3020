//! A hub that says nothing, or nonsense: nothing that the node holds may go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use skerry_common::{Key, drain, kinds};
use skerry_hub_tests::{Fixture, eventually, watch as credentials};
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::source_server::{Source, SourceServer};
use skerry_rpc::{Caller, Listen, Policy, Server, ServerConfig};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// Says one thing to whoever subscribes.
#[derive(Clone)]
struct Liar {
    says: watch::Sender<Vec<pb::SubscribeResponse>>,
    streams: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Source for Liar {
    type SubscribeStream = ReceiverStream<Result<pb::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        self.streams.fetch_add(1, Ordering::Relaxed);
        let (answers, queue) = mpsc::channel(16);
        let mut says = self.says.subscribe();
        let messages = says.borrow_and_update().clone();
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            for message in messages {
                let _ = answers.send(Ok(message)).await;
            }
            // With the next thing to say, the node shall come again.
            tokio::select! {
                () = async { while let Ok(Some(_)) = incoming.message().await {} } => {}
                _ = says.changed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

fn message(message: pb::subscribe_response::Message) -> pb::SubscribeResponse {
    pb::SubscribeResponse { message: Some(message) }
}

fn delta(delta: pb::Delta) -> pb::SubscribeResponse {
    message(pb::subscribe_response::Message::Delta(delta))
}

fn upsert(name: &str, body: &[u8], encoding: pb::Encoding) -> pb::Upsert {
    pb::Upsert {
        key: Some(pb::Key { namespace: "default".to_owned(), name: name.to_owned() }),
        version: "v".to_owned(),
        encoding: encoding.into(),
        body: body.to_vec().into(),
    }
}

fn tombstone(namespace: &str, name: &str) -> pb::Tombstone {
    pb::Tombstone { key: Some(pb::Key { namespace: namespace.to_owned(), name: name.to_owned() }) }
}

/// Everything wrong that a hub may say, by name. None of it may change what the node holds.
fn lies() -> Vec<(&'static str, Vec<pb::SubscribeResponse>)> {
    let welcome =
        || message(pb::subscribe_response::Message::Welcome(pb::Welcome { protocol: 1, ..Default::default() }));
    let good = |nonce| pb::Delta { subscription: 1, nonce, ..pb::Delta::default() };
    vec![
        ("nothing", vec![]),
        ("an empty message", vec![pb::SubscribeResponse { message: None }]),
        (
            "another protocol",
            vec![message(pb::subscribe_response::Message::Welcome(pb::Welcome { protocol: 99, ..Default::default() }))],
        ),
        ("no welcome", vec![delta(pb::Delta { tombstones: vec![tombstone("default", "web")], ..good(1) })]),
        (
            "in sync with nothing",
            vec![welcome(), message(pb::subscribe_response::Message::InSync(pb::InSync { subscription: 1 }))],
        ),
        (
            "an unknown subscription",
            vec![
                welcome(),
                delta(pb::Delta { subscription: 77, tombstones: vec![tombstone("default", "web")], ..good(1) }),
            ],
        ),
        (
            "a tombstone without a key",
            vec![welcome(), delta(pb::Delta { tombstones: vec![pb::Tombstone { key: None }], ..good(1) })],
        ),
        (
            "a path for a name",
            vec![welcome(), delta(pb::Delta { tombstones: vec![tombstone("default", "../web")], ..good(1) })],
        ),
        (
            "a nonce of zero",
            vec![welcome(), delta(pb::Delta { tombstones: vec![tombstone("default", "web")], ..good(0) })],
        ),
        (
            "one key twice",
            vec![
                welcome(),
                delta(pb::Delta {
                    upserts: vec![upsert("web", b"{}", pb::Encoding::Identity)],
                    tombstones: vec![tombstone("default", "web")],
                    ..good(1)
                }),
            ],
        ),
        (
            "a body that is not JSON",
            vec![
                welcome(),
                delta(pb::Delta { upserts: vec![upsert("web", b"\0\0nonsense", pb::Encoding::Identity)], ..good(1) }),
            ],
        ),
        (
            "a truncated body",
            vec![
                welcome(),
                delta(pb::Delta {
                    upserts: vec![upsert("web", b"{\"metadata\":{\"na", pb::Encoding::Identity)],
                    ..good(1)
                }),
            ],
        ),
        (
            "a body that is not zstd",
            vec![welcome(), delta(pb::Delta { upserts: vec![upsert("web", b"{}", pb::Encoding::Zstd)], ..good(1) })],
        ),
        (
            "an unknown encoding",
            vec![
                welcome(),
                delta(pb::Delta { upserts: vec![upsert("web", b"{}", pb::Encoding::Unspecified)], ..good(1) }),
            ],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_deletes_nothing() {
    let fixture = Fixture::start().await.unwrap();
    let key = Key::new("default", "web");
    let body = r#"{"metadata":{"namespace":"default","name":"web","uid":"web"}}"#;
    fixture.cloud.put(kinds::POD, key.clone(), body);
    let hub = fixture.hub("hub-0").await.unwrap();
    let address = hub.address;
    let edge = fixture.edge("edge-1", address).await.unwrap();
    edge.view(kinds::POD, |local| local.in_sync && local.objects.len() == 1).await.unwrap();
    hub.stop().await.unwrap();

    let liar = Liar { says: watch::Sender::default(), streams: Arc::default() };
    let policy = Policy::new().allow("skerry.sync.v1.Source", &[Caller::Node]);
    let config = ServerConfig::new("liar", Listen::Tcp(address), policy)
        .tls(credentials(fixture.service("cloudhub").unwrap()).unwrap());
    let bound = Server::bind(config).await.unwrap();
    let (_trigger, stop) = drain::channel(Duration::from_secs(1));
    let routes = Routes::new(SourceServer::new(liar.clone()));
    tokio::spawn(async move { bound.serve(routes, stop).await });

    for (what, says) in lies() {
        // A silent hub is waited for as long as a hello may take, which other tests cover.
        let waits = says.is_empty();
        let before = liar.streams.load(Ordering::Relaxed);
        liar.says.send_replace(says);
        if waits {
            tokio::time::sleep(Duration::from_secs(1)).await;
        } else {
            eventually(what, || liar.streams.load(Ordering::Relaxed) > before).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let local = edge.view(kinds::POD, |local| local.in_sync).await.unwrap();
        assert_eq!(local.objects.get(&key).map(Vec::as_slice), Some(body.as_bytes()), "after {what}");
    }

    // The control: what a hub may say does change the node.
    let welcome = pb::Welcome { protocol: 1, ..pb::Welcome::default() };
    let truth = vec![
        message(pb::subscribe_response::Message::Welcome(welcome)),
        delta(pb::Delta {
            subscription: 1,
            nonce: 1,
            tombstones: vec![tombstone("default", "web")],
            ..Default::default()
        }),
    ];
    liar.says.send_replace(truth);
    edge.view(kinds::POD, |local| local.in_sync && local.objects.is_empty()).await.unwrap();
}
