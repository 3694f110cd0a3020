//! edged: pods over the Container Runtime Interface.
//!
//! It subscribes to EdgeHub for the pods of its node and what they refer to, runs them on containerd
//! or CRI-O, and reports status, deletions, Events and the Node back. A state machine without IO
//! decides what to do with a pod (`pod::plan`), one worker task per pod does it.
//!
//! Silence never stops a pod: not an empty list, not a lost connection, not a runtime that hangs.
//! Only a deletion does. What edged must know after a restart it finds in the runtime's labels and in
//! EdgeHub's store; it needs no cloud.

mod admission;
mod agent;
mod app;
mod cgroups;
mod config;
mod context;
mod env;
mod error;
mod events;
mod eviction;
mod fields;
mod handler;
mod images;
mod logs;
mod metrics;
mod mounts;
mod node;
mod node_config;
mod objects;
mod pod;
pub mod private_runtime;
mod probe;
mod resources;
mod runtime;
mod server;
mod starts;
mod static_pods;
mod stats;
mod userns;
mod volumes;

pub use app::Edged;
pub use config::{Api, Config, Connect, DEFAULT_API_PORT, DEFAULT_CGROUP_ROOT, DEFAULT_EDGEHUB, Taint};
pub use error::Error;
pub use node_config::NodeConfig;
