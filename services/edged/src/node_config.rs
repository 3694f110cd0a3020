//! How the node runs pods and looks after itself: DNS, limits, reservations, eviction, images, logs, shutdown.
//!
//! Part of [`crate::Config`]. Names and defaults are those of the kubelet's configuration, so that
//! what users know and wrote before keeps its meaning. Durations are written as `1m30s`. Wrong values
//! are refused at the start, each with its key.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::eviction::Threshold;
use crate::resources;

/// What nearly every cluster uses.
const DEFAULT_DOMAIN: &str = "cluster.local";
/// Resources that can be reserved.
const RESERVABLE: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pid"];

/// See the module documentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeConfig {
    /// Pods that the node offers to run.
    pub max_pods: u32,
    /// Addresses of the cluster's DNS; without them pods use the resolver of this machine.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// Processes that one pod may have; -1 is no limit.
    pub pod_pids_limit: i64,
    /// Kernel parameters that pods may set beside the safe ones: names, or beginnings with a star.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// With version 2 of control groups: guarantee memory that is requested and throttle what is used
    /// above it. In the kubelet it is a feature gate.
    #[serde(rename = "memoryQoS")]
    pub memory_qos: bool,
    /// With `memoryQoS`: how far between its request and its limit a container gets before the kernel
    /// throttles it; above 0, at most 1.
    pub memory_throttling_factor: f64,
    /// What Kubernetes' own services need: `cpu`, `memory`, `ephemeral-storage`, `pid`.
    pub kube_reserved: BTreeMap<String, Quantity>,
    /// What the rest of the system needs, likewise.
    pub system_reserved: BTreeMap<String, Quantity>,
    /// `pods`: all pods together get no more than the machine without what is reserved. Empty: no limit.
    pub enforce_node_allocatable: Vec<String>,
    /// Signals and the amounts below which pods are evicted at once: `memory.available: 100Mi`.
    pub eviction_hard: BTreeMap<String, String>,
    /// The same, after a grace period.
    pub eviction_soft: BTreeMap<String, String>,
    /// How long a soft threshold must be crossed; required for each.
    pub eviction_soft_grace_period: BTreeMap<String, SignedDuration>,
    /// Longest grace period of a pod that a soft threshold evicts, in seconds.
    pub eviction_max_pod_grace_period: i64,
    /// What more to make free, once a threshold was crossed.
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    /// How long a pressure condition stays after it was seen last.
    pub eviction_pressure_transition_period: SignedDuration,
    /// Fullness of the images' filesystem, in percent, at which unused images are removed; 100: never.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u8,
    /// … and down to which.
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u8,
    /// An image that is younger is not removed.
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: SignedDuration,
    /// An image that nobody used for longer is removed; zero: never.
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: SignedDuration,
    /// Pull one image after the other: right for a thin line.
    pub serialize_image_pulls: bool,
    /// Pulls at a time when they are not serial; 0: no limit but the number of containers.
    pub max_parallel_image_pulls: u32,
    /// A pull that makes no progress for so long is given up.
    pub image_pull_progress_deadline: SignedDuration,
    /// A log file that is larger is rotated.
    pub container_log_max_size: Quantity,
    /// Log files of a container, the current one included.
    pub container_log_max_files: u32,
    /// Directory of the links to containers' logs; `/var/log/containers` when the logs are in
    /// `/var/log/pods`, else none.
    pub container_log_links: Option<PathBuf>,
    /// Time for all pods to end when the machine goes down; zero: they are left to the system.
    pub shutdown_grace_period: SignedDuration,
    /// The part of it that is kept for critical pods.
    pub shutdown_grace_period_critical_pods: SignedDuration,
    /// The program that tells whether the machine goes down.
    pub systemctl: PathBuf,
}

