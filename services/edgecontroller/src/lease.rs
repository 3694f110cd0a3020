//! Node leases: who is alive, and the durable half of the fence.
//!
//! EdgeController renews `kube-node-lease/<node>` for every connected node ([`LeaseKeeper::run`]); no lease
//! message crosses the wire. The node's newest session is the Lease's annotation [`SESSION`]. Every write
//! carries the resource version of the last one, so two replicas that believe in different sessions meet in
//! a conflict, read, and the older one is fenced. The Lease has no owner: it outlives a deleted Node, because
//! it also records the keys of the node (`bindings`), which must stay revocable.
//!
//! Limits: [`PARALLEL`] renewals at a time, at least [`MIN_PER_SECOND`] and otherwise a quarter more than
//! one per node and interval. A failed renewal is tried again after [`RETRY_MS`]; a lease lives
//! [`DURATION_SECONDS`], so three in a row may fail. On a crash the annotations are read back at start.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use skerry_common::{Key, NodeName};
use skerry_kubesync::{ApiError, KubeApi, Other, SESSION, Sessions};
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::presence::{Presence, RENEW_MS};

/// Where Kubernetes looks for the leases of nodes.
pub(crate) const NAMESPACE: &str = "kube-node-lease";

/// As the kubelet's.
const DURATION_SECONDS: u32 = 40;

/// Renewals at a time, and begun at one look: 1,280 a second, enough for 10,000 nodes of one replica.
const PARALLEL: usize = 64;

/// Renewals a second that are always allowed.
const MIN_PER_SECOND: usize = 200;

/// When a renewal that failed is tried again.
const RETRY_MS: u64 = 2_000;

/// How often the queue is looked at: the precision of renewal times.
const TICK: Duration = Duration::from_millis(1_000 / TICKS_PER_SECOND as u64);

/// Looks a second.
const TICKS_PER_SECOND: usize = 20;

/// Attempts against concurrent writers of one Lease.
const ATTEMPTS: usize = 4;

#[derive(Debug, Clone, Default)]
struct Known {
    version: Option<String>,
    session: u64,
}

/// Why a session could not be made durable.
#[derive(Debug)]
pub(crate) enum EnsureError {
    /// A newer one is.
    Stale(u64),
    /// The API cannot take it now.
    Api(ApiError),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct LeaseKeeper {
    api: KubeApi,
    sessions: Arc<Sessions>,
    presence: Arc<Mutex<Presence>>,
    metrics: Arc<Metrics>,
    known: Mutex<HashMap<NodeName, Known>>,
    epoch: Instant,
}

impl LeaseKeeper {
    pub(crate) fn new(
        api: KubeApi,
        sessions: Arc<Sessions>,
        presence: Arc<Mutex<Presence>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { api, sessions, presence, metrics, known: Mutex::default(), epoch: Instant::now() }
    }

    /// Milliseconds of the clock that the presence runs on.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<NodeName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all leases, so that what was fenced before a restart stays fenced.
    pub(crate) async fn seed(&self) -> Result<usize, ApiError> {
        let leases = self.api.list(Other::Lease, NAMESPACE).await?;
        let mut count = 0;
        for lease in leases {
            if let Some(node) = lease.metadata.name.as_deref().and_then(|name| NodeName::parse(name).ok()) {
                let session = self.learn(&node, &lease);
                if session > 0 {
                    self.sessions.seed(&node, session);
                    count += 1;
                }
            }
        }
        Ok(count)
    }

    fn learn(&self, node: &NodeName, lease: &DynamicObject) -> u64 {
        let annotations = lease.metadata.annotations.as_ref();
        let session = annotations.and_then(|a| a.get(SESSION)).and_then(|s| s.parse().ok()).unwrap_or(0);
        let known = Known { version: lease.metadata.resource_version.clone(), session };
        self.known().insert(node.clone(), known);
        session
    }

    /// Makes sure that the API knows this session, before something is written for it.
    pub(crate) async fn ensure(&self, node: &NodeName, session: u64) -> Result<(), EnsureError> {
        let durable = self.known().get(node).map_or(0, |known| known.session);
        match durable {
            durable if durable == session => Ok(()),
            durable if durable > session => Err(EnsureError::Stale(durable)),
            _ => {
                self.write(node, session).await?;
                let now = self.now();
                self.presence().renewed(node, now);
                Ok(())
            }
        }
    }

