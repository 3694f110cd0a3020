//! Brings one report into the Kubernetes API.
//!
//! Called by the sink's lanes. Order of checks: names and size, the fence, the authorizer, then the API;
//! what cannot be decided from the cache is asked of the API server. A report is committed only when the
//! API has it (N7), or when there is nothing left that it could change (its pod is gone).
//! Limits: bodies of [`MAX_BODY`] after decompression, [`Applier`]'s rates towards the API. Every step may
//! be repeated: after a cut the same report comes again.

mod event;
mod mirror;
mod node;
mod pod;
mod status;

pub(crate) use status::Written;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use skerry_common::{Key, NodeName, kinds};
use skerry_proto::sync::v1::{Encoding, Report};
use tracing::Instrument as _;

use crate::api::{ApiError, KubeApi};
use crate::authorize::{Decision, Verb, authorize};
use crate::cache::Cache;
use crate::confirm::{Confirmer, prove};
use crate::kinds::Kind;
use crate::lease::{EnsureError, LeaseKeeper};
use crate::metrics::{KindLabel, Metrics, Refused};
use crate::rejections::{Rejections, cut};
use crate::revive::Revive;
use crate::sessions::Sessions;
use crate::subs::Subs;
use crate::work::{RateLimit, RatePerKey};

/// Largest body after decompression: what the API server takes in one request, doubled.
const MAX_BODY: usize = 3 << 20;

/// Status writes a second towards the API, over all nodes: what the robustness promise allows when ten
/// thousand nodes come back at once.
pub(crate) const STATUS_PER_SECOND: u32 = 200;

/// Status writes at once after a pause.
const STATUS_BURST: u32 = 100;

/// Event writes a second: a flood of Events must not hold up statuses.
const EVENTS_PER_SECOND: u32 = 50;
const EVENTS_BURST: u32 = 100;

/// Reports a second of one node, in the long run and at once: a node that restarts reports all its pods and
/// some Events; one that does more for long is broken or stolen, and must not take the rate of the others.
const NODE_PER_SECOND: u32 = 30;
const NODE_BURST: u32 = 500;

/// When to come back while the API cannot serve and says nothing about when.
const API_RETRY: Duration = Duration::from_secs(2);

/// When a report of a fenced session may come back: its node has a newer session by then.
const STALE_RETRY: Duration = Duration::from_secs(5);

/// Longest reason in an answer.
const MAX_REASON: usize = 512;

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Applied {
    Committed,
    Rejected { reason: String },
    Later { after: Duration, reason: String },
}

impl Applied {
    fn rejected(reason: impl Into<String>) -> Self {
        Self::Rejected { reason: reason.into() }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Applier {
    pub(crate) api: KubeApi,
    pub(crate) cache: Cache,
    pub(crate) subs: Arc<Subs>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) leases: Arc<LeaseKeeper>,
    pub(crate) confirmer: Confirmer,
    pub(crate) rejections: Rejections,
    pub(crate) revive: Revive,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) statuses: RateLimit,
    pub(crate) events: RateLimit,
    pub(crate) nodes: RatePerKey<NodeName>,
    pub(crate) written: Written,
}

/// The rates of an applier: statuses, Events, each node.
pub(crate) fn rates(status_per_second: u32) -> (RateLimit, RateLimit, RatePerKey<NodeName>) {
    let statuses = RateLimit::new(status_per_second, STATUS_BURST.min(status_per_second));
    let events = RateLimit::new(EVENTS_PER_SECOND, EVENTS_BURST);
    (statuses, events, RatePerKey::new(NODE_PER_SECOND, NODE_BURST))
}

/// A report whose form is good.
#[derive(Debug)]
struct Job {
    node: NodeName,
    session: u64,
    kind: &'static str,
    key: Key,
    uid: String,
    body: Value,
}

impl Applier {
    /// Applies one report. Never fails: every failure is an answer.
    pub(crate) async fn apply(&self, report: Report) -> Applied {
        let (raw, traceparent) = (report.body.clone(), report.traceparent.clone());
        let job = match parse(report) {
            Ok(job) => job,
            Err(reason) => {
                self.metrics.refuse("malformed_report");
                return Applied::rejected(reason);
            }
        };
        let label = KindLabel { kind: job.kind };
        self.metrics.reports.get_or_create(&label).inc();
        let span = tracing::info_span!("report", node = %job.node, kind = job.kind, key = %job.key);
        skerry_telemetry::trace::set_parent(&span, &traceparent);
        let applied = async {
            match self.admit(&job).await {
                Ok(()) => self.dispatch(&job, raw).await,
                Err(refused) => refused,
            }
        };
        let applied = applied.instrument(span).await;
        match &applied {
            Applied::Committed => drop(self.metrics.committed.get_or_create(&label).inc()),
            Applied::Later { reason, .. } => {
                self.metrics.retried.get_or_create(&label).inc();
                tracing::debug!(node = %job.node, kind = job.kind, key = %job.key, reason, "report postponed");
            }
            Applied::Rejected { reason } => {
                self.metrics.refuse("report");
                tracing::warn!(node = %job.node, kind = job.kind, key = %job.key, reason, "report rejected");
                self.tell(&job, reason);
            }
        }
        applied
    }

