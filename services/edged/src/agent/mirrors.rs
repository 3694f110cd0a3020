//! Static pods and the mirror pods that show them in the API. Part of [`super`].
//!
//! A mirror pod is created when it is missing, and deleted when its static pod is gone or has changed;
//! then the tombstone makes it missing again. Invariants: nothing is concluded before all files were
//! read and the list of pods is complete; a static pod runs whatever becomes of its mirror.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skerry_common::{Key, kinds};
use skerry_hubclient::Report;

use super::Agent;
use crate::pod::spec::PodExt;
use crate::static_pods;

impl Agent {
    /// The files were read.
    pub(super) fn take_static(&mut self, pods: Vec<Pod>) {
        let effects = self.context.objects.set_statics(pods);
        for effect in effects {
            self.effect(effect, false);
        }
        self.mirror_all();
    }

    pub(super) fn mirror_all(&self) {
        for key in self.context.objects.static_and_mirror_keys() {
            self.mirror(&key);
        }
    }

    pub(super) fn mirror(&self, key: &Key) {
        let objects = &self.context.objects;
        if !objects.statics_known() || !objects.in_sync(kinds::POD) {
            return;
        }
        let report = |kind, uid: &str, body| {
            self.context.outbox.put(Report { kind, key: key.clone(), uid: uid.to_owned(), body });
        };
        match (objects.static_pod(key), objects.mirror(key)) {
            (Some(pod), None) => {
                if let Ok(body) = serde_json::to_vec(&static_pods::mirror_of(&pod)) {
                    report(kinds::MIRROR_POD, pod.uid(), body.into());
                }
            }
            (Some(pod), Some(mirror)) if mirror.of == pod.uid() && !mirror.deleted => {
                // It is there: now the status has a place.
                if let Some(running) = self.workers.get(pod.uid()) {
                    running.handle.control.send_modify(|c| c.repeat += 1);
                }
            }
            (_, Some(mirror)) => report(kinds::POD_DELETION, &mirror.uid, bytes::Bytes::new()),
            (None, None) => {}
        }
    }

    /// Whether another pod of the same name from a file still ends.
    pub(super) fn same_name_ends(&self, pod: &Pod) -> bool {
        static_pods::is_from_file(pod)
            && self.workers.values().any(|running| {
                let other = &running.handle.control.borrow().pod;
                (other.namespace(), other.name()) == (pod.namespace(), pod.name()) && other.uid() != pod.uid()
            })
    }

    /// A pod is gone from this node: another one may have waited for its name.
    pub(super) fn start_waiting_statics(&mut self) {
        for pod in self.context.objects.statics() {
            if !self.workers.contains_key(pod.uid()) {
                self.consider(Arc::clone(&pod));
            }
        }
    }
}
