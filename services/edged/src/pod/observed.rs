//! What the runtime shows of one pod.
//!
//! Filled by `runtime::observe` from CRI lists and statuses, read by the plan and the status. Lists
//! are newest first. Pure data: an observation that could not be made is an error there, never an
//! empty value here, because an empty one would mean "nothing runs".

use k8s_openapi::api::core::v1::ContainerUser;

use super::UnixMs;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Observed {
    /// Newest first.
    pub(crate) sandboxes: Vec<Sandbox>,
    /// Newest first, of all sandboxes.
    pub(crate) containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) created_ms: UnixMs,
    /// Primary address first; empty on the host's network.
    pub(crate) ips: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running,
    Exited,
    #[default]
    Unknown,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) sandbox_id: String,
    pub(crate) restart_count: u32,
    pub(crate) state: State,
    pub(crate) created_ms: UnixMs,
    pub(crate) started_ms: UnixMs,
    pub(crate) finished_ms: UnixMs,
    pub(crate) exit_code: i32,
    /// The runtime's word: `Completed`, `Error`, `OOMKilled`, ….
    pub(crate) reason: String,
    /// The runtime's own, or the termination message when there is one.
    pub(crate) message: String,
    /// As the spec named it.
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) hash: String,
    /// The resources that it was created with, as JSON; empty when that is not known.
    pub(crate) resources: String,
    /// Whom its first process runs as, where the runtime tells it (containerd from 2.0 on).
    pub(crate) user: Option<ContainerUser>,
    /// Grace period in seconds that the pod had when this was created.
    pub(crate) grace_s: Option<i64>,
}

impl Observed {
    /// The sandbox that the pod lives in: the newest, if it is ready.
    pub(crate) fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// The newest container of that name.
    pub(crate) fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The one before the newest.
    pub(crate) fn previous(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Container> {
        // A container in an unknown state may be running.
        self.containers.iter().filter(|c| matches!(c.state, State::Running | State::Unknown))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

impl Container {
    pub(crate) fn failed(&self) -> bool {
        self.state == State::Exited && self.exit_code != 0
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.state == State::Exited && self.exit_code == 0
    }
}
