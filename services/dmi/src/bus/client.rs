//! The connection to the broker.
//!
//! One task turns rumqttc's event loop and nothing else, so that it never waits for what itself has to send;
//! one does requests and tells news, one after the other. Both end with the connection, and the next one begins
//! after a pause that grows. Requests are acknowledged when they are done: QoS 1 up to the result. Sessions are
//! clean: a value that waited in a broker would look as if it were of now.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    AckMode, AsyncClient, Event, EventLoop, Incoming, MqttOptions, Publish, PublishOptions, QoS, SubscribeFilterInput,
    SubscribeNoticeError, TlsConfiguration, Transport,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use skerry_common::{Backoff, Key, chain};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answer::{Answer, answer};
use super::limits::{Admission, Limits};
use super::news::{Again, News};
use super::options::{Mqtt, MqttTls};
use super::payload::{Base, Body, encode};
use super::topic::{self, Asked};
use super::{INBOUND, MAX_PACKET, OUTBOUND};
use crate::fleet::Watcher;
use crate::node::Node;

/// Ceiling of the first pause before another try, and of the last; KubeEdge tries every 5 s.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// A connection that lasts so long was a good one.
const STEADY: Duration = Duration::from_secs(30);
/// A broker that is silent for longer is gone.
const KEEP_ALIVE_SECONDS: u16 = 20;
/// A broker that has not taken our subscriptions after so long never will.
const SUBSCRIBE: Duration = Duration::from_secs(15);
/// The event loop ends at once when its connection has.
const FAREWELL: Duration = Duration::from_secs(1);
/// Between two looks for news: what happens within is one message.
const PACE: Duration = Duration::from_millis(100);

/// Why a connection has ended, or did not begin.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the file {path} for the broker cannot be used")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the certificates for the broker cannot be used")]
    Tls(#[source] rustls::Error),
    #[error("{0}")]
    Options(String),
    #[error("the connection to the broker ended")]
    Connection(#[source] Box<rumqttc::ConnectionError>),
    #[error("the broker has refused a subscription, or did not answer")]
    Subscribe,
    #[error("the connection to the broker is closed")]
    Closed,
}

/// Serves the event bus until it is dropped.
pub(crate) async fn run(node: Arc<Node>, options: Mqtt) {
    let watcher = node.read_mut(|fleet, _| fleet.watch());
    let limits = Limits::new(options.messages_per_second);
    let mut bus = Bus { node, options, watcher, limits, news: News::default() };
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
    watcher: Arc<Watcher>,
    limits: Limits,
    news: News,
}

impl Bus {
    /// One connection, from its beginning to its end.
    async fn session(&mut self) -> Ended {
        let options = match self.connect_options().await {
            Ok(options) => options,
            Err(ended) => return ended,
        };
        let (client, events) = AsyncClient::builder(options).capacity(OUTBOUND).build();
        let (send, mut receive) = mpsc::channel(INBOUND);
        let mut turning = JoinSet::new();
        turning.spawn(turn(events, client.clone(), send, Arc::clone(&self.node)));
        let served = self.serve(&client, &mut receive).await;
        if matches!(served, Ended::Closed)
            && let Ok(Some(Ok(ended))) = tokio::time::timeout(FAREWELL, turning.join_next()).await
        {
            // It knows why.
            return ended;
        }
        turning.shutdown().await;
        served
    }

    async fn serve(&mut self, client: &AsyncClient, messages: &mut mpsc::Receiver<Publish>) -> Ended {
        if let Err(ended) = subscribe(client, &self.node.name).await {
            return ended;
        }
        tracing::info!(server = self.options.server, "event bus");
        self.node.change(|fleet, _| fleet.set_bus(true));
        self.node.metrics.bus_connected.set(1);
        let mut all = self.node.read(|fleet, _| fleet.device_keys(""));
        all.extend(self.news.known().cloned());
        all.sort_unstable();
        all.dedup();
        // Whoever was away as we were may not know what is wanted.
        if self.tell(client, all, true).await.is_none() {
            return Ended::Closed;
        }
        let (mut waiting, mut next) = (false, Instant::now());
        loop {
            tokio::select! {
                message = messages.recv() => {
                    let Some(message) = message else { return Ended::Closed };
                    if self.take(client, &message).await.is_none() || client.ack(&message).await.is_err() {
                        return Ended::Closed;
                    }
                }
                () = self.watcher.wake.notified(), if !waiting => waiting = true,
                () = tokio::time::sleep_until(next), if waiting => {
                    let changed = self.watcher.take();
                    if self.tell(client, changed, false).await.is_none() {
                        return Ended::Closed;
                    }
                    waiting = false;
                    next = Instant::now() + PACE;
                }
            }
        }
    }

    /// Does what a message asks. `None`: the connection is gone.
    async fn take(&mut self, client: &AsyncClient, message: &Publish) -> Option<()> {
        let metrics = &self.node.metrics;
        let topic = std::str::from_utf8(&message.topic).unwrap_or_default();
        let asked = Asked::parse(topic, &self.node.name);
        // A retained message is what somebody said once, to nobody in particular.
        let Some(asked) = asked.filter(|_| !message.retain) else {
            metrics.bus_dropped.inc();
            return Some(());
        };
        metrics.bus_messages.inc();
        let here = asked.key().filter(|key| self.node.read(|fleet, now| fleet.show(key, now)).is_some());
        if self.options.shared && asked.key().is_some() && here.is_none() {
            return Some(());
        }
        let now = self.node.now();
        let answered = match self.limits.admit(here, now.mono.saturating_mul(1000)) {
            Admission::Admitted => answer(&self.node, &asked, &message.payload).await,
            Admission::Refused => {
                let most = self.options.messages_per_second;
                Answer::refused("", 429, format!("{most} messages in a second are taken for one device"), now.wall)
            }
            Admission::Ignored => {
                metrics.bus_dropped.inc();
                return Some(());
            }
        };
        if answered.is_refusal() {
            self.node.metrics.bus_refused.inc();
        }
        self.publish(client, asked.answer(&self.node.name), &answered.base, &answered.body).await?;
        let Some(key) = asked.key().cloned() else { return Some(()) };
        let shown = self.node.read(|fleet, now| fleet.show(&key, now));
        if let (Asked::StateUpdate(_), Some(shown)) = (&asked, &shown) {
            self.news.told_state(shown);
        }
        if !answered.set.is_empty() {
            let again = Again { delta: true, properties: &answered.set };
            for (topic, body) in self.news.look(&key, shown, again) {
                self.publish(client, topic, &answered.base, &body).await?;
            }
        }
        Some(())
    }

    /// Tells what is new of some devices. `None`: the connection is gone.
    async fn tell(&mut self, client: &AsyncClient, keys: impl IntoIterator<Item = Key>, delta: bool) -> Option<()> {
        for key in keys {
            let shown = self.node.read(|fleet, now| fleet.show(&key, now));
            if shown.is_none() {
                self.limits.forget(&key);
            }
            for (topic, body) in self.news.look(&key, shown, Again { delta, properties: &[] }) {
                self.publish(client, topic, &Base::news(self.node.now().wall), &body).await?;
            }
        }
        for body in self.news.take_members() {
            let topic = topic::members(&self.node.name);
            self.publish(client, topic, &Base::news(self.node.now().wall), &body).await?;
        }
        Some(())
    }

    async fn publish(&self, client: &AsyncClient, topic: String, base: &Base, body: &Body) -> Option<()> {
        let payload = encode(base, body);
        // Room for the topic and the header.
        if payload.len().saturating_add(topic.len()).saturating_add(16) > MAX_PACKET {
            self.node.metrics.bus_dropped.inc();
            tracing::warn!(topic, bytes = payload.len(), "a message is too long for the event bus");
            return Some(());
        }
        client.publish(topic, payload, PublishOptions::new(QoS::AtLeastOnce)).await.ok()
    }

    async fn connect_options(&self) -> Result<MqttOptions, Ended> {
        let server = self.options.parse().map_err(Ended::Options)?;
        let id = match self.options.client_id.as_str() {
            "" => format!("skerry-{}", self.node.name),
            id => id.to_owned(),
        };
        let mut options = MqttOptions::new(id, (server.host, server.port));
        options.set_clean_session(true);
        options.set_keep_alive(KEEP_ALIVE_SECONDS);
        options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
        options.set_ack_mode(AckMode::Manual);
        if let Some(tls) = &self.options.tls {
            let config = tls_config(tls).await?;
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))));
        }
        match (&self.options.username, &self.options.password_file) {
            (Some(user), Some(path)) => {
                let password = read(path).await?;
                let end = password.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
                options.set_credentials(user.clone(), password.get(..end).unwrap_or_default().to_vec());
            }
            (Some(user), None) => {
                options.set_username(user.clone());
            }
            (None, _) => {}
        }
        Ok(options)
    }
}

