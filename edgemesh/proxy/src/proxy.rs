//! What all parts of a proxy share.

use std::sync::Arc;

use skerry_telemetry::Registry;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::pool::Pool;

/// The proxy of one node: who serves a flow, how other nodes are reached, and the bounds of both. Listeners are
/// bound apart and served by its methods. Clones are the same proxy.
#[derive(Debug)]
pub struct Proxy<C, D>(pub(crate) Arc<Shared<C, D>>);

impl<C, D> Clone for Proxy<C, D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
pub(crate) struct Shared<C, D> {
    pub(crate) choose: Arc<C>,
    pub(crate) dial: Arc<D>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) pool: Pool,
    began: Instant,
    /// Places of connections.
    pub(crate) connections: Arc<Semaphore>,
    /// Places of other nodes' streams.
    pub(crate) streams: Arc<Semaphore>,
}

impl<C, D> Proxy<C, D> {
    /// A proxy that counts in this registry.
    pub fn new(choose: Arc<C>, dial: Arc<D>, limits: Limits, registry: &Registry) -> Self {
        let connections = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
        let streams = Arc::new(Semaphore::new(limits.streams.min(Semaphore::MAX_PERMITS)));
        let (metrics, pool) = (Metrics::new(registry), Pool::default());
        Self(Arc::new(Shared { choose, dial, limits, metrics, pool, began: Instant::now(), connections, streams }))
    }
}

impl<C, D> Shared<C, D> {
    /// Milliseconds since the proxy was made.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
