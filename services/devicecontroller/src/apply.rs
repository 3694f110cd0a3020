//! Brings one report of a node about its devices into the Kubernetes API.
//!
//! Called by the sink's lanes. Order of checks: names and size, the fence, the rate of the node, the
//! authorizer, then the API. A report about a device of another node, or about an earlier device of the name,
//! is rejected. Values that come too soon after the last are answered with retry-later: they wait on the node,
//! where the newest replaces them, and nothing waits here.
//!
//! A desired value that was set on the node is written when the cloud's value is still the one that it was
//! set over, or an earlier one of the node; otherwise the cloud's, which is newer, stays. The answer is written into
//! the Device too ([`skerry_common::desired`]), in one write with the value: the node learns it with the value that
//! goes with it, and a report that comes twice is not taken twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::api::DynamicObject;
use serde_json::Value;
use skerry_common::desired::{ANSWERS, Answers};
use skerry_common::{Key, NodeName, kinds};
use skerry_k8s_types::{Device, DeviceModel, DeviceStatusFields};
use skerry_kubesync::{
    ApiError, Applied, Apply, Cache, Confirmer, Decision, Job, Kind, KubeApi, Observer as _, Other, RatePerKey,
    Refused, SESSION, Sessions, Tell, Verb, authorize, prove,
};

use crate::known::{Known, typed};
use crate::metrics::Metrics;
use crate::told::Told;
use crate::value;
use crate::writer::{Report, Updated, Writer, with_desired};

/// Reports a second of one node, in the long run and at once: a node with a thousand devices reports each of
/// them when it comes back, and then each at most once in ten seconds.
const NODE_PER_SECOND: u32 = 200;
const NODE_BURST: u32 = 2_000;

/// Attempts against concurrent writers of a Device.
const ATTEMPTS: usize = 4;

/// Longest id of a write, and most earlier ones that a report names: a node names fewer.
const MAX_ID: usize = 64;
const MAX_EARLIER: usize = 16;

/// Where EdgeController keeps the newest session of each node.
pub(crate) const LEASES: &str = "kube-node-lease";

/// Nodes whose session is remembered as proven; beyond it they are proven again.
const REMEMBERED: usize = 100_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Applier {
    pub(crate) api: KubeApi,
    pub(crate) cache: Cache,
    pub(crate) confirmer: Confirmer,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) known: Arc<Known>,
    pub(crate) writer: Arc<Writer>,
    pub(crate) tell: Tell,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) nodes: RatePerKey<NodeName>,
    /// Sessions that were compared with the node's Lease.
    pub(crate) proven: Mutex<HashMap<NodeName, u64>>,
}

/// The rate of each node.
pub(crate) fn rate() -> RatePerKey<NodeName> {
    RatePerKey::new(NODE_PER_SECOND, NODE_BURST)
}

impl Apply for Applier {
    fn kinds(&self) -> &'static [&'static str] {
        &kinds::DEVICE_REPORTS
    }

    async fn apply(&self, job: &Job) -> Applied {
        let applied = match self.admit(job).await {
            Ok(()) if job.kind == kinds::DEVICE_STATUS => self.status(job).await,
            Ok(()) => self.desired(job).await,
            Err(refused) => Err(refused),
        };
        applied.unwrap_or_else(|answer| answer)
    }

    /// A desired value was set by a person, who looks at the device.
    fn rejected(&self, job: &Job, reason: &str) {
        if job.kind != kinds::DEVICE_DESIRED {
            return;
        }
        let device = job.body.get("device").and_then(Value::as_str).unwrap_or_default();
        let key = Key::new(job.key.namespace.clone(), device);
        if self.cache.bound(&key).is_some_and(|(_, facts)| facts.node == job.node) {
            let property = job.body.get("property").and_then(Value::as_str).unwrap_or_default();
            let message =
                format!("the value of {property} that was set on the node {} is not taken: {reason}", job.node);
            self.tell.warn(&job.node, Kind::Device, &key, "DesiredNotTaken", &message);
        }
    }
}

