//! The outbox, and the streams that empty it.
//!
//! A report enters with [`Outbox::put`], which returns when it is on disk, and leaves when the cloud
//! has committed or rejected it. Reports that are never urgent (Events, values of devices) have a stream of
//! their own, so that the others never wait for them. A stream exists only while there is something to
//! report: an idle node costs the hub less. It ends with its session, and everything in flight is pending
//! again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use skerry_common::kinds;
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::report_request::Message as Up;
use skerry_proto::sync::v1::report_response::Message as M;
use skerry_proto::sync::v1::sink_client::SinkClient;
use skerry_store::{Report, Store, StoreError};
use skerry_sync::{Outcome, Reporter, Settled};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::downlink::sleep_until;
use crate::error::SessionError;
use crate::metrics::Metrics;
use crate::uplink::{Session, agent};

/// Reports that wait for the stream.
const REPORT_QUEUE: usize = 16;

/// Reports that are read from the store at a time when the process starts.
const LOAD_BATCH: usize = 1000;

/// The stream is closed when nothing was reported for so long.
const IDLE: Duration = Duration::from_secs(5);

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Outbox {
    urgent: Lane,
    bulk: Lane,
}

/// The reports of one stream.
#[derive(Debug)]
struct Lane {
    store: Store,
    reporter: Mutex<Reporter>,
    changed: Notify,
    started: Instant,
    metrics: Metrics,
}

impl Outbox {
    /// Reads which reports wait.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn load(store: Store, metrics: Metrics) -> Result<Arc<Self>, StoreError> {
        let outbox =
            Self { urgent: Lane::new(store.clone(), metrics.clone()), bulk: Lane::new(store.clone(), metrics) };
        let mut after = 0;
        loop {
            let page = store.pending(after, LOAD_BATCH).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            for pending in &page {
                outbox.lane(&pending.report.kind).lock().offer(pending.id);
            }
        }
        Ok(Arc::new(outbox))
    }

    fn lane(&self, kind: &str) -> &Lane {
        if kinds::is_bulk_report(kind) { &self.bulk } else { &self.urgent }
    }

    /// Takes a report; it is durable when this returns.
    ///
    /// # Errors
    /// When it could not be written.
    pub(crate) async fn put(&self, report: Report) -> Result<(), StoreError> {
        let lane = self.lane(&report.kind);
        let put = lane.store.enqueue(report).await?;
        let mut reporter = lane.lock();
        if let Some(older) = put.superseded {
            reporter.superseded(older);
        }
        reporter.offer(put.id);
        drop(reporter);
        lane.changed.notify_one();
        Ok(())
    }

    /// How many reports wait.
    pub(crate) fn len(&self) -> usize {
        self.urgent.lock().len() + self.bulk.lock().len()
    }

    /// Empties the outbox over one session, until the session ends.
    pub(crate) async fn run(&self, session: &Session) -> Result<std::convert::Infallible, SessionError> {
        tokio::select! {
            ended = self.urgent.run(session) => ended,
            ended = self.bulk.run(session) => ended,
        }
    }
}

impl Lane {
    fn new(store: Store, metrics: Metrics) -> Self {
        let reporter = Mutex::new(Reporter::new(skerry_sync::limits::WINDOW_REPORTS));
        Self { store, reporter, changed: Notify::new(), started: Instant::now(), metrics }
    }

