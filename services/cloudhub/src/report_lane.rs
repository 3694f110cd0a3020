//! One stream of reports to a sink, shared by all nodes.
//!
//! A sink has two lanes, one for reports that are never urgent, so that what runs is not told late
//! because of them.
//!
//! The lane sends what nodes report and returns each outcome to the node that it belongs to. When
//! the stream breaks, the nodes' report streams on it end; a node reports again what it has not seen
//! committed, so nothing is kept here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skerry_common::Backoff;
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::sink_client::SinkClient;
use skerry_telemetry::Task;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::upstream::{self, Upstream};

/// Reports that wait for a sink, from all nodes together. Beyond it node streams wait.
const SINK_QUEUE: usize = 1024;

/// What waits for a node's report stream.
pub(crate) type ToReporter = Box<pb::Outcome>;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct ReportLane {
    source: String,
    channel: skerry_rpc::Channel,
    state: Mutex<State>,
    /// Until the sink was connected for the first time.
    pending: Mutex<Option<Task>>,
}

#[derive(Debug, Default)]
struct State {
    reports: Option<mpsc::Sender<pb::ReportRequest>>,
    routes: HashMap<Arc<str>, Registered>,
    next: u64,
}

#[derive(Debug)]
struct Registered {
    id: u64,
    to: mpsc::Sender<ToReporter>,
    lost: Arc<AtomicBool>,
}

/// A node's place on the lane; outcomes come as long as it lives.
#[derive(Debug)]
pub(crate) struct Place {
    lane: Arc<ReportLane>,
    node: Arc<str>,
    id: u64,
    lost: Arc<AtomicBool>,
}

impl ReportLane {
    pub(crate) fn new(source: &str, channel: skerry_rpc::Channel, pending: Task) -> Arc<Self> {
        let pending = Mutex::new(Some(pending));
        Arc::new(Self { source: source.to_owned(), channel, state: Mutex::default(), pending })
    }

    /// Sends the node's outcomes to `to` from now on. An older place of the same node gets no more.
    pub(crate) fn register(self: &Arc<Self>, node: &str, to: mpsc::Sender<ToReporter>) -> Place {
        let mut state = self.lock();
        state.next += 1;
        let (id, node, lost) = (state.next, Arc::<str>::from(node), Arc::<AtomicBool>::default());
        state.routes.insert(node.clone(), Registered { id, to, lost: lost.clone() });
        Place { lane: self.clone(), node, id, lost }
    }

    /// The way to the sink, while it is connected.
    pub(crate) fn sender(&self) -> Option<mpsc::Sender<pb::ReportRequest>> {
        self.lock().reports.clone()
    }

    fn deliver(&self, mut outcome: pb::Outcome) {
        let mut state = self.lock();
        let Some(route) = state.routes.get(outcome.node.as_str()) else { return };
        let node = std::mem::take(&mut outcome.node);
        // A node that does not take its outcomes reports again on a new stream.
        if route.to.try_send(Box::new(outcome)).is_err() {
            route.lost.store(true, Ordering::Relaxed);
            state.routes.remove(node.as_str());
        }
    }

    fn down(&self) {
        let mut state = self.lock();
        state.reports = None;
        for route in std::mem::take(&mut state.routes).into_values() {
            route.lost.store(true, Ordering::Relaxed);
            // Only to wake the stream; where the queue is full it is awake.
            let _ = route.to.try_send(Box::default());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream for ReportLane {
    async fn connect(&self, backoff: &mut Backoff) -> String {
        let (reports, queue) = mpsc::channel(SINK_QUEUE);
        let hello = pb::ReportRequest { message: Some(pb::report_request::Message::Hello(upstream::hello())) };
        if reports.try_send(hello).is_err() {
            return "the queue is closed".to_owned();
        }
        let mut client = SinkClient::new(self.channel.clone())
            .max_decoding_message_size(skerry_rpc::limits::SYNC_MESSAGE_BYTES)
            .max_encoding_message_size(skerry_rpc::limits::SYNC_MESSAGE_BYTES);
        let welcome = |first: pb::ReportResponse| match first.message {
            Some(pb::report_response::Message::Welcome(welcome)) => Some(welcome),
            _ => None,
        };
        let mut stream = match upstream::begin(client.report(ReceiverStream::new(queue)), welcome).await {
            Ok(stream) => stream,
            Err(reason) => return reason,
        };
        backoff.reset();
        self.lock().reports = Some(reports);
        drop(self.pending.lock().unwrap_or_else(PoisonError::into_inner).take());
        upstream::each(&mut stream, |response| {
            if let Some(pb::report_response::Message::Outcome(outcome)) = response.message {
                self.deliver(outcome);
            }
        })
        .await
    }

    fn ended(&self, reason: &str) {
        tracing::warn!(source = self.source, reason, "report stream ended");
        self.down();
    }
}

impl Place {
    /// Whether it is on this lane.
    pub(crate) fn is_on(&self, lane: &Arc<ReportLane>) -> bool {
        Arc::ptr_eq(&self.lane, lane)
    }

    /// Whether outcomes were lost, because the sink is gone or the node did not take them.
    pub(crate) fn lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.lane.lock();
        if state.routes.get(&self.node).is_some_and(|route| route.id == self.id) {
            state.routes.remove(&self.node);
        }
    }
}
