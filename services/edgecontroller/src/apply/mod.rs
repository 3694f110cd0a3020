//! Brings one report into the Kubernetes API.
//!
//! Called by the sink's lanes. Order of checks: names and size, the fence, the authorizer, then the API;
//! what cannot be decided from the cache is asked of the API server. A report is committed only when the
//! API has it (N7), or when there is nothing left that it could change (its pod is gone).
//! Limits: [`Applier`]'s rates towards the API. Every step may
//! be repeated: after a cut the same report comes again.

mod event;
mod mirror;
mod node;
mod pod;
mod status;

pub(crate) use status::Written;

use std::sync::Arc;

use skerry_common::{Key, NodeName, kinds};
use skerry_kubesync::{
    Applied, Apply, Cache, Confirmer, Decision, Job, Kind, KubeApi, RateLimit, RatePerKey, Refused, Sessions, Subs,
    Tell, Verb, authorize, prove,
};

use crate::lease::{EnsureError, LeaseKeeper};
use crate::metrics::Metrics;
use crate::revive::Revive;

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

/// See the module.
#[derive(Debug)]
pub(crate) struct Applier {
    pub(crate) api: KubeApi,
    pub(crate) cache: Cache,
    pub(crate) subs: Arc<Subs>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) leases: Arc<LeaseKeeper>,
    pub(crate) confirmer: Confirmer,
    pub(crate) tell: Tell,
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

impl Apply for Applier {
    fn kinds(&self) -> &'static [&'static str] {
        &kinds::REPORTS
    }

    async fn apply(&self, job: &Job) -> Applied {
        match self.admit(job).await {
            Ok(()) => self.dispatch(job).await,
            Err(refused) => refused,
        }
    }

    /// On the pod or node that it is about.
    fn rejected(&self, job: &Job, reason: &str) {
        let own = Key::new("", job.node.as_str());
        let pod = matches!(job.kind, kinds::POD_STATUS | kinds::POD_DELETION)
            && self.cache.bound(&job.key).is_some_and(|(_, facts)| facts.node == job.node);
        let (kind, key) = if pod { (Kind::Pod, &job.key) } else { (Kind::Node, &own) };
        let message = format!("{} of {}: {reason}", job.kind, job.key);
        self.tell.warn(&job.node, kind, key, "ReportRejected", &message);
    }
}

impl Applier {
    /// The fence: no write for a session before the API knows it, and none for an older one.
    async fn admit(&self, job: &Job) -> Result<(), Applied> {
        if self.sessions.admit(&job.node, job.session).is_err() {
            return Err(Applied::stale());
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
            Err(EnsureError::Stale(_)) => Err(Applied::stale()),
            Err(EnsureError::Api(error)) => Err(Applied::failed(&error)),
        }
    }

    async fn dispatch(&self, job: &Job) -> Applied {
        match job.kind {
            kinds::NODE_REGISTRATION => self.register_node(job).await,
            kinds::NODE_STATUS => self.node_status(job).await,
            kinds::POD_STATUS => self.pod_status(job).await,
            kinds::POD_DELETION => self.pod_deletion(job).await,
            kinds::MIRROR_POD => self.mirror_pod(job).await,
            _ => self.event(job).await,
        }
    }

    /// Waits for the rate, then checks the fence once more: the wait may have been long.
    async fn turn(&self, rate: &RateLimit, job: &Job) -> Result<(), Applied> {
        rate.acquire().await;
        if self.sessions.is_current(&job.node, job.session) { Ok(()) } else { Err(Applied::stale()) }
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
                skerry_telemetry::emit(refused, &self.metrics.sync);
                Err(Applied::rejected(format!("denied: {reason}")))
            }
        }
    }

    /// Asks the API server about one object now.
    async fn prove(&self, kind: Kind, key: &Key) -> Result<bool, Applied> {
        self.statuses.acquire().await;
        prove(&self.confirmer, kind, key).await.map_err(|error| Applied::failed(&error))
    }
}
