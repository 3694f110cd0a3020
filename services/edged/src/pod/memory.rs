//! What a worker remembers between two looks at the runtime.
//!
//! Lives in the worker alone and dies with the process: an agent that starts again computes the same
//! from the runtime's annotations, except that failed pulls and mounts are tried at once, and that what it
//! was about to restart is judged by its exit code, as in the kubelet. Bounded by
//! the number of containers of the pod.

use std::collections::{BTreeMap, BTreeSet};

use super::UnixMs;
use super::backoff::{Delay, Retry};
use super::observed::Container;
use super::resize::Pending;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) volumes: Volumes,
    pub(crate) volumes_retry: Retry,
    pub(crate) sandbox_retry: Retry,
    pub(crate) containers: BTreeMap<String, ContainerMemory>,
    /// Stopping or removing failed; tried again then.
    pub(crate) stop_retry: Retry,
    /// A resize that the node cannot do now.
    pub(crate) resize: Option<Pending>,
    /// Containers whose preStop hook has begun: it does not run twice.
    pub(crate) pre_stopped: BTreeSet<String>,
    /// Directories, mounts and control groups are gone.
    pub(crate) cleaned: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Volumes {
    /// Not set up by this process.
    #[default]
    Missing,
    /// Set up, and something they show has changed since.
    Stale,
    Ready,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ContainerMemory {
    /// Set once the container was seen to end; `None` until then.
    pub(crate) crash: Option<Delay>,
    /// A start failed: pull, configuration, create or start.
    pub(crate) retry: Retry,
    /// Resources that a running container was given since it was created: its id, and JSON.
    pub(crate) resized: Option<(String, String)>,
    /// Why the last attempt to do so failed, and when it is tried again.
    pub(crate) resize_error: Option<String>,
    pub(crate) resize_retry: Retry,
    /// The container that was told to end so that another one starts, whatever it ends with.
    pub(crate) restart: Option<String>,
    /// The container whose postStart hook failed: it must not run.
    pub(crate) hook_failed: Option<String>,
    /// What users see while it does not run.
    pub(crate) waiting: Option<Waiting>,
}

/// Reason and message of a waiting container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Waiting {
    pub(crate) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }
}

impl Memory {
    pub(crate) fn container(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// Whether this very container makes way for another one.
    pub(crate) fn restarts(&self, c: &Container) -> bool {
        self.containers.get(&c.name).is_some_and(|known| known.restart.as_ref() == Some(&c.id))
    }

    /// Whether the postStart hook of this very container failed.
    pub(crate) fn hook_failed(&self, c: &Container) -> bool {
        self.containers.get(&c.name).is_some_and(|known| known.hook_failed.as_ref() == Some(&c.id))
    }

    /// Something the pod refers to has changed: what failed may work now.
    pub(crate) fn references_changed(&mut self) {
        if self.volumes == Volumes::Ready {
            self.volumes = Volumes::Stale;
        }
        self.volumes_retry.hurry();
        for container in self.containers.values_mut() {
            let configuration = container.waiting.as_ref().is_some_and(|w| w.reason.contains("Config"));
            if configuration {
                container.retry.hurry();
            }
        }
    }

    /// The state of a crash loop for the container that ended at `finished`, found again after a
    /// restart of the agent from the number of restarts that the runtime remembers.
    pub(crate) fn crash(&self, name: &str, restarts: u32, ran_ms: i64, finished: UnixMs) -> Delay {
        let known = self.containers.get(name).and_then(|c| c.crash);
        known.unwrap_or_else(|| {
            let long = ran_ms > super::backoff::CRASH.last_ms.saturating_mul(2);
            if long { Delay::default() } else { Delay::after(restarts, finished, super::backoff::CRASH) }
        })
    }
}