    async fn run(&self, session: &Session) -> Result<std::convert::Infallible, SessionError> {
        // Whatever was in flight on an earlier session is pending again, also when this is cancelled.
        let _reset = Reset(self);
        loop {
            let Some(first) = self.next() else {
                let wake = self.wake_at();
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(wake) => {}
                }
                continue;
            };
            self.stream(session, first).await?;
            self.lock().disconnected();
        }
    }

    /// One stream, from its first report until there was nothing to report for a while.
    async fn stream(&self, session: &Session, first: u64) -> Result<(), SessionError> {
        let (reports, queue) = mpsc::channel(REPORT_QUEUE);
        let _ = reports.try_send(request(Up::Hello(session.hello())));
        let mut client = SinkClient::new(session.channel())
            .max_decoding_message_size(skerry_rpc::limits::SYNC_MESSAGE_BYTES)
            .max_encoding_message_size(skerry_rpc::limits::SYNC_MESSAGE_BYTES);
        let (mut stream, answer) = skerry_rpc::begin(client.report(ReceiverStream::new(queue))).await?;
        match answer.and_then(|answer| answer.message) {
            Some(M::Welcome(welcome)) => skerry_sync::version::welcomed(&agent(), &welcome)?,
            _ => return Err(SessionError::Unexpected { got: "another message", expected: "welcome" }),
        };
        let mut reports = Some(reports);
        let mut due = Some(first);
        loop {
            if let Some(sender) = &reports {
                while let Some(id) = due.take().or_else(|| self.next()) {
                    if let Some(message) = self.read(id).await? {
                        let sent = sender.send(request(Up::Report(message))).await;
                        sent.map_err(|_| SessionError::Ended("the stream takes no more".to_owned()))?;
                    }
                }
            }
            let idle = self.lock().in_flight_len() == 0 && reports.is_some();
            tokio::select! {
                message = stream.message() => match message? {
                    Some(pb::ReportResponse { message: Some(M::Outcome(outcome)) }) => {
                        let mut outcomes = vec![outcome];
                        // Those that are here already leave the outbox in one transaction.
                        while let Some(Ok(Some(pb::ReportResponse { message: Some(M::Outcome(next)) }))) =
                            stream.message().now_or_never()
                        {
                            outcomes.push(next);
                        }
                        self.settle(outcomes).await?;
                    }
                    Some(pb::ReportResponse { message: Some(M::Welcome(_)) }) => {
                        return Err(SessionError::Unexpected { got: "another welcome", expected: "an outcome" });
                    }
                    // A message of a newer hub.
                    Some(_) => {}
                    // We ended it, or the hub did and everything in flight is pending again.
                    None => return Ok(()),
                },
                () = self.changed.notified(), if reports.is_some() => {}
                () = sleep_until(self.wake_at()), if reports.is_some() => {}
                () = tokio::time::sleep(IDLE), if idle => reports = None,
            }
        }
    }

    /// The next report to send.
    fn next(&self) -> Option<u64> {
        let now = self.now_ms();
        self.lock().next(now)
    }

    fn wake_at(&self) -> Option<Instant> {
        self.lock().wake_at().map(|at| self.started + Duration::from_millis(at))
    }

    async fn read(&self, id: u64) -> Result<Option<pb::Report>, SessionError> {
        let pending = self.store.pending(id.saturating_sub(1), 1).await?;
        let Some(report) = pending.into_iter().find(|pending| pending.id == id).map(|pending| pending.report) else {
            // Replaced or dropped while it waited here.
            self.lock().gone(id);
            return Ok(None);
        };
        Ok(Some(pb::Report {
            id,
            kind: report.kind.to_string(),
            key: Some(skerry_sync::wire::key_to_wire(&report.key)),
            uid: report.uid.to_string(),
            encoding: skerry_sync::wire::encoding_to_wire(report.encoding),
            body: report.body,
            observed_unix_ms: i64::try_from(report.observed_ms).unwrap_or(i64::MAX),
            traceparent: report.traceparent.to_string(),
            ..pb::Report::default()
        }))
    }

    async fn settle(&self, outcomes: Vec<pb::Outcome>) -> Result<(), SessionError> {
        let now = self.now_ms();
        let mut done = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            let (id, outcome) = Outcome::from_wire(outcome)?;
            let settled = self.lock().outcome(id, outcome, now);
            match settled {
                Settled::Remove(id) => {
                    self.metrics.reports_committed.inc();
                    done.push(id);
                }
                Settled::Rejected(id, reason) => {
                    self.metrics.reports_rejected.inc();
                    tracing::warn!(id, reason, "the cloud rejected a report");
                    done.push(id);
                }
                Settled::Later { .. } | Settled::Ignored(_) => {}
            }
        }
        Ok(self.store.remove(&done).await?)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Reporter> {
        self.reporter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reset<'a>(&'a Lane);

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        self.0.lock().disconnected();
    }
}

fn request(message: Up) -> pb::ReportRequest {
    pb::ReportRequest { message: Some(message) }
}
