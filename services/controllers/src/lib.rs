//! The scheduler and the controllers of the embedded control plane.
//!
//! They work against any `kube::Client`: the embedded API server in the same process, or a cluster.
//! One watch per kind feeds one cache that all controllers share; each controller is a module with a
//! function of (object, context), a keyed queue and a few workers, and decides in pure functions that are
//! tested by tables.
//!
//! Everything is level-triggered: a queue holds keys, a reconcile looks at what is, and what could not be
//! done is tried again with backoff. Nothing here is needed for running pods to keep running.

mod claim;
mod config;
mod connect;
mod context;
mod daemonset;
mod deployment;
mod endpoints;
mod error;
mod gc;
mod job;
mod labels;
mod machinery;
mod metrics;
mod names;
mod namespace;
mod namespace_defaults;
mod node;
mod podgc;
mod pods;
mod replicaset;
mod run;
mod scheduler;
mod taints;
mod volumes;

pub use config::Options;
pub use connect::connect;
pub use error::Error;
pub use metrics::Metrics;
pub use run::Controllers;