impl Default for NodeConfig {
    fn default() -> Self {
        let hard = [
            ("memory.available", "100Mi"),
            ("nodefs.available", "10%"),
            ("nodefs.inodesFree", "5%"),
            ("imagefs.available", "15%"),
            ("imagefs.inodesFree", "5%"),
            ("pid.available", "10%"),
        ];
        Self {
            max_pods: 110,
            cluster_dns: Vec::new(),
            cluster_domain: DEFAULT_DOMAIN.into(),
            pod_pids_limit: -1,
            allowed_unsafe_sysctls: Vec::new(),
            memory_qos: false,
            memory_throttling_factor: 0.9,
            kube_reserved: BTreeMap::new(),
            system_reserved: BTreeMap::new(),
            enforce_node_allocatable: vec!["pods".into()],
            eviction_hard: hard.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_max_pod_grace_period: 0,
            eviction_minimum_reclaim: BTreeMap::new(),
            eviction_pressure_transition_period: SignedDuration::from_secs(300),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_minimum_gc_age: SignedDuration::from_secs(120),
            image_maximum_gc_age: SignedDuration::ZERO,
            serialize_image_pulls: true,
            max_parallel_image_pulls: 0,
            image_pull_progress_deadline: SignedDuration::from_secs(60),
            container_log_max_size: Quantity("10Mi".into()),
            container_log_max_files: 5,
            container_log_links: None,
            shutdown_grace_period: SignedDuration::ZERO,
            shutdown_grace_period_critical_pods: SignedDuration::ZERO,
            systemctl: "systemctl".into(),
        }
    }
}

impl NodeConfig {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |why: String| Err(Error::Options(why));
        if self.max_pods == 0 {
            return bad("node.maxPods must be at least 1".into());
        }
        if !(self.memory_throttling_factor > 0.0 && self.memory_throttling_factor <= 1.0) {
            return bad("node.memoryThrottlingFactor must be above 0 and at most 1".into());
        }
        for (key, map) in [("kubeReserved", &self.kube_reserved), ("systemReserved", &self.system_reserved)] {
            for (name, amount) in map {
                if !RESERVABLE.contains(&name.as_str()) {
                    return bad(format!("node.{key}: {name} is not one of {}", RESERVABLE.join(", ")));
                }
                if resources::milli(amount).is_none_or(|m| m < 0) {
                    return bad(format!("node.{key}: {name} is not an amount: {}", amount.0));
                }
            }
        }
        if self.enforce_node_allocatable.iter().any(|e| e != "pods") {
            return bad("node.enforceNodeAllocatable may only hold pods".into());
        }
        self.thresholds()?;
        let (low, high) = (self.image_gc_low_threshold_percent, self.image_gc_high_threshold_percent);
        if high > 100 || low >= high {
            return bad("node.imageGCLowThresholdPercent must be below imageGCHighThresholdPercent, at most 100".into());
        }
        if self.container_log_max_files < 2 || self.log_max_bytes() == 0 {
            return bad("node.containerLogMaxFiles must be at least 2, containerLogMaxSize more than nothing".into());
        }
        if self.container_log_links.as_ref().is_some_and(|l| !l.is_absolute() || l.to_str().is_none()) {
            return bad("node.containerLogLinks must be an absolute path".into());
        }
        if self.shutdown_grace_period_critical_pods > self.shutdown_grace_period {
            return bad("node.shutdownGracePeriodCriticalPods must not exceed shutdownGracePeriod".into());
        }
        for (key, duration) in [
            ("evictionPressureTransitionPeriod", self.eviction_pressure_transition_period),
            ("imageMinimumGCAge", self.image_minimum_gc_age),
            ("imageMaximumGCAge", self.image_maximum_gc_age),
            ("shutdownGracePeriodCriticalPods", self.shutdown_grace_period_critical_pods),
        ] {
            if duration.is_negative() {
                return bad(format!("node.{key} must not be negative"));
            }
        }
        if !self.image_pull_progress_deadline.is_positive() {
            return bad("node.imagePullProgressDeadline must be more than nothing".into());
        }
        Ok(())
    }

    /// The thresholds of eviction, hard ones first.
    pub(crate) fn thresholds(&self) -> Result<Vec<Threshold>, Error> {
        Threshold::parse(
            &self.eviction_hard,
            &self.eviction_soft,
            &self.eviction_soft_grace_period,
            &self.eviction_minimum_reclaim,
        )
        .map_err(Error::Options)
    }

    /// The sum of both reservations, in thousandths.
    pub(crate) fn reserved_milli(&self, name: &str) -> i128 {
        let of = |map: &BTreeMap<String, Quantity>| map.get(name).and_then(resources::milli).unwrap_or(0);
        of(&self.kube_reserved).saturating_add(of(&self.system_reserved))
    }

    /// Whether pods together are limited to what is not reserved.
    pub(crate) fn enforces_pods(&self) -> bool {
        self.enforce_node_allocatable.iter().any(|e| e == "pods")
    }

    pub(crate) fn log_max_bytes(&self) -> u64 {
        resources::units(&self.container_log_max_size).and_then(|b| u64::try_from(b).ok()).unwrap_or(0)
    }

    /// Pulls at a time.
    pub(crate) fn pulls(&self) -> usize {
        match (self.serialize_image_pulls, usize::try_from(self.max_parallel_image_pulls)) {
            (true, _) => 1,
            (false, Ok(n)) if n > 0 => n,
            (false, _) => tokio::sync::Semaphore::MAX_PERMITS,
        }
    }
}

