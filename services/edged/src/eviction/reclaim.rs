//! Making room without ending a pod: images that nobody uses, and what ended pods still hold.
//!
//! Owned by the eviction's task, which calls it when a disk runs short, and every few minutes for the
//! images' own thresholds. Invariants: see [`crate::images::Ages`]; a dead container goes only when its
//! pod has ended: what remains of pods that run is bounded by their workers, and needed for
//! `logs --previous` and restart counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use skerry_proto::cri::v1::{Container, ContainerState, Image};
use tonic::Status;

use crate::context::Context;
use crate::events::{Kind, Subject};
use crate::images::{Ages, InUse, to_free};
use crate::node_config::NodeConfig;
use crate::pod::labels;
use crate::pod::spec::PodExt;
use crate::stats::Signals;
use crate::volumes::{self, PodDir};

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Reclaimer {
    ages: Ages,
}

/// Why images are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The images' own thresholds of fullness, or their age.
    Thresholds,
    /// The disk is short: all that nobody uses.
    Pressure,
}

impl Reclaimer {
    /// Removes images; bytes that this should have made free.
    ///
    /// # Errors
    /// The runtime's.
    pub(super) async fn images(
        &mut self,
        context: &Arc<Context>,
        config: &NodeConfig,
        signals: &Signals,
        why: Why,
        now: i64,
    ) -> Result<u64, Status> {
        let unused = self.ages.unused(context.cri.list_images().await?, &in_use(context).await?, now);
        let ms = |d: jiff::SignedDuration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        let (min_age, max_age) = (ms(config.image_minimum_gc_age), ms(config.image_maximum_gc_age));
        let fs = signals.image_fs.as_ref();
        let (capacity, available) = (fs.and_then(|f| f.capacity_bytes), fs.and_then(|f| f.available_bytes));
        let goal = match (why, capacity.zip(available)) {
            (Why::Pressure, _) => u64::MAX,
            (Why::Thresholds, Some((capacity, available))) => to_free(
                capacity,
                available,
                config.image_gc_high_threshold_percent,
                config.image_gc_low_threshold_percent,
            ),
            (Why::Thresholds, None) => 0,
        };
        let mut freed = 0_u64;
        let mut failed = 0_usize;
        for image in unused {
            let expired = self.ages.is_expired(&image, max_age, now);
            let wanted = freed < goal && self.ages.is_old(&image, min_age, now);
            if !expired && !wanted {
                continue;
            }
            match context.cri.remove_image(&image.id).await {
                Ok(()) => {
                    tracing::info!(image = name_of(&image), bytes = image.size, "unused image removed");
                    context.metrics.images_removed.inc();
                    freed = freed.saturating_add(image.size);
                }
                Err(status) => {
                    tracing::warn!(image = name_of(&image), code = ?status.code(), "unused image not removed");
                    failed += 1;
                }
            }
        }
        let node = Subject::node(&context.node);
        if failed > 0 {
            let message = format!("{failed} unused images could not be removed");
            context.events.record(&node, Kind::Warning, "ImageGCFailed", &message);
        }
        if why == Why::Thresholds && freed < goal {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {goal} bytes, but only found {freed} bytes eligible to free."
            );
            context.events.record(&node, Kind::Warning, "FreeDiskSpaceFailed", &message);
        }
        Ok(freed)
    }

    /// Removes what pods that have ended still hold: dead containers with their writable layers and
    /// logs, and emptyDirs.
    ///
    /// # Errors
    /// The runtime's, of the list; what cannot be removed is logged.
    pub(super) async fn ended_pods(&self, context: &Arc<Context>) -> Result<(), Status> {
        let pods = context.objects.pods();
        let mut ended: BTreeSet<&str> =
            pods.iter().map(|p| p.uid()).filter(|uid| context.statuses.ended(uid)).collect();
        let containers = context.cri.containers(None).await?;
        let uid = |c: &Container| c.labels.get(labels::POD_UID).cloned().unwrap_or_default();
        for alive in containers.iter().filter(|c| !is_dead(c)) {
            ended.remove(uid(alive).as_str());
        }
        for container in containers.iter().filter(|c| ended.contains(uid(c).as_str())) {
            if let Err(status) = context.cri.remove_container(&container.id).await {
                tracing::warn!(uid = uid(container), code = ?status.code(), "dead container not removed");
            }
        }
        let dirs: Vec<PodDir> = ended.into_iter().map(|uid| PodDir::new(&context.root, uid)).collect();
        let remove = move || {
            for dir in dirs {
                if let Err(error) = volumes::remove_empty_dirs(&dir) {
                    tracing::warn!(dir = %dir.path().display(), %error, "emptyDir of an ended pod not removed");
                }
            }
        };
        // Fails only when the agent stops.
        let _ = tokio::task::spawn_blocking(remove).await;
        Ok(())
    }
}

fn is_dead(container: &Container) -> bool {
    container.state == ContainerState::ContainerExited as i32
}

fn name_of(image: &Image) -> &str {
    image.repo_tags.first().or(image.repo_digests.first()).unwrap_or(&image.id)
}

async fn in_use(context: &Context) -> Result<InUse, Status> {
    let mut in_use = InUse::default();
    for container in context.cri.all_containers().await? {
        in_use.references.insert(container.image_ref);
        in_use.references.extend(container.image.map(|i| i.image));
    }
    // A pod of this node keeps its images also while nothing of it runs: at the edge it may not be
    // possible to fetch them again.
    for pod in context.objects.pods().iter().filter(|p| !context.statuses.ended(p.uid())) {
        for c in pod.containers().iter().chain(pod.init_containers()) {
            in_use.name(c.image.as_deref().unwrap_or_default());
        }
    }
    in_use.name(&context.learned().sandbox_image);
    Ok(in_use)
}