impl Applier {
    async fn admit(&self, job: &Job) -> Result<(), Applied> {
        if self.sessions.admit(&job.node, job.session).is_err() {
            return Err(Applied::stale());
        }
        if let Err(after) = self.nodes.take(&job.node) {
            return Err(Applied::Later { after, reason: format!("more than {NODE_PER_SECOND} reports a second") });
        }
        if self.proven().get(&job.node) == Some(&job.session) {
            return Ok(());
        }
        // Another replica may have met a newer session: EdgeController has written it down.
        let lease = self.api.get(Other::Lease, &Key::new(LEASES, job.node.as_str())).await.map_err(failed)?;
        let annotations = lease.and_then(|lease| lease.metadata.annotations).unwrap_or_default();
        if let Some(newest) = annotations.get(SESSION).and_then(|session| session.parse().ok()) {
            self.sessions.seed(&job.node, newest);
        }
        if !self.sessions.is_current(&job.node, job.session) {
            return Err(Applied::stale());
        }
        let mut proven = self.proven();
        if proven.len() >= REMEMBERED {
            proven.clear();
        }
        proven.insert(job.node.clone(), job.session);
        Ok(())
    }

    fn proven(&self) -> std::sync::MutexGuard<'_, HashMap<NodeName, u64>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the node may do this with the device, and whether it is the device that the node means.
    async fn allowed(&self, job: &Job, verb: Verb, key: &Key, uid: &str) -> Result<(), Applied> {
        if self.cache.bound(key).is_none_or(|(known, _)| &*known != uid) {
            prove(&self.confirmer, Kind::Device, key).await.map_err(failed)?;
        }
        match authorize(&job.node, verb, Kind::Device, key, &self.cache) {
            Decision::Deny(reason) => {
                let key = key.to_string();
                let refused = Refused { node: job.node.as_str(), what: job.kind, key: &key, reason };
                skerry_telemetry::emit(refused, &self.metrics.sync);
                return Err(Applied::rejected(format!("denied: {reason}")));
            }
            Decision::Unknown => return Err(Applied::rejected("there is no such device, or it has no node")),
            Decision::Allow => {}
        }
        match self.cache.bound(key) {
            Some((known, _)) if &*known == uid => Ok(()),
            _ => Err(Applied::rejected("the device was deleted and another has its name")),
        }
    }

    async fn status(&self, job: &Job) -> Result<Applied, Applied> {
        let uid = uid(job)?;
        self.allowed(job, Verb::UpdateStatus, &job.key, uid).await?;
        let status = job.body.get("status").cloned().unwrap_or_default();
        let fields: DeviceStatusFields = serde_json::from_value(status)
            .map_err(|e| Applied::rejected(format!("the status is not readable: {e}")))?;
        let told = Told::new(job.node.as_str(), &fields.conditions);
        if !self.sessions.is_current(&job.node, job.session) {
            return Err(Applied::stale());
        }
        match self.writer.update(&job.key, Some(&Report { told, fields })).await.map_err(failed)? {
            Updated::Done => Ok(Applied::Committed),
            Updated::TooSoon(after) => {
                self.metrics.coalesced.inc();
                Ok(Applied::Later { after, reason: "values of the device were written a moment ago".to_owned() })
            }
            Updated::Gone => Ok(Applied::rejected("there is no such device")),
        }
    }

    async fn desired(&self, job: &Job) -> Result<Applied, Applied> {
        let wish = Wish::read(job)?;
        let uid = uid(job)?;
        self.allowed(job, Verb::SetDesired, &wish.device, uid).await?;
        let model = self.known.device(&wish.device).and_then(|seen| seen.model);
        for _ in 0..ATTEMPTS {
            let found = self.api.get(Kind::Device, &wish.device).await.map_err(failed)?;
            let Some(object) = found else { return Err(Applied::rejected("there is no such device")) };
            let device: Device = typed(&object).ok_or_else(|| Applied::rejected("the Device is not readable"))?;
            if device.spec.node_name != job.node.as_str() || device.metadata.uid != uid {
                return Err(Applied::rejected("the device is no longer the node's"));
            }
            if device.property(wish.property).is_none() {
                // Nor has the node, when it hears of it.
                return Err(Applied::rejected(format!("the device has no property {:?}", wish.property)));
            }
            let answers = answers(&object);
            if let Some(answer) = answers.get(wish.property).filter(|answer| answer.id == wish.id) {
                // A second time: the node was cut off before it heard.
                return answer
                    .refused
                    .as_ref()
                    .map_or(Ok(Applied::Committed), |why| Err(Applied::rejected(why.clone())));
            }
            let verdict = wish.judge(&device, model.as_deref());
            let Some(object) = wish.answered(object, answers, &verdict) else {
                return verdict.map(|_| Applied::Committed).map_err(Applied::rejected);
            };
            if !self.sessions.is_current(&job.node, job.session) {
                return Err(Applied::stale());
            }
            match self.api.replace(Kind::Device, &wish.device, &object).await {
                Ok(object) => {
                    self.known.seen(Kind::Device, &wish.device, Some(&object));
                    if verdict.map_err(Applied::rejected)? == Verdict::Write {
                        let message =
                            format!("the desired value of {} was set on the node {}", wish.property, job.node);
                        self.tell.note(&job.node, Kind::Device, &wish.device, "DesiredSetOnNode", &message);
                    }
                    return Ok(Applied::Committed);
                }
                Err(ApiError::Conflict(_) | ApiError::NotFound) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(Applied::failed(&ApiError::Conflict("the Device".to_owned())))
    }
}

/// What becomes of a desired value that is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is written.
    Write,
    /// The cloud wants the same.
    Same,
}

/// A desired value that was set on a node, as it is reported.
#[derive(Debug)]
struct Wish<'j> {
    device: Key,
    property: &'j str,
    value: Option<&'j str>,
    base: &'j str,
    earlier: Vec<&'j str>,
    /// Empty: its node is older than answers are.
    id: &'j str,
}

