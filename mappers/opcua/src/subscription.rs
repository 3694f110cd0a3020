//! A device's subscription: one per device, with an item for each of its nodes.
//!
//! What a node has now comes first, then what changes, at most once in the property's cycle; older values that
//! were not sent yet give way to newer ones. A node that the server does not have is bad alone and is asked for
//! again with each look at the subscription.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opcua::client::OnSubscriptionNotification;
use opcua::types::{
    DataValue, MonitoredItemCreateRequest, MonitoringMode, MonitoringParameters, StatusChangeNotification, StatusCode,
    TimestampsToReturn,
};
use skerry_mapper_sdk::{Fault, Sample, Updates};
use tokio::task::JoinHandle;

use crate::driver::{Device, Point};
use crate::error::{fault, status};
use crate::session::Session;
use crate::value::sample;

/// The server speaks at least so often; after a few times without a word the subscription is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Times of silence after which nobody is there.
const PATIENCE: u32 = 3;
/// Publishing faster than this helps nobody, and slower than this keeps values back.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(50), KEEP_ALIVE);
/// Times without a request after which the server deletes the subscription, in keep-alives; the specification
/// wants three at least.
const LIFETIME: u32 = 6;
/// What is said of a subscription that the server has ended.
const ENDED: &str = "the server ended the subscription";
/// Values in one answer.
const MAX_VALUES: u32 = 1000;

/// What a server tells of one device.
pub(crate) struct Subscription {
    id: u32,
    updates: Updates,
    /// Whether the server has ended it.
    ended: Arc<AtomicBool>,
    begun: Instant,
    /// Longest time without a word.
    silence: Duration,
    /// Points whose nodes the server did not have, by index.
    missing: Vec<usize>,
    /// Tells when the session ends, so that nobody has to look.
    watch: JoinHandle<()>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Takes what the server sends. Runs in the session's task and never waits.
struct Receiver {
    /// By the item's handle, which is the point's index and one, because 0 is none.
    names: Vec<String>,
    updates: Updates,
    ended: Arc<AtomicBool>,
}

impl OnSubscriptionNotification for Receiver {
    fn on_subscription_status_change(&mut self, notification: StatusChangeNotification) {
        if notification.status.is_bad() {
            self.ended.store(true, Ordering::Relaxed);
            self.updates.lost(ENDED);
        }
    }

    fn on_data_value(&mut self, value: DataValue, item: &opcua::client::MonitoredItem) {
        let index = usize::try_from(item.client_handle()).ok().and_then(|handle| handle.checked_sub(1));
        if let Some(name) = index.and_then(|index| self.names.get(index)) {
            self.updates.put(name, sample(value));
        }
    }
}

impl Subscription {
    /// Asks the server to tell of a device's points.
    pub(crate) async fn create(
        session: &Session,
        device: &Device,
        points: &[&Point],
        updates: Updates,
    ) -> Result<Self, Fault> {
        let cycles = points.iter().map(|point| point.property.collect_cycle).filter(|cycle| !cycle.is_zero());
        let interval = cycles.min().unwrap_or(Duration::from_secs(1)).clamp(INTERVALS.0, INTERVALS.1);
        let keep_alive = u32::try_from(KEEP_ALIVE.as_millis() / interval.as_millis().max(1)).unwrap_or(1).max(1);
        let ended = Arc::<AtomicBool>::default();
        let names = points.iter().map(|point| point.name().to_owned()).collect();
        let receiver = Receiver { names, updates: updates.clone(), ended: Arc::clone(&ended) };
        let lifetime = keep_alive.saturating_mul(LIFETIME);
        let inner = session.inner();
        let created = inner.create_subscription(interval, lifetime, keep_alive, MAX_VALUES, 0, true, receiver).await;
        let id = created.map_err(|error| fault(&session.cause(error)))?;
        // The server may have another idea of all this.
        let revised = inner
            .subscription_state()
            .lock()
            .get(id)
            .map(|state| state.publishing_interval().saturating_mul(state.max_keep_alive_count()).max(KEEP_ALIVE));
        let silence = revised.unwrap_or(KEEP_ALIVE) * PATIENCE + device.protocol.timeout;
        let (until_ended, told) = (session.until_ended(), updates.clone());
        let watch = tokio::spawn(async move { told.lost(until_ended.await) });
        let mut subscription = Self { id, watch, updates, ended, begun: Instant::now(), silence, missing: Vec::new() };
        subscription.add(session, points, (0..points.len()).collect()).await?;
        Ok(subscription)
    }

    /// Adds items for points; those that the server does not take are bad, and `missing`.
    async fn add(&mut self, session: &Session, points: &[&Point], mut indexes: Vec<usize>) -> Result<(), Fault> {
        while !indexes.is_empty() {
            let later = indexes.split_off(indexes.len().min(session.max_items));
            let batch: Vec<(usize, &&Point, MonitoredItemCreateRequest)> = indexes
                .iter()
                .filter_map(|index| {
                    let point = points.get(*index)?;
                    match item(session, point, *index) {
                        Ok(item) => Some((*index, point, item)),
                        Err(problem) => {
                            self.miss(*index, point, &problem);
                            None
                        }
                    }
                })
                .collect();
            let requests: Vec<_> = batch.iter().map(|(.., item)| item.clone()).collect();
            if !requests.is_empty() {
                let created =
                    session.inner().create_monitored_items(self.id, TimestampsToReturn::Source, requests).await;
                let results = created.map_err(|error| fault(&session.cause(error)))?;
                for ((index, point, _), created) in batch.iter().zip(results) {
                    let code = created.result.status_code;
                    if code.is_bad() {
                        self.miss(*index, point, &status(code));
                    }
                }
            }
            indexes = later;
        }
        Ok(())
    }

    fn miss(&mut self, index: usize, point: &Point, problem: &str) {
        self.missing.push(index);
        self.updates.put(point.name(), Sample::bad(problem));
    }

    /// Whether it is still alive; asks again for the nodes that were not there.
    pub(crate) async fn check(&mut self, session: &Session, device: &Device) -> Result<(), Fault> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(Fault::Lost(ENDED.to_owned()));
        }
        let silent = session.silent_for().min(self.begun.elapsed());
        if silent > self.silence {
            return Err(Fault::Lost(format!("the server said nothing of its subscriptions for {silent:?}")));
        }
        let missing = std::mem::take(&mut self.missing);
        if missing.is_empty() {
            return Ok(());
        }
        let points: Vec<&Point> = device.points.iter().collect();
        self.add(session, &points, missing).await
    }

    /// Ends it.
    pub(crate) async fn delete(self, session: &Session) {
        if let Err(error) = session.inner().delete_subscription(self.id).await {
            tracing::debug!(%error, "the subscription did not end politely");
        }
    }
}

fn item(session: &Session, point: &Point, index: usize) -> Result<MonitoredItemCreateRequest, String> {
    let node = point.visitor.node.resolve(&session.namespaces)?;
    let parameters = MonitoringParameters {
        client_handle: u32::try_from(index + 1).map_err(|_| StatusCode::BadTooManyMonitoredItems.to_string())?,
        sampling_interval: point.property.collect_cycle.as_secs_f64() * 1000.0,
        queue_size: 1,
        discard_oldest: true,
        ..MonitoringParameters::default()
    };
    Ok(MonitoredItemCreateRequest::new(node.into(), MonitoringMode::Reporting, parameters))
}
