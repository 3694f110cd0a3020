//! Keeps a session with a hub: dial, run, wait, dial again.
//!
//! One task. A session is one connection with its streams; when any of them fails the session is over
//! and everything of it is dropped. The number of a session is higher than that of every one before it,
//! and is on disk before it is used. Waits between attempts have full jitter and start anew after a
//! session that lasted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skerry_common::{Backoff, NodeName, chain, drain, kinds};
use skerry_proto::sync::v1 as pb;
use skerry_rpc::{Channel, ClientLimits, Connection, Target, connect_once};
use tokio::time::Instant;

use crate::config::LinkTimes;
use crate::downlink::Downlink;
use crate::error::SessionError;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::renew::Renewal;
use crate::reviews::Cloud;
use crate::upreports::Outbox;

/// Name of the value that holds the newest session that the cloud told us of.
const SESSION_FLOOR: &str = "session-floor";

/// This node's name in Hello and Welcome.
pub(crate) fn agent() -> String {
    format!("edgehub/{}", skerry_telemetry::VERSION)
}

/// One session with a hub.
pub(crate) struct Session {
    node: NodeName,
    number: u64,
    connection: Connection,
}

impl Session {
    pub(crate) fn channel(&self) -> Channel {
        self.connection.channel()
    }

    pub(crate) fn hello(&self) -> pb::Hello {
        skerry_sync::version::hello(&agent(), self.node.as_str(), self.number)
    }
}

/// Bytes of all sessions of this process.
#[derive(Debug, Default)]
pub(crate) struct Traffic(Mutex<(u64, u64, Option<Connection>)>);

impl Traffic {
    /// Bytes received and sent, with TLS.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let traffic = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (received, sent) = traffic.2.as_ref().map_or((0, 0), Connection::bytes);
        (traffic.0 + received, traffic.1 + sent)
    }

    fn follow(&self, connection: Option<Connection>) {
        let mut traffic = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ended) = std::mem::replace(&mut traffic.2, connection) {
            let (received, sent) = ended.bytes();
            traffic.0 += received;
            traffic.1 += sent;
        }
    }
}

/// See the module documentation.
pub(crate) struct Uplink {
    pub(crate) node: NodeName,
    pub(crate) target: Target,
    pub(crate) services: bool,
    pub(crate) devices: bool,
    pub(crate) times: LinkTimes,
    pub(crate) objects: Arc<Objects>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) renewal: Renewal,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) cloud: Cloud,
    pub(crate) metrics: Metrics,
}

impl Uplink {
    /// Runs until told to stop, or until the store fails.
    pub(crate) async fn run(self, mut stop: drain::Watch) -> Result<(), skerry_store::StoreError> {
        let times = &self.times;
        let mut soon = Backoff::new(times.retry_min, times.retry_soon);
        let mut late = Backoff::new(times.retry_soon, times.retry_max);
        let mut lasted = Instant::now();
        let mut stopping = stop.clone();
        loop {
            let started = Instant::now();
            let error = tokio::select! {
                ended = self.session() => match ended {
                    Ok(never) => match never {},
                    Err(SessionError::Store(error)) => return Err(error),
                    Err(error) => error,
                },
                _ = stop.stopped() => return Ok(()),
            };
            self.traffic.follow(None);
            self.cloud.set(None);
            self.objects.link.disconnected(&chain(&error));
            if let SessionError::Stale { newest } = error {
                // This store is older than the cloud's memory: go on above it.
                self.objects.store.put_value(SESSION_FLOOR, newest.to_string()).await?;
            }
            if started.elapsed() >= times.stable_after {
                soon.reset();
                late.reset();
                lasted = Instant::now();
            }
            let wait: Duration = if lasted.elapsed() < times.young { soon.jittered() } else { late.jittered() };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stopping.stopped() => return Ok(()),
            }
        }
    }

    /// A number above that of every earlier session, also when this store lost its memory of them.
    async fn next_number(&self) -> Result<u64, skerry_store::StoreError> {
        let store = &self.objects.store;
        let next = store.next_session().await?;
        let floor = store.get_value(SESSION_FLOOR).await?;
        let floor = floor.and_then(|text| std::str::from_utf8(&text).ok()?.parse::<u64>().ok());
        match floor {
            Some(floor) if floor >= next => {
                store.put_value(SESSION_FLOOR, (floor + 1).to_string()).await?;
                Ok(floor + 1)
            }
            _ => Ok(next),
        }
    }

    async fn session(&self) -> Result<std::convert::Infallible, SessionError> {
        let number = self.next_number().await?;
        let connection = connect_once(&self.target, &ClientLimits::node()).await.map_err(SessionError::Connect)?;
        self.traffic.follow(Some(connection.clone()));
        let session = Session { node: self.node.clone(), number, connection: connection.clone() };
        let devices: &[&str] = if self.devices { &kinds::DEVICES } else { &[] };
        let urgent = [&kinds::CONTROL, devices].concat();
        let (ready, welcomed) = tokio::sync::watch::channel(false);
        let control = Downlink::run(&session, self.objects.clone(), &urgent, self.metrics.clone(), || {
            self.objects.link.connected(connection.address(), number);
            self.cloud.set(Some(connection.channel()));
            ready.send_replace(true);
        });
        // The hub knows the session from its first stream; the others follow.
        let after = |mut welcomed: tokio::sync::watch::Receiver<bool>| async move {
            let _ = welcomed.wait_for(|ready| *ready).await;
        };
        let bulk = async {
            after(welcomed.clone()).await;
            if self.services {
                Downlink::run(&session, self.objects.clone(), &kinds::BULK, self.metrics.clone(), || {}).await
            } else {
                std::future::pending().await
            }
        };
        let reports = async {
            after(welcomed.clone()).await;
            self.outbox.run(&session).await
        };
        let renewal = async {
            after(welcomed.clone()).await;
            self.renewal.run(&session).await
        };
        tokio::select! {
            ended = control => ended,
            ended = bulk => ended,
            ended = reports => ended,
            never = renewal => match never {},
            reason = connection.closed() => Err(SessionError::Ended(reason.to_string())),
        }
    }
}
