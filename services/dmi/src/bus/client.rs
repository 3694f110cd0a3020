//! The event bus while it runs: connections to the broker, one after the other.
//!
//! One task turns the connection and sorts what comes ([`super::inbound`]); this one does requests and tells news,
//! one after the other. Both end with the connection, and the next one begins after a pause that grows. Requests are
//! acknowledged when they are done: QoS 1 up to the result. Sessions are clean: a value that waited in a broker would
//! look as if it were of now.

use std::sync::Arc;
use std::time::Duration;

use skerry_common::{Backoff, Key, chain};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::answer::{Answer, answer};
use super::error::Ended;
use super::inbound::{Inbound, Sorter, turn};
use super::login::login;
use super::news::{Again, News};
use super::options::Mqtt;
use super::payload::{Base, Body, encode};
use super::topic::{self, Asked};
use super::wire::{self, Client};
use super::{INBOUND, MAX_PACKET};
use crate::fleet::Watcher;
use crate::node::Node;

/// Ceiling of the first pause before another try, and of the last; KubeEdge tries every 5 s.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// A connection that lasts so long was a good one.
const STEADY: Duration = Duration::from_secs(30);
/// The connection ends at once when its other half has.
const FAREWELL: Duration = Duration::from_secs(1);
/// Between two looks for news: what happens within is one message.
const PACE: Duration = Duration::from_millis(100);
/// Room in a message beside its topic and its payload: headers, lengths, properties.
const PACKET_HEADER: usize = 32;

/// Serves the event bus until it is dropped.
pub(crate) async fn run(node: Arc<Node>, options: Mqtt) {
    let watcher = node.read_mut(|fleet, _| fleet.watch());
    // Nobody can guess it: a client of the same name would take the node's place at the broker.
    let client_id = format!("skerry-{}-{:08x}", node.name, uuid::Uuid::new_v4().as_fields().0);
    let mut bus = Bus { node, options, client_id, watcher, news: News::default() };
    let mut backoff = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
    loop {
        let began = Instant::now();
        let ended = bus.session().await;
        bus.node.change(|fleet, _| fleet.set_bus(false));
        bus.node.metrics.bus_connected.set(0);
        if began.elapsed() > STEADY {
            backoff.reset();
        }
        let pause = backoff.jittered();
        tracing::warn!(error = chain(&ended), pause_ms = pause.as_millis() as u64, "no event bus");
        tokio::time::sleep(pause).await;
    }
}

struct Bus {
    node: Arc<Node>,
    options: Mqtt,
    client_id: String,
    watcher: Arc<Watcher>,
    news: News,
}

impl Bus {
    /// One connection, from its beginning to its end.
    async fn session(&mut self) -> Ended {
        let login = match login(&self.options, &self.client_id).await {
            Ok(login) => login,
            Err(ended) => return ended,
        };
        let (client, events) = wire::connect(self.options.version, login);
        let (send, mut receive) = mpsc::channel(INBOUND);
        let sorter = Sorter::new(Arc::clone(&self.node), self.options.messages_per_second, self.options.shared);
        let mut turning = JoinSet::new();
        turning.spawn(turn(events, sorter, send));
        // The connection itself may take as long, before the broker hears of any subscription.
        let patience = 2 * Duration::from_secs(self.options.keep_alive_seconds.into());
        let filters = topic::subscriptions(&self.node.name);
        let subscribed = tokio::select! {
            subscribed = timeout(patience, client.subscribe(&filters)) => subscribed.unwrap_or(Err(Ended::Silent)),
            Some(Ok(ended)) = turning.join_next() => return ended,
        };
        let ended = match subscribed {
            // To its own end: what is being written to the disk must not be given up half-way.
            Ok(()) => self.serve(&client, &mut receive).await.err().unwrap_or(Ended::Closed),
            Err(ended) => ended,
        };
        if matches!(ended, Ended::Closed)
            && let Ok(Some(Ok(cause))) = timeout(FAREWELL, turning.join_next()).await
        {
            return cause;
        }
        turning.shutdown().await;
        ended
    }

