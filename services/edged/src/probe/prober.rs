//! Asks the probes of one pod.
//!
//! The pod's worker owns it and tells it at every turn what runs ([`Prober::look`]); it gets the newest
//! results back and is woken when they change. A pod without probes has no task; one with probes has one,
//! which sleeps until the next question is due, and one more for each question that is open. Questions about
//! a container that is gone are dropped, and with the prober all of them, so nothing is left of a pod that
//! ended or an agent that stops. Limits: one open question per probe; a question that cannot be asked is
//! asked [`TRIES`] times at once, within its timeout, and then forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use prometheus_client::encoding::EncodeLabelSet;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::machine::{Kind, Known, Machine, Ms, Question, Running, timeout};
use super::results::Results;
use crate::context::{Context, now_ms};
use crate::events::{self, Subject};
use crate::handler::{self, Action, Outcome, Purpose, Target};
use crate::pod::observed::{Observed, State};
use crate::pod::spec::{PodExt, RestartPolicy, is_sidecar};

/// As the kubelet: what could not be asked may be a moment's trouble.
const TRIES: u32 = 3;

/// Labels of the metric `prober_probe`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ProbeLabels {
    pub(crate) probe_type: &'static str,
    pub(crate) result: &'static str,
}

/// See the module documentation.
pub(crate) struct Prober {
    context: Arc<Context>,
    shared: Arc<Shared>,
    /// Woken when results change.
    moved: Arc<Notify>,
    /// Empty until there is something to probe; ends with this value.
    task: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Asked>,
    changed: Notify,
}

