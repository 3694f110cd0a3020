//! Decides what to do next with a pod. No IO, no clock, no randomness.
//!
//! The worker calls [`plan`] after every observation, performs the steps in order, observes again,
//! and repeats until there is no step; then it sleeps until [`Plan::wake_at`] or until it is told of
//! a change. So every decision is made from what the runtime shows now, and a crash of the agent
//! between any two steps costs nothing but a new look.
//!
//! Invariants (each one a test below):
//! - P1 a container is started only in the newest sandbox, when that is ready and volumes are set up;
//! - P2 a running container is stopped only when the pod ends, its sandbox is lost, its image changed, or a
//!   probe found it unhealthy;
//! - P3 a container is never started while one of its name runs;
//! - P4 a pod that has ended never starts anything again;
//! - P5 a deleted pod goes through: containers stopped, sandbox stopped, all removed, cleaned, finished;
//! - P6 a sidecar ends after the containers that it serves, in the reverse order of their start;
//! - P7 an ephemeral container is started once at most;
//! - P8 without a step there is a wake-up time or nothing to wait for but an event.

mod containers;
mod end;
mod run;

pub(crate) use containers::{FAILED_POST_START_HOOK, note_restart};
pub(crate) use end::has_ended;

use k8s_openapi::api::core::v1::Pod;

use super::UnixMs;
use super::failure::Failure;
use super::memory::Memory;
use super::observed::Observed;
use crate::probe::Results;

/// Everything that the plan and the status are made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) desired: Desired,
    pub(crate) seen: &'a Observed,
    pub(crate) memory: &'a Memory,
    pub(crate) probes: &'a Results,
    /// Why the node ends the pod.
    pub(crate) failure: Option<&'a Failure>,
    pub(crate) now: UnixMs,
}

/// What is wanted of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Desired {
    Run,
    /// Deleted: containers get until `deadline` to end.
    End {
        deadline: UnixMs,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    PrepareVolumes,
    CreateSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    /// Pull the image if needed, create and start.
    StartContainer {
        name: String,
        sandbox_id: String,
        restart_count: u32,
    },
    /// Start a container that an earlier agent created. It may be starting at this moment, so it is neither
    /// removed nor created again.
    StartCreated {
        id: String,
        name: String,
        restart_count: u32,
    },
    /// Give a running container the resources of the spec.
    ResizeContainer {
        id: String,
        name: String,
    },
    /// All at the same time.
    StopContainers(Vec<Stop>),
    RemoveContainer {
        id: String,
    },
    /// Unmount and remove all that the pod has on the host.
    CleanUp,
    /// Nothing is left: report it and forget the pod.
    Finished,
}

impl Step {
    /// Whether a pod without a sandbox waits for a slot to do it.
    pub(crate) fn begins_pod(&self) -> bool {
        matches!(self, Self::PrepareVolumes | Self::CreateSandbox { .. })
    }

    /// Whether it starts a container.
    pub(crate) fn is_start(&self) -> bool {
        matches!(self, Self::StartContainer { .. } | Self::StartCreated { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Whole seconds, at least 0; a preStop hook and the wait for its turn are part of it.
    pub(crate) grace_s: i64,
    /// For the Event.
    pub(crate) reason: String,
    /// Run the preStop hook first.
    pub(crate) pre_stop: bool,
    /// It is told to end when all of a lower turn have ended.
    pub(crate) turn: usize,
    /// Another one is started after it, whatever it ends with.
    pub(crate) restart: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// When to look again though nothing happened.
    pub(crate) wake_at: Option<UnixMs>,
    /// Containers that wait for the end of a crash loop's delay, in seconds.
    pub(crate) backing_off: Vec<(String, i64)>,
}

impl Plan {
    fn step(step: Step) -> Self {
        Self { steps: vec![step], ..Self::default() }
    }

    fn wake(at: UnixMs) -> Self {
        Self { wake_at: Some(at), ..Self::default() }
    }

    fn wake_by(&mut self, at: UnixMs) {
        self.wake_at = Some(self.wake_at.map_or(at, |now| now.min(at)));
    }
}

/// See the module documentation.
pub(crate) fn plan(view: &View<'_>) -> Plan {
    match view.desired {
        Desired::End { deadline } => end::deleted(view, deadline),
        Desired::Run if has_ended(view) => end::completed(view),
        Desired::Run => run::run(view),
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