    /// Serves a connection; without an error when there is nothing more to come.
    async fn serve(&mut self, client: &Client, requests: &mut mpsc::Receiver<Inbound>) -> Result<(), Ended> {
        tracing::info!(server = self.options.server, "event bus");
        self.node.change(|fleet, _| fleet.set_bus(true));
        self.node.metrics.bus_connected.set(1);
        let mut all = self.node.read(|fleet, _| fleet.device_keys(""));
        all.extend(self.news.known().cloned());
        all.sort_unstable();
        all.dedup();
        // Whoever was away as we were may not know what is wanted.
        self.tell(client, all, true).await?;
        let (mut waiting, mut next) = (false, Instant::now());
        loop {
            tokio::select! {
                request = requests.recv() => {
                    let Some(request) = request else { return Ok(()) };
                    self.take(client, &request).await?;
                    client.settle(request.receipt).await?;
                }
                () = self.watcher.wake.notified(), if !waiting => waiting = true,
                () = tokio::time::sleep_until(next), if waiting => {
                    let changed = self.watcher.take();
                    self.tell(client, changed, false).await?;
                    waiting = false;
                    next = Instant::now() + PACE;
                }
            }
        }
    }

    /// Does what is asked, and answers.
    async fn take(&mut self, client: &Client, request: &Inbound) -> Result<(), Ended> {
        let Inbound { asked, payload, too_many, .. } = request;
        let now_ms = self.node.now().wall;
        let mut answered = if *too_many {
            let most = self.options.messages_per_second;
            Answer::refused("", 429, format!("{most} messages in a second are taken for one device"), now_ms)
        } else {
            answer(&self.node, asked, payload).await
        };
        if let (Body::Twins { twin }, Some(key)) = (&mut answered.body, asked.key()) {
            self.news.date(key, twin, now_ms);
        }
        if answered.is_refusal() {
            self.node.metrics.bus_refused.inc();
        }
        let topic = asked.answer(&self.node.name);
        if !self.publish(client, topic.clone(), &answered.base, &answered.body).await? {
            let reason = format!("the answer is longer than the {MAX_PACKET} bytes that a message may have");
            self.publish(client, topic, &answered.base, &Body::Error { code: 500, reason }).await?;
        }
        let Some(key) = asked.key() else { return Ok(()) };
        let shown = self.node.read(|fleet, now| fleet.show(key, now));
        if let (Asked::StateUpdate(_), Some(shown)) = (asked, &shown) {
            self.news.told_state(shown);
        }
        if !answered.set.is_empty() {
            let again = Again { delta: true, properties: &answered.set };
            for (topic, body) in self.news.look(key, shown, again, now_ms) {
                self.publish(client, topic, &answered.base, &body).await?;
            }
        }
        Ok(())
    }

    /// Tells what is new of some devices.
    async fn tell(&mut self, client: &Client, keys: impl IntoIterator<Item = Key>, delta: bool) -> Result<(), Ended> {
        let now_ms = self.node.now().wall;
        for key in keys {
            let shown = self.node.read(|fleet, now| fleet.show(&key, now));
            for (topic, body) in self.news.look(&key, shown, Again { delta, properties: &[] }, now_ms) {
                self.publish(client, topic, &Base::news(now_ms), &body).await?;
            }
        }
        for body in self.news.take_members() {
            let topic = topic::members(&self.node.name);
            self.publish(client, topic, &Base::news(now_ms), &body).await?;
        }
        Ok(())
    }

    /// Publishes a message. Whether it was short enough.
    async fn publish(&self, client: &Client, topic: String, base: &Base, body: &Body) -> Result<bool, Ended> {
        let payload = encode(base, body);
        if payload.len().saturating_add(topic.len()).saturating_add(PACKET_HEADER) > MAX_PACKET {
            self.node.metrics.bus_dropped.inc();
            tracing::warn!(topic, bytes = payload.len(), "a message is too long for the event bus");
            return Ok(false);
        }
        client.publish(topic, payload).await?;
        Ok(true)
    }
}