/// A duration of the configuration, which was checked not to be negative.
pub(crate) fn span(duration: SignedDuration) -> Duration {
    Duration::try_from(duration).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<NodeConfig, String> {
        let config: NodeConfig = skerry_common::parse(text, "test").map_err(|e| e.to_string())?;
        config.check().map_err(|e| e.to_string())?;
        Ok(config)
    }

    #[test]
    fn names_and_forms_are_the_kubelets() {
        let config = parse(
            "kubeReserved: {cpu: 100m, memory: 64Mi}\nsystemReserved: {memory: 64Mi}\n\
             evictionHard: {memory.available: 5%}\nevictionSoft: {nodefs.available: 1Gi}\n\
             evictionSoftGracePeriod: {nodefs.available: 1m30s}\nimageGCHighThresholdPercent: 90\n\
             imageMinimumGCAge: 5m\nserializeImagePulls: false\nmaxParallelImagePulls: 3\n\
             shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s\n\
             maxPods: 50\nclusterDNS: [10.96.0.10]\nclusterDomain: example\npodPidsLimit: 1024\n\
             allowedUnsafeSysctls: [\"net.*\"]\nmemoryQoS: true\nmemoryThrottlingFactor: 0.8\n",
        )
        .unwrap();
        assert_eq!(config.reserved_milli("memory"), (128 << 20) * 1000);
        assert_eq!(config.thresholds().unwrap().len(), 2);
        assert_eq!((config.pulls(), span(config.image_minimum_gc_age)), (3, Duration::from_secs(300)));
        NodeConfig::default().check().unwrap();
        assert_eq!(NodeConfig::default().pulls(), 1);
    }

    #[test]
    fn what_cannot_work_is_refused_by_its_key() {
        for (text, word) in [
            ("evictionHard: {memory.free: 1Gi}\n", "memory.free"),
            ("evictionHard: {memory.available: x}\n", "memory.available"),
            ("evictionSoft: {memory.available: 1Gi}\n", "memory.available"),
            ("kubeReserved: {gpu: 1}\n", "kubeReserved"),
            ("systemReserved: {cpu: -1}\n", "systemReserved"),
            ("imageGCHighThresholdPercent: 50\n", "imageGCLowThresholdPercent"),
            ("containerLogMaxFiles: 1\n", "containerLogMaxFiles"),
            ("enforceNodeAllocatable: [system-reserved]\n", "enforceNodeAllocatable"),
            ("shutdownGracePeriodCriticalPods: 10s\n", "shutdownGracePeriod"),
            ("imagePullProgressDeadline: 0s\n", "imagePullProgressDeadline"),
            ("maxPods: 0\n", "maxPods"),
            ("memoryThrottlingFactor: 1.1\n", "memoryThrottlingFactor"),
            ("clusterDNS: [dns.example]\n", "clusterDNS"),
            ("evictionhard: {}\n", "evictionhard"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
