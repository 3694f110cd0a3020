//! A node without a machine: what edgehub does on the wire, with its store in memory.
//!
//! Ten thousand of them fit into one process. A node connects, opens the subscriptions that edgehub
//! opens, keeps keys and versions, acknowledges, and counts what it got and when it was in sync.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use skerry_common::{Key, NodeName, Version, kinds};
use skerry_identity::CredentialWatch;
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::sink_client::SinkClient;
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_proto::sync::v1::subscribe_request::Message as Down;
use skerry_proto::sync::v1::subscribe_response::Message as M;
use skerry_rpc::{Channel, ClientLimits, Connection, Target, connect_once};
use skerry_sync::{Change, Subscriber, SubscriptionId};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Counts of all nodes together.
#[derive(Debug, Default)]
pub struct Totals {
    /// Nodes that have a session.
    pub connected: AtomicUsize,
    /// Nodes whose kinds are all in sync.
    pub in_sync: AtomicUsize,
    /// Upserts received.
    pub upserts: AtomicU64,
    /// Bytes of ended and present connections, both ways, with TLS.
    pub bytes: AtomicU64,
    /// Sessions that ended with an error; the last one is kept for people.
    pub failures: AtomicU64,
    /// The last error.
    pub last_failure: Mutex<String>,
}

/// One node.
pub struct Node {
    name: NodeName,
    target: Target,
    totals: Arc<Totals>,
    session: AtomicU64,
    held: Mutex<HashMap<&'static str, HashMap<Key, Version>>>,
    connection: Mutex<Option<Connection>>,
    counted: AtomicU64,
    closing: AtomicBool,
    services: bool,
}