    /// Whether the API knows this session already.
    pub(crate) fn is_durable(&self, node: &NodeName, session: u64) -> bool {
        self.known().get(node).is_some_and(|known| known.session == session)
    }

    /// Renews until cancelled. A slow answer holds up its own node only, as long as fewer than
    /// [`PARALLEL`] are slow.
    pub(crate) async fn run(&self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut running = FuturesUnordered::new();
        let mut round = 0_u64;
        loop {
            tokio::select! {
                Some(()) = running.next() => continue,
                _ = tick.tick() => {}
            }
            round += 1;
            let now = self.now();
            let mut presence = self.presence();
            if round.is_multiple_of(100) {
                presence.forget(now);
            }
            self.metrics.nodes.set(i64::try_from(presence.connected()).unwrap_or(i64::MAX));
            let interval = usize::try_from(RENEW_MS).unwrap_or(usize::MAX);
            let per_second = (presence.renewing().saturating_mul(1_250) / interval).max(MIN_PER_SECOND);
            let due = presence.take_due(now, (per_second / TICKS_PER_SECOND).min(PARALLEL - running.len()));
            drop(presence);
            running.extend(due.into_iter().map(|(node, session, lag)| self.renew(node, session, lag)));
        }
    }

    async fn renew(&self, node: NodeName, session: u64, lag: u64) {
        let started = Instant::now();
        self.metrics.lease_lag.observe(Duration::from_millis(lag).as_secs_f64());
        let result = self.write(&node, session).await;
        self.metrics.lease_latency.observe(started.elapsed().as_secs_f64());
        let now = self.now();
        match result {
            Ok(()) => self.presence().renewed(&node, now),
            Err(EnsureError::Stale(newest)) => {
                tracing::info!(%node, session, newest, "another replica knows a newer session");
            }
            Err(EnsureError::Api(error)) => {
                tracing::warn!(%node, error = skerry_common::chain(&error), "lease not renewed");
                self.presence().failed(&node, now, RETRY_MS);
            }
        }
    }

    async fn write(&self, node: &NodeName, session: u64) -> Result<(), EnsureError> {
        let key = Key::new(NAMESPACE, node.as_str());
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let known = self.known().get(node).cloned();
            if let Some(known) = &known
                && known.session > session
            {
                self.sessions.seed(node, known.session);
                return Err(EnsureError::Stale(known.session));
            }
            let result = match known.and_then(|known| known.version) {
                Some(version) => self.api.merge(Other::Lease, &key, &lease(node, session, Some(&version))).await,
                None => match self.api.get(Other::Lease, &key).await.map_err(EnsureError::Api)? {
                    Some(found) => {
                        self.learn(node, &found);
                        continue;
                    }
                    None => self.api.create(Other::Lease, NAMESPACE, lease(node, session, None)).await,
                },
            };
            match result {
                Ok(written) => {
                    self.learn(node, &written);
                    return Ok(());
                }
                // Somebody else wrote, created or deleted it: read again.
                Err(error @ (ApiError::Conflict(_) | ApiError::AlreadyExists | ApiError::NotFound)) => {
                    self.known().remove(node);
                    last = Some(error);
                }
                Err(error) => return Err(EnsureError::Api(error)),
            }
        }
        Err(EnsureError::Api(last.unwrap_or(ApiError::Conflict("the Lease".to_owned()))))
    }
}

fn lease(node: &NodeName, session: u64, version: Option<&str>) -> Value {
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": node.as_str(),
            "namespace": NAMESPACE,
            "annotations": {SESSION: session.to_string()},
        },
        "spec": {
            "holderIdentity": node.as_str(),
            "leaseDurationSeconds": DURATION_SECONDS,
            "renewTime": micro_time(Timestamp::now()),
        }
    });
    if let (Some(version), Some(meta)) = (version, lease.get_mut("metadata").and_then(Value::as_object_mut)) {
        meta.insert("resourceVersion".to_owned(), version.into());
    }
    lease
}

/// Kubernetes' MicroTime.
pub(crate) fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_time_has_six_digits() {
        let at = Timestamp::from_microsecond(1_700_000_000_000_042).unwrap_or(Timestamp::UNIX_EPOCH);
        assert_eq!(micro_time(at), "2023-11-14T22:13:20.000042Z");
    }
}