#[derive(Default)]
struct Asked {
    machine: Machine,
    pod: Arc<Pod>,
    pod_ip: String,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prober {
    pub(crate) fn new(context: Arc<Context>, moved: Arc<Notify>) -> Self {
        Self { context, shared: Arc::default(), moved, task: JoinSet::new() }
    }

    /// Takes what runs now and gives the results for it. `known` is the status that was reported last, also
    /// by an earlier process.
    pub(crate) fn look(&mut self, pod: &Arc<Pod>, seen: &Observed, ending: bool, known: Option<&PodStatus>) -> Results {
        let probed = pod.containers().iter().chain(pod.init_containers().iter().filter(|c| is_sidecar(c)));
        let mut probed = probed.filter(|c| Machine::concerns(c)).peekable();
        if probed.peek().is_none() {
            return Results::default();
        }
        if let Some(Err(error)) = self.task.try_join_next()
            && error.is_panic()
        {
            // A probe that fell silent would be worse than an agent that starts again.
            std::panic::resume_unwind(error.into_panic());
        }
        let (now, clock) = (since(self.context.started), now_ms());
        let sandbox = seen.ready_sandbox();
        let running: Vec<Running<'_>> = probed
            .filter_map(|spec| {
                let seen = seen.latest(&spec.name).filter(|c| c.state == State::Running)?;
                sandbox.filter(|s| s.id == seen.sandbox_id)?;
                Some(Running {
                    spec,
                    id: &seen.id,
                    // By the node's clock, which may have jumped: at least it has begun.
                    begun: now.saturating_sub(clock.saturating_sub(seen.started_ms).max(0)),
                    restarts: is_sidecar(spec) || pod.restart_policy() != RestartPolicy::Never,
                    known: known.and_then(|status| known_of(status, &seen.id)),
                })
            })
            .collect();
        let results = {
            let mut asked = self.shared.lock();
            asked.machine.see(&running, ending, now);
            asked.pod = Arc::clone(pod);
            asked.pod_ip = match sandbox {
                _ if pod.host_network() => self.context.learned().facts.host_ips.into_iter().next(),
                sandbox => sandbox.and_then(|s| s.ips.first().cloned()),
            }
            .unwrap_or_default();
            asked.machine.results()
        };
        if self.task.is_empty() {
            let (context, shared, moved) =
                (Arc::clone(&self.context), Arc::clone(&self.shared), Arc::clone(&self.moved));
            self.task.spawn(ask(context, shared, moved));
        }
        self.shared.changed.notify_one();
        results
    }
}

fn since(start: Instant) -> Ms {
    Ms::try_from(start.elapsed().as_millis()).unwrap_or(Ms::MAX)
}

fn known_of(status: &PodStatus, id: &str) -> Option<Known> {
    let mut all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let same = |full: &String| full.rsplit_once("://").is_some_and(|(_, own)| own == id);
    let found = all.find(|c| c.container_id.as_ref().is_some_and(same))?;
    Some(Known { started: found.started.unwrap_or(false), ready: found.ready })
}

/// The task: asks what is due, takes what is answered.
async fn ask(context: Arc<Context>, shared: Arc<Shared>, moved: Arc<Notify>) {
    let mut open: BTreeMap<Question, AbortHandle> = BTreeMap::new();
    let mut answers = JoinSet::new();
    loop {
        let wake = {
            let mut asked = shared.lock();
            open.retain(|question, task| {
                let wanted = asked.machine.wants(question);
                if !wanted {
                    task.abort();
                    // For a container that runs on it is as if it had not been asked.
                    asked.machine.heard(question, None);
                }
                wanted
            });
            let (questions, wake) = asked.machine.due(since(context.started));
            for question in questions {
                let (pod, ip) = (Arc::clone(&asked.pod), asked.pod_ip.clone());
                let task = answers.spawn(answer(Arc::clone(&context), pod, ip, question.clone()));
                open.insert(question, task);
            }
            wake
        };
        let due = async {
            match wake.and_then(|at| u64::try_from(at).ok()) {
                Some(at) => tokio::time::sleep_until(context.started + Duration::from_millis(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.changed.notified() => {}
            () = due => {}
            Some(done) = answers.join_next() => {
                let (question, answer) = match done {
                    Ok(answered) => answered,
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    // Dropped, since nobody wants it any more.
                    Err(_) => continue,
                };
                open.remove(&question);
                if shared.lock().machine.heard(&question, answer) {
                    moved.notify_one();
                }
            }
        }
    }
}

/// Asks one question; `None`: it could not be asked.
async fn answer(context: Arc<Context>, pod: Arc<Pod>, pod_ip: String, question: Question) -> (Question, Option<bool>) {
    let containers = pod.containers().iter().chain(pod.init_containers());
    let Some(container) = containers.into_iter().find(|c| c.name == question.container) else {
        return (question, None);
    };
    let Some(probe) = question.kind.of(container) else { return (question, None) };
    let target = Target { cri: &context.cri, container_id: &question.container_id, container, pod_ip: &pod_ip };
    let mut outcome = Outcome::Unknown("missing probe handler".into());
    if let Some(action) = Action::of_probe(probe) {
        let began = Instant::now();
        for _ in 0..TRIES {
            outcome = handler::run(target, action, Purpose::Probe, timeout(probe)).await;
            if !matches!(outcome, Outcome::Unknown(_)) || began.elapsed() >= timeout(probe) {
                break;
            }
        }
    }
    let answer = tell(&context, &Subject::container(&pod, &container.name), question.kind, outcome);
    (question, answer)
}

/// Counts and records the outcome; what it means for the machine.
fn tell(context: &Context, subject: &Subject, kind: Kind, outcome: Outcome) -> Option<bool> {
    let name = kind.name();
    let warn = |reason, message: String| context.events.record(subject, events::Kind::Warning, reason, &message);
    let (answer, result) = match outcome {
        Outcome::Success => (Some(true), "successful"),
        Outcome::Warning(text) => {
            warn("ProbeWarning", format!("{name} probe warning: {text}"));
            (Some(true), "successful")
        }
        Outcome::Failure(text) => {
            warn("Unhealthy", format!("{name} probe failed: {text}"));
            (Some(false), "failed")
        }
        Outcome::Unknown(text) => {
            warn("Unhealthy", format!("{name} probe errored and resulted in unknown state: {text}"));
            (None, "unknown")
        }
    };
    context.metrics.probes.get_or_create(&ProbeLabels { probe_type: name, result }).inc();
    answer
}
