//! Eviction: the node ends pods before the machine runs out of what all of them need.
//!
//! [`threshold`] is what was configured, [`decide`] tells from observations and time which conditions
//! the node has and which threshold is to be answered, [`rank`] who has to go, [`local`] whose volumes
//! or logs exceed their own limit: all without IO. [`task`] observes, makes room (dead containers,
//! unused images) and hands a pod to its worker, one at a time. Signals, ranking, messages and
//! conditions are the kubelet's.
//!
//! Invariants: critical and static pods are never evicted; no pod is evicted on a signal that could
//! not be observed; after one eviction the next waits until that pod has ended or half a minute.

mod decide;
mod local;
mod rank;
mod reclaim;
mod task;
mod threshold;

pub(crate) use decide::{Pressure, admit};
pub(crate) use task::EvictionTask;
pub(crate) use threshold::Threshold;

use crate::node_config::NodeConfig;

/// What the hard threshold of a signal keeps from pods, out of `capacity`.
pub(crate) fn kept_free(config: &NodeConfig, signal: &str, capacity: u64) -> i64 {
    let amount = config.eviction_hard.get(signal).and_then(|text| threshold::Amount::parse(text));
    amount.map_or(0, |a| i64::try_from(a.of(capacity)).unwrap_or(i64::MAX))
}

/// Reason of the pod's status and Event.
pub(crate) const REASON: &str = "Evicted";
