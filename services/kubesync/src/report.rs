//! What happens to one report: its form is checked, its controller applies it, and the outcome is counted.
//!
//! Called by the sink's lanes. A report is committed only when the API has it (N7), or when there is nothing
//! left that it could change. Limits: bodies of [`MAX_BODY`] after decompression. Every step may be repeated:
//! after a cut the same report comes again.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use skerry_common::{Key, NodeName};
use skerry_proto::sync::v1::{Encoding, Report};
use tracing::Instrument as _;

use crate::api::ApiError;
use crate::events::cut;
use crate::metrics::{KindLabel, Metrics};

/// Largest body after decompression: what the API server takes in one request, doubled.
const MAX_BODY: usize = 3 << 20;

/// When to come back while the API cannot serve and says nothing about when.
pub const API_RETRY: Duration = Duration::from_secs(2);

/// When a report of a fenced session may come back: its node has a newer session by then.
const STALE_RETRY: Duration = Duration::from_secs(5);

/// Longest reason in an answer.
const MAX_REASON: usize = 512;

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The API has it, or it matters no more.
    Committed,
    /// It will never be taken.
    Rejected {
        /// Why, for people.
        reason: String,
    },
    /// Not now.
    Later {
        /// When to come back.
        after: Duration,
        /// Why.
        reason: String,
    },
}

impl Applied {
    /// Refused for good.
    pub fn rejected(reason: impl Into<String>) -> Self {
        Self::Rejected { reason: reason.into() }
    }

    /// A newer session of the node exists.
    pub fn stale() -> Self {
        Self::Later { after: STALE_RETRY, reason: "a newer session of the node exists".to_owned() }
    }

    /// The answer for an error of the API.
    pub fn failed(error: &ApiError) -> Self {
        let reason = cut(&skerry_common::chain(error), MAX_REASON).to_owned();
        match error {
            ApiError::Unavailable { after, .. } => Self::Later { after: after.unwrap_or(API_RETRY), reason },
            ApiError::Conflict(_) | ApiError::NotFound | ApiError::AlreadyExists => {
                Self::Later { after: API_RETRY, reason }
            }
            ApiError::Refused { .. } | ApiError::UnsupportedPatch => Self::Rejected { reason },
        }
    }
}

/// A report whose form is good.
#[derive(Debug)]
pub struct Job {
    /// Who reports, by its certificate.
    pub node: NodeName,
    /// The session that it reports in.
    pub session: u64,
    /// One of [`Apply::kinds`].
    pub kind: &'static str,
    /// What it is about.
    pub key: Key,
    /// The uid of the object, as the node says; may be empty.
    pub uid: String,
    /// Null when there is none.
    pub body: Value,
    /// Bytes of the body as it came.
    pub size: usize,
}

/// Brings reports into the API.
pub trait Apply: std::fmt::Debug + Send + Sync + 'static {
    /// The kinds of reports that it takes.
    fn kinds(&self) -> &'static [&'static str];

    /// Applies one report. Never fails: every failure is an answer.
    fn apply(&self, job: &Job) -> impl Future<Output = Applied> + Send;

    /// Shows a rejection to the user.
    fn rejected(&self, job: &Job, reason: &str);
}

/// Checks a report, has it applied, and counts.
pub(crate) async fn apply<A: Apply>(applier: &A, metrics: &Metrics, report: Report) -> Applied {
    let traceparent = report.traceparent.clone();
    let job = match parse(report, applier.kinds()) {
        Ok(job) => job,
        Err(reason) => {
            metrics.refuse("malformed_report");
            return Applied::rejected(reason);
        }
    };
    let label = KindLabel { kind: job.kind };
    metrics.reports.get_or_create(&label).inc();
    let span = tracing::info_span!("report", node = %job.node, kind = job.kind, key = %job.key);
    skerry_telemetry::trace::set_parent(&span, &traceparent);
    let applied = applier.apply(&job).instrument(span).await;
    match &applied {
        Applied::Committed => drop(metrics.committed.get_or_create(&label).inc()),
        Applied::Later { reason, .. } => {
            metrics.retried.get_or_create(&label).inc();
            tracing::debug!(node = %job.node, kind = job.kind, key = %job.key, reason, "report postponed");
        }
        Applied::Rejected { reason } => {
            metrics.refuse("report");
            tracing::warn!(node = %job.node, kind = job.kind, key = %job.key, reason, "report rejected");
            applier.rejected(&job, reason);
        }
    }
    applied
}

/// Checks the form of a report.
fn parse(report: Report, kinds: &[&'static str]) -> Result<Job, String> {
    let node = NodeName::parse(&report.node).map_err(|e| format!("node: {e}"))?;
    if report.session == 0 {
        return Err("the session has no number".to_owned());
    }
    let kind = kinds.iter().copied().find(|kind| *kind == report.kind).ok_or("this sink does not take the kind")?;
    let key = report.key.unwrap_or_default();
    let key = Key::checked(&key.namespace, &key.name).map_err(|e| format!("key: {e}"))?;
    let size = report.body.len();
    let body = if report.body.is_empty() { Value::Null } else { decode(&report.body, report.encoding)? };
    Ok(Job { node, session: report.session, kind, key, uid: report.uid, body, size })
}

/// Decodes a body.
fn decode(body: &Bytes, encoding: i32) -> Result<Value, String> {
    match Encoding::try_from(encoding) {
        Ok(Encoding::Identity) if body.len() > MAX_BODY => Err(format!("the body is larger than {MAX_BODY} bytes")),
        Ok(Encoding::Identity) => serde_json::from_slice(body).map_err(|e| format!("the body is no JSON: {e}")),
        Ok(Encoding::Zstd) => {
            let plain = zstd::bulk::decompress(body, MAX_BODY)
                .map_err(|_| format!("the body is damaged or larger than {MAX_BODY} bytes"))?;
            serde_json::from_slice(&plain).map_err(|e| format!("the body is no JSON: {e}"))
        }
        _ => Err("the encoding is not known".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use skerry_common::kinds;

    use super::*;

    fn report() -> Report {
        Report {
            node: "edge-1".to_owned(),
            session: 1,
            kind: kinds::POD_STATUS.to_owned(),
            key: Some(skerry_proto::sync::v1::Key { namespace: "ns".to_owned(), name: "web".to_owned() }),
            encoding: Encoding::Identity as i32,
            body: Bytes::from_static(b"{}"),
            ..Report::default()
        }
    }

    #[test]
    fn malformed_reports_are_refused() {
        let parse = |report| parse(report, &[kinds::POD_STATUS]);
        assert!(parse(report()).is_ok());
        let bomb = zstd::bulk::compress(&vec![b' '; MAX_BODY + 1], 3).unwrap();
        let bad: Vec<Report> = vec![
            Report { node: "../x".to_owned(), ..report() },
            Report { node: String::new(), ..report() },
            Report { session: 0, ..report() },
            Report { kind: "Deployment".to_owned(), ..report() },
            Report { key: None, ..report() },
            Report { body: Bytes::from_static(b"{"), ..report() },
            Report { encoding: 0, ..report() },
            Report { encoding: 7, ..report() },
            Report { encoding: Encoding::Zstd as i32, ..report() },
            Report { encoding: Encoding::Zstd as i32, body: bomb.into(), ..report() },
            Report { body: "[".repeat(100_000).into(), ..report() },
        ];
        for report in bad {
            assert!(parse(report.clone()).is_err(), "{report:?}");
        }
    }
}
