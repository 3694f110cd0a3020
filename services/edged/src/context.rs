//! What all tasks of the agent share.
//!
//! Built once by [`crate::app`]; everything in it is cheap to reach and none of it is locked over an
//! await. The [`Facts`] of the node change when its addresses do.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use skerry_hubclient::Outbox;
use skerry_proto::cri::v1::DnsConfig;
use tokio::sync::{Notify, mpsc, watch};

use crate::admission::Kernel;
use crate::cgroups::{Cgroups, Driver};
use crate::events::Events;
use crate::eviction::Pressure;
use crate::fields::Facts;
use crate::images::Pulls;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::pod::UnixMs;
use crate::pod::failure::Failure;
use crate::pod::spec::PodExt;
use crate::pod::statuses::Statuses;
use crate::resources::NodeResources;
use crate::runtime::Cri;
use crate::runtime::dns::ClusterDns;
use crate::runtime::relist::Health;
use crate::runtime::sandbox_config::Surroundings;
use crate::server::Streams;
use crate::starts::Starts;
use crate::userns::UserNamespaces;

/// Pods that are ended by the node and wait for the agent's turn; an eviction takes one at a time.
pub(crate) const FAILURES: usize = 16;

/// See the module documentation.
pub(crate) struct Context {
    pub(crate) node: String,
    pub(crate) root: PathBuf,
    pub(crate) log_dir: PathBuf,
    pub(crate) cluster_dns: ClusterDns,
    pub(crate) cri: Cri,
    pub(crate) objects: Objects,
    pub(crate) statuses: Statuses,
    pub(crate) outbox: Outbox,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) hurry: Arc<Notify>,
    /// To the agent: pods, by uid, that the node ends for a reason of its own.
    pub(crate) failures: mpsc::Sender<(String, Failure)>,
    pub(crate) pulls: Pulls,
    /// The machine goes down.
    pub(crate) going_down: watch::Sender<bool>,
    /// Directory of links to the logs of containers.
    pub(crate) log_links: Option<PathBuf>,
    /// What the machine lacks.
    pub(crate) pressure: watch::Receiver<Pressure>,
    pub(crate) starts: Starts,
    pub(crate) cgroups: Cgroups,
    pub(crate) kernel: Kernel,
    pub(crate) user_namespaces: UserNamespaces,
    pub(crate) resources: NodeResources,
    pub(crate) started: tokio::time::Instant,
    pub(crate) learned: RwLock<Learned>,
    pub(crate) stats: crate::stats::Collector,
    pub(crate) streams: Streams,
    /// Port of the kubelet API; `None` where it is not served.
    pub(crate) api_port: Option<u16>,
}

/// What is found out while running.
#[derive(Debug, Clone, Default)]
pub(crate) struct Learned {
    pub(crate) facts: Facts,
    pub(crate) cgroups: Driver,
    /// Scheme of container ids: `containerd`, `cri-o`.
    pub(crate) runtime: String,
    pub(crate) runtime_version: String,
    /// Handlers whose pods can have user namespaces of their own.
    pub(crate) user_namespaces: BTreeSet<String>,
    /// The runtime can leave out the groups that an image gives its user.
    pub(crate) strict_groups: bool,
    /// The runtime can make what is mounted below a mount read-only too.
    pub(crate) recursive_read_only: bool,
    /// Image of the sandbox container; empty when the runtime does not tell.
    pub(crate) sandbox_image: String,
}

impl Context {
    pub(crate) fn learned(&self) -> Learned {
        self.learned.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn learn(&self, change: impl FnOnce(&mut Learned)) {
        change(&mut self.learned.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn root_text(&self) -> String {
        self.root.display().to_string()
    }

    pub(crate) fn sandbox_config(
        &self,
        pod: &k8s_openapi::api::core::v1::Pod,
        attempt: u32,
        host_dns: &DnsConfig,
    ) -> skerry_proto::cri::v1::PodSandboxConfig {
        crate::runtime::sandbox_config::build(
            pod,
            attempt,
            Surroundings {
                node: &self.node,
                log_dir: &self.log_dir,
                cluster_dns: &self.cluster_dns,
                host_dns,
                user_ids: self.user_namespaces.of(pod.uid()),
                cgroup_parent: self.cgroups.parent(pod, self.learned().cgroups),
            },
        )
    }
}

/// The node's clock.
pub(crate) fn now_ms() -> UnixMs {
    jiff::Timestamp::now().as_millisecond()
}