impl Node {
    /// A node that is not connected.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn new(
        name: NodeName,
        hub: &str,
        credentials: CredentialWatch,
        totals: Arc<Totals>,
        services: bool,
    ) -> anyhow::Result<Arc<Self>> {
        let target = Target::tcp([hub], "cloudhub", credentials)?;
        Ok(Arc::new(Self {
            name,
            target,
            totals,
            session: AtomicU64::new(1),
            held: Mutex::default(),
            connection: Mutex::default(),
            counted: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            services,
        }))
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// How many objects of a kind it holds.
    pub fn count(&self, kind: &str) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(kind).map_or(0, HashMap::len)
    }

    /// Cuts the connection without a word.
    pub fn cut(&self) {
        self.closing.store(true, Ordering::Relaxed);
        if let Some(connection) = self.connection.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            connection.close("cut by the benchmark");
        }
    }

    /// Adds the bytes since the last call to the totals.
    pub fn count_bytes(&self) {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = connection.as_ref() {
            let (received, sent) = connection.bytes();
            let before = self.counted.swap(received + sent, Ordering::Relaxed);
            self.totals.bytes.fetch_add((received + sent).saturating_sub(before), Ordering::Relaxed);
        }
    }

    /// One session, until it ends. The permit is given back when the session has begun.
    ///
    /// # Errors
    /// Why it ended, unless [`Node::cut`] did it.
    pub async fn session(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> anyhow::Result<()> {
        self.closing.store(false, Ordering::Relaxed);
        let number = self.session.fetch_add(1, Ordering::Relaxed);
        let connection = connect_once(&self.target, &ClientLimits::node()).await?;
        self.counted.store(0, Ordering::Relaxed);
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        let synced = AtomicUsize::new(0);
        let ended = tokio::select! {
            ended = self.stream(&connection, number, &kinds::CONTROL, &synced, Some(permit)) => ended,
            ended = self.bulk(&connection, number, &synced) => ended,
            reason = connection.closed() => Err(anyhow::anyhow!("connection ended: {reason}")),
        };
        self.count_bytes();
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        let streams = if self.services { 2 } else { 1 };
        if synced.load(Ordering::Relaxed) >= streams {
            self.totals.in_sync.fetch_sub(1, Ordering::Relaxed);
        }
        if self.closing.load(Ordering::Relaxed) { Ok(()) } else { ended }
    }

    /// Sends one report and waits for its outcome.
    ///
    /// # Errors
    /// When it was not committed.
    pub async fn report(&self, kind: &str, key: Key, body: Vec<u8>) -> anyhow::Result<()> {
        let channel = {
            let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
            connection.as_ref().context("not connected")?.channel()
        };
        let session = self.session.load(Ordering::Relaxed) - 1;
        let report = pb::Report {
            id: 1,
            kind: kind.to_owned(),
            key: Some(skerry_sync::wire::key_to_wire(&key)),
            encoding: pb::Encoding::Identity.into(),
            body: body.into(),
            ..pb::Report::default()
        };
        let requests = [
            pb::ReportRequest { message: Some(pb::report_request::Message::Hello(self.hello(session))) },
            pb::ReportRequest { message: Some(pb::report_request::Message::Report(report)) },
        ];
        // The stream must stay open until the outcome is there.
        let (sender, queue) = mpsc::channel(2);
        for request in requests {
            sender.send(request).await?;
        }
        let mut stream = SinkClient::new(channel).report(ReceiverStream::new(queue)).await?.into_inner();
        while let Some(message) = stream.message().await? {
            if let Some(pb::report_response::Message::Outcome(outcome)) = message.message {
                return match outcome.result {
                    Some(pb::outcome::Result::Committed(_)) => Ok(()),
                    other => bail!("not committed: {other:?}"),
                };
            }
        }
        bail!("the stream ended without an outcome")
    }

    fn hello(&self, session: u64) -> pb::Hello {
        pb::Hello { protocols: vec![1], node: self.name.to_string(), session, agent: "bench".to_owned() }
    }

    async fn bulk(&self, connection: &Connection, number: u64, synced: &AtomicUsize) -> anyhow::Result<()> {
        if !self.services {
            return std::future::pending().await;
        }
        self.stream(connection, number, &kinds::BULK, synced, None).await
    }

    async fn stream(
        &self,
        connection: &Connection,
        number: u64,
        kinds: &'static [&'static str],
        synced: &AtomicUsize,
        permit: Option<OwnedSemaphorePermit>,
    ) -> anyhow::Result<()> {
        let channel: Channel = connection.channel();
        let (requests, queue) = mpsc::channel(32);
        requests.send(request(Down::Hello(self.hello(number)))).await?;
        let mut client = SourceClient::new(channel).max_decoding_message_size(skerry_rpc::limits::SYNC_MESSAGE_BYTES);
        let mut stream = client.subscribe(ReceiverStream::new(queue)).await?.into_inner();
        match stream.message().await?.and_then(|m| m.message) {
            Some(M::Welcome(_)) => {}
            other => bail!("expected welcome, got {other:?}"),
        }
        drop(permit);
        let control = kinds.len() == skerry_common::kinds::CONTROL.len();
        if control {
            self.totals.connected.fetch_add(1, Ordering::Relaxed);
        }
        let _gone = Gone(control.then(|| self.totals.clone()));
        let mut subscribers: Vec<_> =
            (1..).zip(kinds).map(|(id, kind)| Subscriber::new(SubscriptionId(id), *kind, Default::default())).collect();
        for (subscriber, kind) in subscribers.iter_mut().zip(kinds) {
            self.open(subscriber, kind, &requests).await?;
        }
        let mut waiting = kinds.len();
        loop {
            match stream.message().await?.and_then(|m| m.message).context("the hub ended the stream")? {
                M::Delta(delta) => {
                    let at = usize::try_from(delta.subscription)?.checked_sub(1).context("bad subscription")?;
                    let subscriber = subscribers.get_mut(at).context("unknown subscription")?;
                    let apply = subscriber.delta(delta)?;
                    self.apply(kinds.get(at).copied().unwrap_or_default(), apply.changes);
                    requests.send(request(Down::Ack(subscriber.committed(apply.nonce)))).await?;
                }
                M::InSync(mark) => {
                    let at = usize::try_from(mark.subscription)?.checked_sub(1).context("bad subscription")?;
                    subscribers.get_mut(at).context("unknown subscription")?.in_sync(mark)?;
                    waiting = waiting.saturating_sub(1);
                    if waiting == 0 {
                        let streams = if self.services { 2 } else { 1 };
                        if synced.fetch_add(1, Ordering::Relaxed) + 1 == streams {
                            self.totals.in_sync.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                M::Closed(closed) if closed.code() == pb::CloseCode::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    let at = usize::try_from(closed.subscription)?.checked_sub(1).context("bad subscription")?;
                    let kind = kinds.get(at).copied().context("unknown subscription")?;
                    self.open(subscribers.get_mut(at).context("unknown subscription")?, kind, &requests).await?;
                }
                other => bail!("unexpected {other:?}"),
            }
        }
    }

    async fn open(
        &self,
        subscriber: &mut Subscriber,
        kind: &str,
        requests: &mpsc::Sender<pb::SubscribeRequest>,
    ) -> anyhow::Result<()> {
        let held: Vec<_> = {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.get(kind).into_iter().flatten().map(|(key, version)| (key.clone(), version.clone())).collect()
        };
        for message in subscriber.open("", 0, "", held) {
            requests.send(message).await?;
        }
        Ok(())
    }

    fn apply(&self, kind: &'static str, changes: Vec<Change>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let objects = held.entry(kind).or_default();
        for change in changes {
            match change {
                Change::Upsert { key, version, .. } => {
                    self.totals.upserts.fetch_add(1, Ordering::Relaxed);
                    objects.insert(key, version);
                }
                Change::Delete { key } => drop(objects.remove(&key)),
            }
        }
    }
}

/// Counts a connected node down when its stream ends, however it ends.
struct Gone(Option<Arc<Totals>>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(totals) = &self.0 {
            totals.connected.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn request(message: Down) -> pb::SubscribeRequest {
    pb::SubscribeRequest { message: Some(message) }
}
