//! What the runtime or the disk has of pods that do not exist any more. Part of [`super`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skerry_common::{Key, kinds};

use super::Agent;
use crate::objects::uid_is_safe;
use crate::pod::spec::PodExt;
use crate::pod::{clean, labels};
use crate::static_pods;

/// A group that did not change for so long belongs to no start.
const CGROUP_AGE: Duration = Duration::from_secs(10);

impl Agent {
    /// Ends what the runtime or the disk has of pods that do not exist any more.
    pub(super) async fn find_orphans(&mut self) {
        if !self.listed || !self.context.objects.in_sync(kinds::POD) {
            return;
        }
        let present = self.present.borrow().clone();
        for uid in &present {
            let known = self.workers.contains_key(uid) || self.context.objects.pod(uid).is_some();
            if known || !uid_is_safe(uid) {
                continue;
            }
            match self.pod_from_runtime(uid).await {
                // It came from a file; before all files were read nobody knows whether it still does.
                Ok(Some(pod)) if static_pods::is_from_file(&pod) && !self.context.objects.statics_known() => {}
                Ok(Some(pod)) => {
                    tracing::info!(pod = %pod.full_name(), "pod was deleted while nobody looked; ending it");
                    self.spawn(Arc::new(pod), true, None);
                }
                Ok(None) => {}
                // The next list tries again.
                Err(status) => tracing::debug!(uid, code = ?status.code(), "cannot look at an orphan"),
            }
        }
        self.remove_directories(&present);
    }

    /// As much of a pod as its labels in the runtime tell.
    async fn pod_from_runtime(&self, uid: &str) -> Result<Option<Pod>, tonic::Status> {
        let sandboxes = self.context.cri.sandboxes(Some(uid)).await?;
        let annotations = sandboxes.iter().flat_map(|s| s.annotations.clone()).collect();
        let containers = self.context.cri.containers(Some(uid)).await?;
        let grace =
            containers.iter().find_map(|c| c.annotations.get(labels::GRACE)).and_then(|g| g.parse::<i64>().ok());
        let mut all = sandboxes.iter().map(|s| &s.labels).chain(containers.iter().map(|c| &c.labels));
        let Some(found) = all.next() else { return Ok(None) };
        let text = |name: &str| -> String { found.get(name).cloned().unwrap_or_default() };
        let (namespace, name) = (text(labels::POD_NAMESPACE), text(labels::POD_NAME));
        // Names from the runtime become a path below the log directory.
        if Key::checked(&namespace, &name).is_err() {
            return Ok(None);
        }
        Ok(Some(Pod {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace),
                uid: Some(uid.to_owned()),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec { termination_grace_period_seconds: grace, ..PodSpec::default() }),
            status: None,
        }))
    }

    /// Directories of pods that neither exist nor run, for example after a loss of the runtime's state.
    fn remove_directories(&self, present: &BTreeSet<String>) {
        let objects = &self.context.objects;
        // Of a pod that has ended nothing runs, though it is still there to be looked at.
        self.context.cgroups.sweep(CGROUP_AGE, |uid| {
            let known = self.workers.contains_key(uid) || objects.pod(uid).is_some() || present.contains(uid);
            known && !self.context.statuses.ended(uid)
        });
        let Ok(entries) = std::fs::read_dir(self.context.root.join("pods")) else { return };
        for uid in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
            let known = self.workers.contains_key(&uid) || self.context.objects.pod(&uid).is_some();
            if known || present.contains(&uid) || !uid_is_safe(&uid) {
                continue;
            }
            let context = Arc::clone(&self.context);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = clean::clean_up(&context, &uid) {
                    tracing::warn!(uid, %error, "what a former pod left was not removed");
                }
            });
        }
    }
}
