//! Which pods the node takes. Part of [`super`].
//!
//! A pod that an earlier agent has taken is not asked about again. A new one waits until the list of
//! pods is complete, for a moment at most, so that those taken before count first; and a refusal counts
//! when it still holds after [`PATIENCE`], because what would change it (a label of the Node, the end of
//! another pod) may be on its way. A critical pod for which there is no room ends others and waits for that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skerry_common::kinds;
use tokio::time::Instant;

use super::Agent;
use crate::admission::{self, Candidate};
use crate::pod::checkpoint;
use crate::pod::spec::PodExt;
use crate::pod::worker::Control;
use crate::volumes::PodDir;

/// See above; objects of different kinds travel on streams of their own.
const PATIENCE: Duration = Duration::from_secs(2);

impl Agent {
    /// Starts the worker of a pod that has none, or lets the pod wait.
    pub(super) fn consider(&mut self, pod: Arc<Pod>) {
        let uid = pod.uid().to_owned();
        if self.same_name_ends(&pod) {
            // A static pod whose file changed: its former self goes first.
            return;
        }
        let since = *self.waiting.entry(uid.clone()).or_insert_with(Instant::now);
        let waits = since.elapsed() < PATIENCE;
        let taken = is_deleted(&pod)
            || self.present.borrow().contains(&uid)
            || checkpoint::exists(&PodDir::new(&self.context.root, &uid));
        if !taken && waits && !self.context.objects.in_sync(kinds::POD) {
            return;
        }
        let failure = if taken { None } else { self.ask(&pod, |candidate| admission::admit(candidate).err()) };
        if failure.is_some() && waits {
            return;
        }
        if failure.is_some() && self.make_room(&pod) {
            // It is asked about again when those that make way had a moment to end.
            self.waiting.insert(uid, Instant::now());
            return;
        }
        self.waiting.remove(&uid);
        self.spawn(pod, false, failure);
    }

    /// Looks again at all that wait.
    pub(super) fn reconsider(&mut self) {
        let uids: Vec<String> = self.waiting.keys().cloned().collect();
        for uid in uids {
            match self.context.objects.pod(&uid) {
                Some(pod) => self.consider(pod),
                None => drop(self.waiting.remove(&uid)),
            }
        }
    }

    /// When the first of those that wait has waited for long enough.
    pub(super) fn reconsider_at(&self) -> Option<Instant> {
        self.waiting.values().min().map(|since| *since + PATIENCE)
    }

    /// What admission says about a pod.
    fn ask<T>(&self, pod: &Pod, question: impl FnOnce(&Candidate<'_>) -> T) -> T {
        let taken = self.workers.iter().filter(|(uid, _)| *uid != pod.uid() && !self.context.statuses.ended(uid));
        let others: Vec<Arc<Pod>> = taken
            .filter_map(|(_, running)| {
                let control = running.handle.control.borrow();
                let refused = control.failure.as_ref().is_some_and(|failure| failure.refused);
                (!refused).then(|| Arc::clone(&control.pod))
            })
            .collect();
        let facts = self.context.learned().facts;
        let node = self.context.objects.node();
        question(&Candidate {
            pod,
            others: &others,
            node: node.as_deref(),
            node_name: &self.context.node,
            allocatable: &facts.allocatable,
            kernel: &self.context.kernel,
            pressure: *self.context.pressure.borrow(),
            going_down: *self.context.going_down.borrow(),
        })
    }

    /// Ends pods so that a critical one fits; false when that does not help.
    fn make_room(&self, pod: &Pod) -> bool {
        let ending = |control: &Control| control.gone || control.failure.is_some() || is_deleted(&control.pod);
        let all = self.workers.iter().filter(|(_, running)| ending(&running.handle.control.borrow()));
        let ending: BTreeSet<String> = all.map(|(uid, _)| uid.clone()).collect();
        let Some(victims) = self.ask(pod, |candidate| admission::victims(candidate, &ending)) else { return false };
        for victim in victims {
            tracing::info!(pod = %victim.full_name(), critical = %pod.full_name(), "preempting pod");
            self.fail(victim.uid(), admission::preempted());
        }
        true
    }
}

fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}
