//! `Sink` for the services of the node: a report is committed when it is in the outbox, on disk.
//!
//! From there EdgeHub brings it to the cloud, at least once. When the store is full the reporter is
//! asked to come again later; nothing is acknowledged that is not there.

use std::sync::Arc;

use skerry_common::kinds;
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::report_request::Message as Up;
use skerry_proto::sync::v1::report_response::Message as M;
use skerry_proto::sync::v1::sink_server::Sink;
use skerry_store::{Report, StoreError};
use skerry_sync::IncomingReport;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::link::Link;
use crate::local_source::welcome;
use crate::upreports::Outbox;

/// Outcomes that wait for a reporter.
const OUTCOME_QUEUE: usize = 64;

/// When a reporter shall come again after the store was full.
const FULL_RETRY_MS: u64 = 5000;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct LocalSink {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) link: Arc<Link>,
}

type Answer = Result<pb::ReportResponse, Status>;

#[tonic::async_trait]
impl Sink for LocalSink {
    type ReportStream = ReceiverStream<Answer>;

    async fn report(
        &self,
        request: Request<Streaming<pb::ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let (answers, queue) = mpsc::channel(OUTCOME_QUEUE);
        let sink = self.clone();
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            tokio::select! {
                served = sink.serve(&mut incoming, &answers) => {
                    if let Err(status) = served {
                        let _ = answers.send(Err(status)).await;
                    }
                }
                () = answers.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

impl LocalSink {
    async fn serve(
        &self,
        incoming: &mut Streaming<pb::ReportRequest>,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<(), Status> {
        let hello = skerry_rpc::hello(incoming, |first| match first.message {
            Some(Up::Hello(hello)) => Some(hello),
            _ => None,
        });
        let Some(hello) = hello.await? else { return Ok(()) };
        let mut next = M::Welcome(welcome(&hello)?);
        loop {
            if answers.send(Ok(pb::ReportResponse { message: Some(next) })).await.is_err() {
                return Ok(());
            }
            let report = loop {
                match incoming.message().await? {
                    Some(pb::ReportRequest { message: Some(Up::Report(report)) }) => break report,
                    Some(pb::ReportRequest { message: Some(Up::Hello(_)) }) => {
                        return Err(Status::invalid_argument("hello may come only once"));
                    }
                    // A message of a newer service.
                    Some(pb::ReportRequest { message: None }) => {}
                    None => return Ok(()),
                }
            };
            let id = report.id;
            let result = Some(self.take(report).await?);
            next = M::Outcome(pb::Outcome { id, node: String::new(), result });
        }
    }

    async fn take(&self, report: pb::Report) -> Result<pb::outcome::Result, Status> {
        use pb::outcome::Result as R;
        let report = match IncomingReport::from_wire(report) {
            Ok(report) => report,
            Err(error) => return Ok(R::Rejected(pb::Rejected { reason: error.to_string() })),
        };
        if !kinds::is_report(&report.kind) {
            let reason = format!("no sink takes reports of the kind {:?}", report.kind);
            return Ok(R::Rejected(pb::Rejected { reason }));
        }
        let coalesce = kinds::coalesces(&report.kind);
        let put = self.outbox.put(Report {
            kind: report.kind.into(),
            key: report.key,
            uid: report.uid.into(),
            body: report.body,
            encoding: report.encoding,
            coalesce,
            observed_ms: u64::try_from(report.observed_unix_ms).unwrap_or(0),
            traceparent: report.traceparent.into(),
        });
        match put.await {
            Ok(()) => Ok(R::Committed(pb::Committed {})),
            Err(error @ (StoreError::Full { .. } | StoreError::Busy)) => {
                let reason = error.to_string();
                self.link.store_problem(&reason);
                Ok(R::RetryLater(pb::RetryLater { after_ms: FULL_RETRY_MS, reason }))
            }
            Err(error @ StoreError::TooLarge { .. }) => Ok(R::Rejected(pb::Rejected { reason: error.to_string() })),
            Err(error) => Err(Status::unavailable(format!("the report was not stored: {error}"))),
        }
    }
}