/// Turns the event loop until the connection ends.
async fn turn(mut events: EventLoop, client: AsyncClient, send: mpsc::Sender<Publish>, node: Arc<Node>) -> Ended {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Incoming::Publish(message))) => match send.try_send(message) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(message)) => {
                    node.metrics.bus_dropped.inc();
                    // Without it the broker would wait for it for ever.
                    let _ = client.try_ack(&message);
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return Ended::Closed,
            },
            Ok(_) => {}
            Err(error) => return Ended::Connection(Box::new(error)),
        }
    }
}

async fn subscribe(client: &AsyncClient, node: &str) -> Result<(), Ended> {
    let filters = topic::subscriptions(node).map(|filter| SubscribeFilterInput::new(filter, QoS::AtLeastOnce));
    let subscribed = async {
        let notice = client.subscribe_many_tracked(filters).await.map_err(|_| Ended::Closed)?;
        notice.wait_completion_async().await.map_err(|error| match error {
            SubscribeNoticeError::V4SubAckFailure(_) => Ended::Subscribe,
            _ => Ended::Closed,
        })
    };
    tokio::time::timeout(SUBSCRIBE, subscribed).await.unwrap_or(Err(Ended::Subscribe))
}

async fn read(path: &std::path::Path) -> Result<Vec<u8>, Ended> {
    tokio::fs::read(path).await.map_err(|source| Ended::File { path: path.display().to_string(), source })
}

/// The files are read for each connection, so that new ones are used when they are there.
async fn tls_config(tls: &MqttTls) -> Result<rustls::ClientConfig, Ended> {
    let unreadable = |path: &std::path::Path, error: rustls::pki_types::pem::Error| Ended::File {
        path: path.display().to_string(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
    };
    let certificates = async |path: &std::path::Path| {
        let pem = read(path).await?;
        CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(path, error))
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&tls.ca_file).await? {
        roots.add(certificate).map_err(Ended::Tls)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(Ended::Tls)?.with_root_certificates(roots);
    match (&tls.cert_file, &tls.key_file) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate).await?;
            let pem = read(key).await?;
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unreadable(key, error))?;
            builder.with_client_auth_cert(chain, key).map_err(Ended::Tls)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}
