//! `Sink` as a node sees it: its reports, relayed to the sinks of their kinds.
//!
//! As in [`crate::node_source`], one value per stream without a task of its own. The stream ends when
//! the connection to a sink is lost, since outcomes would be missing; the node opens it again and
//! repeats what it has not seen committed.

use std::sync::Arc;

use futures::stream;
use prost::Message as _;
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::sink_server::Sink;
use skerry_telemetry::emit;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use crate::events::Refused;
use crate::node_source::{Caller, Refusal, Shared};
use crate::report_lane::{Place, ToReporter};
use crate::sessions::Attached;

/// Outcomes that wait for one node; more than a node has reports in flight.
const OUTCOME_QUEUE: usize = 128;

/// How long a node shall wait before it repeats a report whose sink is not connected.
const RETRY_AFTER_MS: u64 = 1000;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct NodeSink(pub(crate) Arc<Shared>);

type Answer = Result<pb::ReportResponse, Status>;

#[tonic::async_trait]
impl Sink for NodeSink {
    type ReportStream = stream::BoxStream<'static, Answer>;

    async fn report(
        &self,
        request: Request<Streaming<pb::ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let caller = Caller::of(&request)?;
        let stream = ReportStream::new(self.0.clone(), caller, request.into_inner());
        Ok(Response::new(Box::pin(stream::unfold(stream, |mut stream| async move {
            let answer = stream.next().await?;
            Some((answer, stream))
        }))))
    }
}

struct ReportStream {
    shared: Arc<Shared>,
    caller: Option<Caller>,
    attached: Option<Attached>,
    places: Vec<Place>,
    incoming: Streaming<pb::ReportRequest>,
    to_node: mpsc::Sender<ToReporter>,
    queue: mpsc::Receiver<ToReporter>,
    ended: bool,
}

impl ReportStream {
    fn new(shared: Arc<Shared>, caller: Caller, incoming: Streaming<pb::ReportRequest>) -> Self {
        let (to_node, queue) = mpsc::channel(OUTCOME_QUEUE);
        Self {
            shared,
            caller: Some(caller),
            attached: None,
            places: Vec::new(),
            incoming,
            to_node,
            queue,
            ended: false,
        }
    }

    async fn next(&mut self) -> Option<Answer> {
        if self.ended {
            return None;
        }
        if let Some(caller) = self.caller.take() {
            return self.hello(&caller).await;
        }
        loop {
            if self.queue.is_empty() && self.places.iter().any(Place::lost) {
                return self.fail(Status::unavailable("outcomes of this stream were lost; report again"));
            }
            tokio::select! {
                Some(outcome) = self.queue.recv() => {
                    // Without a result it is no outcome, only a reason to look again.
                    if outcome.result.is_some() {
                        return Some(Ok(answer(pb::report_response::Message::Outcome(*outcome))));
                    }
                }
                message = self.incoming.message() => match message {
                    Ok(Some(pb::ReportRequest { message: Some(pb::report_request::Message::Report(report)) })) => {
                        if let Some(answer) = self.report(report).await {
                            return Some(answer);
                        }
                    }
                    // A message of a newer node.
                    Ok(Some(pb::ReportRequest { message: None })) => {}
                    Ok(Some(_)) => return self.fail(Status::invalid_argument("hello may come only once")),
                    Ok(None) | Err(_) => return None,
                }
            }
        }
    }

    async fn hello(&mut self, caller: &Caller) -> Option<Answer> {
        let hello = skerry_rpc::hello(&mut self.incoming, |first| match first.message {
            Some(pb::report_request::Message::Hello(hello)) => Some(hello),
            _ => None,
        });
        let hello = match hello.await {
            Ok(hello) => hello?,
            Err(status) => return self.fail(status),
        };
        match caller.attach(&self.shared, &hello) {
            Ok((attached, welcome)) => {
                self.attached = Some(attached);
                Some(Ok(answer(pb::report_response::Message::Welcome(welcome))))
            }
            Err(refusal) => match *refusal {
                Refusal::Status(status) => self.fail(status),
                Refusal::Stale(newest) => self.fail(Status::aborted(format!("session {newest} of this node is newer"))),
            },
        }
    }

    async fn report(&mut self, mut report: pb::Report) -> Option<Answer> {
        let session = self.attached.as_ref()?.session.clone();
        if !report.node.is_empty() && report.node != session.node.as_str() {
            emit(Refused { node: &session.node, reason: "other node in report" }, &self.shared.metrics);
            return self.fail(Status::permission_denied("a node may report only for itself"));
        }
        let id = report.id;
        let Some(up) = self.shared.routes.up(&report.kind) else {
            let reason = format!("no sink takes reports of the kind {:?}", report.kind);
            return Some(Ok(outcome(id, pb::outcome::Result::Rejected(pb::Rejected { reason }))));
        };
        // A node has a stream for urgent reports and one for the others: each takes the places that it uses.
        if !self.places.iter().any(|place| place.is_on(&up.lane)) {
            self.places.push(up.lane.register(session.node.as_str(), self.to_node.clone()));
        }
        let bytes = report.encoded_len();
        session.usage.up(up.kind, bytes);
        self.shared.totals.up(up.kind, bytes);
        self.shared.metrics.reports.inc();
        report.node = session.node.to_string();
        report.session = session.number;
        let request = pb::ReportRequest { message: Some(pb::report_request::Message::Report(report)) };
        let sent = match up.lane.sender() {
            Some(sender) => sender.send(request).await.is_ok(),
            None => false,
        };
        if sent {
            return None;
        }
        let reason = "the sink is not connected".to_owned();
        let later = pb::RetryLater { after_ms: RETRY_AFTER_MS, reason };
        Some(Ok(outcome(id, pb::outcome::Result::RetryLater(later))))
    }

    fn fail(&mut self, status: Status) -> Option<Answer> {
        self.ended = true;
        Some(Err(status))
    }
}

fn answer(message: pb::report_response::Message) -> pb::ReportResponse {
    pb::ReportResponse { message: Some(message) }
}

fn outcome(id: u64, result: pb::outcome::Result) -> pb::ReportResponse {
    answer(pb::report_response::Message::Outcome(pb::Outcome { id, node: String::new(), result: Some(result) }))
}