    /// The fence: no write for a session before the API knows it, and none for an older one.
    async fn admit(&self, job: &Job) -> Result<(), Applied> {
        if self.sessions.admit(&job.node, job.session).is_err() {
            return Err(stale());
        }
        if let Err(after) = self.nodes.take(&job.node) {
            let reason = format!("more than {NODE_PER_SECOND} reports a second");
            return Err(Applied::Later { after, reason });
        }
        if self.leases.is_durable(&job.node, job.session) {
            return Ok(());
        }
        // The write that makes a session durable counts as status traffic: when ten thousand nodes come back
        // at once, each has one.
        self.statuses.acquire().await;
        match self.leases.ensure(&job.node, job.session).await {
            Ok(()) => Ok(()),
            Err(EnsureError::Stale(_)) => Err(stale()),
            Err(EnsureError::Api(error)) => Err(self.failed(&error)),
        }
    }

    async fn dispatch(&self, job: &Job, raw: Bytes) -> Applied {
        match job.kind {
            kinds::NODE_REGISTRATION => self.register_node(job).await,
            kinds::NODE_STATUS => self.node_status(job, raw).await,
            kinds::POD_STATUS => self.pod_status(job).await,
            kinds::POD_DELETION => self.pod_deletion(job).await,
            kinds::MIRROR_POD => self.mirror_pod(job).await,
            _ => self.event(job).await,
        }
    }

    /// Waits for the rate, then checks the fence once more: the wait may have been long.
    async fn turn(&self, rate: &RateLimit, job: &Job) -> Result<(), Applied> {
        rate.acquire().await;
        if self.sessions.is_current(&job.node, job.session) { Ok(()) } else { Err(stale()) }
    }

    /// Asks the authorizer; what it does not know is looked up first.
    async fn allowed(&self, job: &Job, verb: Verb, kind: Kind, key: &Key) -> Result<(), Applied> {
        let mut decision = authorize(&job.node, verb, kind, key, &self.cache);
        if decision == Decision::Unknown {
            self.prove(kind, key).await?;
            decision = authorize(&job.node, verb, kind, key, &self.cache);
        }
        match decision {
            // Unknown after a proof: it does not exist. Whoever called decides what that means.
            Decision::Allow | Decision::Unknown => Ok(()),
            Decision::Deny(reason) => {
                let key = key.to_string();
                let refused = Refused { node: job.node.as_str(), what: job.kind, key: &key, reason };
                skerry_telemetry::emit(refused, &self.metrics);
                Err(Applied::rejected(format!("denied: {reason}")))
            }
        }
    }

    /// Asks the API server about one object now.
    async fn prove(&self, kind: Kind, key: &Key) -> Result<bool, Applied> {
        self.statuses.acquire().await;
        prove(&self.confirmer, kind, key).await.map_err(|error| self.failed(&error))
    }

    /// The answer for an error of the API.
    fn failed(&self, error: &ApiError) -> Applied {
        let reason = cut(&skerry_common::chain(error), MAX_REASON).to_owned();
        match error {
            ApiError::Unavailable { after, .. } => Applied::Later { after: after.unwrap_or(API_RETRY), reason },
            ApiError::Conflict(_) | ApiError::NotFound | ApiError::AlreadyExists => {
                Applied::Later { after: API_RETRY, reason }
            }
            ApiError::Refused { .. } | ApiError::UnsupportedPatch => Applied::Rejected { reason },
        }
    }

    /// Shows a rejection to the user, on the pod or node that it is about.
    fn tell(&self, job: &Job, reason: &str) {
        let own = Key::new("", job.node.as_str());
        let pod = matches!(job.kind, kinds::POD_STATUS | kinds::POD_DELETION)
            && self.cache.pod(&job.key).is_some_and(|(_, facts)| facts.node == job.node);
        let (kind, key) = if pod { (Kind::Pod, &job.key) } else { (Kind::Node, &own) };
        let message = format!("{} of {}: {reason}", job.kind, job.key);
        self.rejections.object(&job.node, kind, key, "ReportRejected", &message);
    }
}

fn stale() -> Applied {
    Applied::Later { after: STALE_RETRY, reason: "a newer session of the node exists".to_owned() }
}

/// Checks the form of a report.
fn parse(report: Report) -> Result<Job, String> {
    let node = NodeName::parse(&report.node).map_err(|e| format!("node: {e}"))?;
    if report.session == 0 {
        return Err("the session has no number".to_owned());
    }
    let kind =
        kinds::REPORTS.into_iter().find(|kind| *kind == report.kind).ok_or("this sink does not take the kind")?;
    let key = report.key.unwrap_or_default();
    let key = Key::checked(&key.namespace, &key.name).map_err(|e| format!("key: {e}"))?;
    let body = if report.body.is_empty() { Value::Null } else { decode(&report.body, report.encoding)? };
    Ok(Job { node, session: report.session, kind, key, uid: report.uid, body })
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
