//! Reports out: one stream that empties the outbox.
//!
//! Invariants: a report is forgotten only when EdgeHub has it, or refused it for good; then the service is
//! told. Limits: those of the outbox, and [`WINDOW_REPORTS`] in flight. A stream that ends is opened again.

use std::time::Duration;

use skerry_common::{Backoff, COMPRESS_ABOVE, chain};
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::sink_client::SinkClient;
use skerry_rpc::limits::SYNC_MESSAGE_BYTES;
use skerry_sync::limits::WINDOW_REPORTS;
use skerry_sync::{Outcome, Reporter, Settled};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::error::{Error, protocol, status};
use crate::{Client, Outbox, RETRY_MAX, RETRY_MIN, Report, SEND_QUEUE, now_ms};

/// Reports looked up at a time.
const OFFER: usize = 256;
/// Time for the last reports at a stop; see [`Outbox::flushed`].
pub const FLUSH: Duration = Duration::from_secs(2);

/// Keeps reporting until it is dropped. `refused` hears of reports that will never be taken, and why.
pub async fn report(client: Client, outbox: Outbox, refused: impl Fn(&Report, &str) + Send) {
    let mut reporter = Reporter::new(WINDOW_REPORTS);
    let mut offered = 0;
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        let error = match stream_reports(&client, &outbox, &refused, &mut reporter, &mut offered, &mut backoff).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        reporter.disconnected();
        tracing::debug!(error = chain(&error), "reporting to edgehub ended");
        tokio::time::sleep(backoff.jittered()).await;
    }
}

async fn stream_reports(
    client: &Client,
    outbox: &Outbox,
    refused: &(impl Fn(&Report, &str) + Send),
    reporter: &mut Reporter,
    offered: &mut u64,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, Error> {
    let ended = |_| Error::Hub("the stream ended".into());
    let (tx, rx) = mpsc::channel(SEND_QUEUE);
    let first = pb::ReportRequest { message: Some(pb::report_request::Message::Hello(client.hello())) };
    tx.send(first).await.map_err(ended)?;
    let mut sink = SinkClient::new(client.channel.clone()).max_decoding_message_size(SYNC_MESSAGE_BYTES);
    let mut answers = sink.report(ReceiverStream::new(rx)).await.map_err(status)?.into_inner();
    loop {
        for id in outbox.take_superseded() {
            reporter.superseded(id);
        }
        for (id, _) in outbox.after(*offered, OFFER) {
            *offered = id;
            reporter.offer(id);
        }
        let now = u64::try_from(now_ms()).unwrap_or_default();
        while let Some(id) = reporter.next(now) {
            let Some(message) = encode(outbox, id) else {
                // Replaced since it was offered.
                reporter.superseded(id);
                reporter.outcome(id, Outcome::Committed, now);
                continue;
            };
            tx.send(message).await.map_err(ended)?;
        }
        let wait = reporter.wake_at().map_or(RETRY_MAX, |at| Duration::from_millis(at.saturating_sub(now)));
        tokio::select! {
            () = outbox.changed() => {}
            () = tokio::time::sleep(wait) => {}
            answer = answers.message() => {
                let Some(answer) = answer.map_err(status)? else {
                    return Err(Error::Hub("edgehub ended the stream".into()));
                };
                backoff.reset();
                let Some(pb::report_response::Message::Outcome(outcome)) = answer.message else { continue };
                let (id, outcome) = Outcome::from_wire(outcome).map_err(protocol)?;
                settle(outbox, refused, reporter.outcome(id, outcome, now));
            }
        }
    }
}

fn settle(outbox: &Outbox, refused: &impl Fn(&Report, &str), settled: Settled) {
    match settled {
        Settled::Remove(id) => outbox.remove(id),
        Settled::Rejected(id, reason) => {
            let report = outbox.get(id);
            outbox.remove(id);
            let Some(report) = report else { return };
            tracing::warn!(kind = report.kind, key = %report.key, reason, "report refused");
            refused(&report, &reason);
        }
        Settled::Later { .. } | Settled::Ignored(_) => {}
    }
}

fn encode(outbox: &Outbox, id: u64) -> Option<pb::ReportRequest> {
    let report = outbox.get(id)?;
    let compressed = (report.body.len() > COMPRESS_ABOVE).then(|| zstd::bulk::compress(&report.body, 0).ok()).flatten();
    let (encoding, body) = match compressed {
        Some(body) => (pb::Encoding::Zstd, body.into()),
        None => (pb::Encoding::Identity, report.body),
    };
    Some(pb::ReportRequest {
        message: Some(pb::report_request::Message::Report(pb::Report {
            id,
            node: String::new(),
            session: 0,
            kind: report.kind.to_owned(),
            key: Some(skerry_sync::wire::key_to_wire(&report.key)),
            uid: report.uid,
            encoding: encoding.into(),
            body,
            observed_unix_ms: now_ms(),
            traceparent: skerry_telemetry::trace::traceparent(),
        })),
    })
}
