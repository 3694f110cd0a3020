//! `Sink.Report`: the reports of many nodes over one stream from a hub.
//!
//! One task per stream. Reports go into lanes; a lane is served in order, lanes run beside each other, at
//! most [`PARALLEL`] at a time per stream. All Events of a node share a lane (their order counts), what
//! concerns one object shares a lane as well. The outcome of a report is sent only when the Kubernetes API
//! has answered.
//!
//! Limits: [`MAX_PER_LANE`] reports wait per lane and [`MAX_BYTES`] of bodies per stream; what is beyond is
//! answered with retry-later at once, so a flood of one node holds up nobody. On a crash or a broken stream
//! nothing is lost: what was not answered is reported again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use skerry_common::{drain, kinds};
use skerry_proto::sync::v1::sink_server::Sink;
use skerry_proto::sync::v1::{
    Committed, Outcome, Rejected, Report, ReportRequest, ReportResponse, RetryLater, outcome, report_request,
    report_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::metrics::Metrics;
use crate::report::{self, Applied, Apply};
use crate::service::HUB_SERVICE;
use crate::source::welcome;

/// Outcomes that wait in the channel to one hub.
const OUT_MESSAGES: usize = 256;

/// API writes at a time for one hub.
const PARALLEL: usize = 64;

/// How many of them may be Events, which have a lower rate: they must not take every place.
const PARALLEL_EVENTS: usize = 16;

/// Reports that wait in one lane: twice the window of a reporter.
const MAX_PER_LANE: usize = 128;

/// Bytes of bodies that wait for one hub.
const MAX_BYTES: usize = 64 << 20;

/// When to come back with a report for which there was no room.
const NO_ROOM_RETRY: Duration = Duration::from_secs(1);

/// The lane of a node's Events.
const EVENT_LANE: u64 = 0;

/// Lanes of one node for objects; two objects that share one only wait for each other.
const OBJECT_LANES: u64 = 8;

/// See the module.
#[derive(Debug)]
pub struct SinkService<A> {
    /// The name of the service.
    pub service: &'static str,
    /// Brings reports into the API.
    pub applier: Arc<A>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The streams end with it.
    pub stop: drain::Watch,
}

impl<A> Clone for SinkService<A> {
    fn clone(&self) -> Self {
        let (applier, metrics) = (Arc::clone(&self.applier), Arc::clone(&self.metrics));
        Self { service: self.service, applier, metrics, stop: self.stop.clone() }
    }
}

type LaneId = (String, u64);
type Done = (LaneId, usize, Outcome);

#[derive(Default)]
struct Lanes {
    waiting: HashMap<LaneId, VecDeque<Report>>,
    /// Lanes with something to do that are not being served: of objects, and of Events.
    ready: VecDeque<LaneId>,
    ready_events: VecDeque<LaneId>,
    events_running: usize,
    /// Lanes that are being served.
    served: HashSet<LaneId>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    bytes: usize,
}

#[tonic::async_trait]
impl<A: Apply> Sink for SinkService<A> {
    type ReportStream = ReceiverStream<Result<ReportResponse, Status>>;

    async fn report(&self, request: Request<Streaming<ReportRequest>>) -> Result<Response<Self::ReportStream>, Status> {
        skerry_rpc::require_service(&request, &[HUB_SERVICE])?;
        let incoming = request.into_inner();
        let (tx, rx) = mpsc::channel(OUT_MESSAGES);
        let this = self.clone();
        tokio::spawn(async move { this.serve(incoming, tx).await });
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

impl<A: Apply> SinkService<A> {
    async fn serve(self, incoming: Streaming<ReportRequest>, tx: mpsc::Sender<Result<ReportResponse, Status>>) {
        let mut stop = self.stop.clone();
        let end = tokio::select! {
            end = self.work(incoming, &tx) => end,
            _guard = stop.stopped() => Err(Status::unavailable(format!("{} is stopping", self.service))),
        };
        if let Err(status) = end {
            tracing::info!(reason = status.message(), "sink stream ended");
            let _ = tx.try_send(Err(status));
        }
    }

    async fn work(
        &self,
        mut incoming: Streaming<ReportRequest>,
        tx: &mpsc::Sender<Result<ReportResponse, Status>>,
    ) -> Result<(), Status> {
        let hello = skerry_rpc::hello(&mut incoming, |first| match first.message {
            Some(report_request::Message::Hello(hello)) => Some(hello),
            _ => None,
        });
        let Some(hello) = hello.await? else { return Ok(()) };
        let welcome = report_response::Message::Welcome(welcome(self.service, &hello)?);
        if tx.send(Ok(ReportResponse { message: Some(welcome) })).await.is_err() {
            return Ok(());
        }
        let mut lanes = Lanes::default();
        let mut reading = true;
        while reading || !lanes.running.is_empty() || lanes.has_ready() {
            self.start(&mut lanes);
            let answer = tokio::select! {
                () = tx.closed() => return Ok(()),
                Some((lane, bytes, outcome)) = lanes.running.next() => {
                    lanes.done(lane, bytes);
                    Some(outcome)
                }
                request = incoming.message(), if reading => match request? {
                    Some(ReportRequest { message: Some(report_request::Message::Report(report)) }) => {
                        lanes.take(report)
                    }
                    Some(ReportRequest { message: Some(report_request::Message::Hello(_)) }) => {
                        return Err(Status::invalid_argument("hello came twice"));
                    }
                    // A message of a newer hub.
                    Some(ReportRequest { message: None }) => None,
                    None => {
                        reading = false;
                        None
                    }
                },
            };
            if let Some(outcome) = answer {
                let message = report_response::Message::Outcome(outcome);
                if tx.send(Ok(ReportResponse { message: Some(message) })).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Starts what may run.
    fn start(&self, lanes: &mut Lanes) {
        while lanes.running.len() < PARALLEL {
            let Some(lane) = lanes.next() else { return };
            let Some(report) = lanes.waiting.get_mut(&lane).and_then(VecDeque::pop_front) else { continue };
            lanes.served.insert(lane.clone());
            lanes.events_running += usize::from(lane.1 == EVENT_LANE);
            let (applier, metrics) = (Arc::clone(&self.applier), Arc::clone(&self.metrics));
            lanes.running.push(Box::pin(async move {
                let bytes = report.body.len();
                let (id, node) = (report.id, report.node.clone());
                let applied = report::apply(&*applier, &metrics, report).await;
                (lane, bytes, outcome(id, node, applied))
            }));
        }
    }
}

impl Lanes {
    /// Puts a report into its lane, or answers that there is no room.
    fn take(&mut self, report: Report) -> Option<Outcome> {
        let lane = (report.node.clone(), lane(&report));
        let queue = self.waiting.entry(lane.clone()).or_default();
        if queue.len() >= MAX_PER_LANE || self.bytes.saturating_add(report.body.len()) > MAX_BYTES {
            let later = Applied::Later { after: NO_ROOM_RETRY, reason: "too many reports wait".to_owned() };
            return Some(outcome(report.id, report.node, later));
        }
        self.bytes += report.body.len();
        let idle = queue.is_empty() && !self.served.contains(&lane);
        queue.push_back(report);
        if idle {
            self.wait(lane);
        }
        None
    }

    fn wait(&mut self, lane: LaneId) {
        if lane.1 == EVENT_LANE { self.ready_events.push_back(lane) } else { self.ready.push_back(lane) }
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.ready_events.is_empty()
    }

    /// The next lane to be served: objects first, they say what runs.
    fn next(&mut self) -> Option<LaneId> {
        let room = self.events_running < PARALLEL_EVENTS;
        self.ready.pop_front().or_else(|| if room { self.ready_events.pop_front() } else { None })
    }

    /// A report of the lane was answered.
    fn done(&mut self, lane: LaneId, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.served.remove(&lane);
        self.events_running = self.events_running.saturating_sub(usize::from(lane.1 == EVENT_LANE));
        if self.waiting.get(&lane).is_some_and(|queue| !queue.is_empty()) {
            self.wait(lane);
        } else {
            self.waiting.remove(&lane);
        }
    }
}

/// The lane of a report within its node.
fn lane(report: &Report) -> u64 {
    if report.kind == kinds::EVENT {
        return EVENT_LANE;
    }
    let mut hasher = DefaultHasher::new();
    if let Some(key) = &report.key {
        (&key.namespace, &key.name).hash(&mut hasher);
    }
    1 + hasher.finish() % OBJECT_LANES
}

fn outcome(id: u64, node: String, applied: Applied) -> Outcome {
    let result = match applied {
        Applied::Committed => outcome::Result::Committed(Committed {}),
        Applied::Rejected { reason } => outcome::Result::Rejected(Rejected { reason }),
        Applied::Later { after, reason } => outcome::Result::RetryLater(RetryLater {
            after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
            reason,
        }),
    };
    Outcome { id, node, result: Some(result) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use skerry_proto::sync::v1::Key;

    use super::*;

    fn report(node: usize, kind: &str, name: &str) -> Report {
        let key = Some(Key { namespace: "ns".to_owned(), name: name.to_owned() });
        let body = Bytes::from_static(b"{}");
        Report { node: format!("n{node}"), kind: kind.to_owned(), key, body, ..Report::default() }
    }

    fn serve(lanes: &mut Lanes) -> Option<LaneId> {
        let lane = lanes.next()?;
        lanes.waiting.get_mut(&lane)?.pop_front()?;
        lanes.served.insert(lane.clone());
        lanes.events_running += usize::from(lane.1 == EVENT_LANE);
        Some(lane)
    }

    #[test]
    fn a_lane_is_served_in_order_and_by_one() {
        let mut lanes = Lanes::default();
        for _ in 0..3 {
            assert!(lanes.take(report(1, kinds::POD_STATUS, "web")).is_none());
        }
        let lane = serve(&mut lanes).unwrap();
        assert!(serve(&mut lanes).is_none(), "the lane is being served");
        assert!(lanes.take(report(1, kinds::POD_STATUS, "web")).is_none());
        assert!(serve(&mut lanes).is_none());
        for _ in 0..3 {
            lanes.done(lane.clone(), 2);
            assert_eq!(serve(&mut lanes).unwrap(), lane);
        }
        lanes.done(lane, 2);
        assert!(!lanes.has_ready() && lanes.waiting.is_empty() && lanes.bytes == 0);
    }

    #[test]
    fn events_leave_room_for_statuses() {
        let mut lanes = Lanes::default();
        for node in 0..100 {
            assert!(lanes.take(report(node, kinds::EVENT, "e")).is_none());
        }
        let served = std::iter::from_fn(|| serve(&mut lanes)).count();
        assert_eq!(served, PARALLEL_EVENTS);
        assert!(lanes.take(report(0, kinds::NODE_STATUS, "n0")).is_none());
        assert!(serve(&mut lanes).is_some());
    }

    #[test]
    fn a_flood_of_one_node_is_postponed() {
        let mut lanes = Lanes::default();
        let answers = (0..MAX_PER_LANE + 10).filter_map(|_| lanes.take(report(1, kinds::EVENT, "e")));
        assert_eq!(answers.count(), 10);
        assert!(lanes.take(report(2, kinds::EVENT, "e")).is_none());
    }
}