impl<'j> Wish<'j> {
    fn read(job: &'j Job) -> Result<Self, Applied> {
        let text = |field: &str| job.body.get(field).and_then(Value::as_str);
        let property = text("property").ok_or_else(|| Applied::rejected("the report names no property"))?;
        let base = text("base").ok_or_else(|| Applied::rejected("the report has no base"))?;
        let device = Key::checked(&job.key.namespace, text("device").unwrap_or_default());
        let device = device.map_err(|e| Applied::rejected(format!("device: {e}")))?;
        let id = text("id").unwrap_or_default();
        if id.len() > MAX_ID {
            return Err(Applied::rejected(format!("an id has at most {MAX_ID} characters")));
        }
        let earlier = job.body.get("earlier").and_then(Value::as_array).into_iter().flatten();
        let earlier = earlier.filter_map(Value::as_str).take(MAX_EARLIER).collect();
        Ok(Self { device, property, value: text("value"), base, earlier, id })
    }

    /// Whether it is taken.
    fn judge(&self, device: &Device, model: Option<&DeviceModel>) -> Result<Verdict, String> {
        if let (Some(model), Some(wanted)) = (model.and_then(|model| model.property(self.property)), self.value) {
            value::check(model, wanted)?;
        }
        let property = device.property(self.property);
        let now = property.and_then(|property| property.desired.as_ref()).map(|desired| desired.value.as_str());
        if now == self.value {
            return Ok(Verdict::Same);
        }
        let version = kinds::desired_base(now);
        if version != self.base && !self.earlier.contains(&version.as_str()) {
            return Err("the desired value was changed in the cloud meanwhile, which is newer".to_owned());
        }
        Ok(Verdict::Write)
    }

    /// The Device with the answer, and with the value when it is taken; `None`: there is nothing to write.
    fn answered(
        &self,
        object: DynamicObject,
        mut answers: Answers,
        verdict: &Result<Verdict, String>,
    ) -> Option<DynamicObject> {
        let mut object = match verdict {
            Ok(Verdict::Write) => with_desired(object, self.property, self.value)?,
            _ if self.id.is_empty() => return None,
            _ => object,
        };
        if !self.id.is_empty() {
            answers.put(self.property, self.id, verdict.as_ref().err().map(String::as_str));
            object.metadata.annotations.get_or_insert_default().insert(ANSWERS.to_owned(), answers.text());
        }
        Some(object)
    }
}

fn answers(object: &DynamicObject) -> Answers {
    let annotation = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ANSWERS));
    annotation.map(|text| Answers::parse(text)).unwrap_or_default()
}

fn failed(error: ApiError) -> Applied {
    Applied::failed(&error)
}

/// The uid of the device that is meant.
fn uid(job: &Job) -> Result<&str, Applied> {
    let own = job.body.get("metadata").and_then(|meta| meta.get("uid")).and_then(Value::as_str).unwrap_or_default();
    match (job.uid.as_str(), own) {
        ("", "") => Err(Applied::rejected("the report names no uid")),
        ("", uid) | (uid, "") => Ok(uid),
        (a, b) if a == b => Ok(a),
        _ => Err(Applied::rejected("the report names two uids")),
    }
}
