//! The options of the controllers, with the defaults of Kubernetes and the reason for each.

use std::time::Duration;

/// What can be set; `Options::default()` behaves like kube-controller-manager and kube-scheduler.
#[derive(Debug, Clone)]
pub struct Options {
    /// A node whose Lease was not renewed for this long is gone (40 s: four missed renewals).
    pub node_monitor_grace: Duration,
    /// A node that never renewed a Lease is given this long after it was first seen (60 s).
    pub node_startup_grace: Duration,
    /// How often node health is looked at (5 s).
    pub node_monitor_period: Duration,
    /// Nodes per second that may be tainted NoExecute, so that a mistake spreads slowly (0.1).
    pub node_eviction_rate: f64,
    /// Seconds that pods without any toleration for not-ready and unreachable stay on such a node.
    /// Kubernetes adds this toleration at admission (300 s); `None` evicts such pods at once.
    pub default_toleration_seconds: Option<i64>,
    /// Stop evictions when every node is gone: then it is the control plane that lost its link.
    pub stop_evictions_when_all_nodes_are_gone: bool,
    /// Finished pods kept before the oldest are deleted (12,500).
    pub terminated_pod_threshold: usize,
    /// How often pods are looked through for garbage (20 s).
    pub pod_gc_period: Duration,
    /// How long a pod may be bound to a missing Node before it is deleted (40 s).
    pub pod_gc_quarantine: Duration,
    /// How often API discovery is repeated for garbage collection (30 s).
    pub discovery_period: Duration,
    /// First and longest delay before an unschedulable pod is tried again (1 s, 10 s).
    pub scheduler_backoff: (Duration, Duration),
    /// An unschedulable pod is tried again after this time even when nothing changed (5 min).
    pub scheduler_flush: Duration,
    /// Bind calls in flight: enough to fill the API server's group commit (64).
    pub scheduler_binds_in_flight: usize,
    /// Workers per controller (4 to 8 saturate an API server on the same machine).
    pub workers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node_monitor_grace: Duration::from_secs(40),
            node_startup_grace: Duration::from_secs(60),
            node_monitor_period: Duration::from_secs(5),
            node_eviction_rate: 0.1,
            default_toleration_seconds: Some(300),
            stop_evictions_when_all_nodes_are_gone: true,
            terminated_pod_threshold: 12_500,
            pod_gc_period: Duration::from_secs(20),
            pod_gc_quarantine: Duration::from_secs(40),
            discovery_period: Duration::from_secs(30),
            scheduler_backoff: (Duration::from_secs(1), Duration::from_secs(10)),
            scheduler_flush: Duration::from_secs(300),
            scheduler_binds_in_flight: 64,
            workers: 5,
        }
    }
}
