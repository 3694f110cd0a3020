//! The data plane of mappers: the good values of a property, also to where its `pushMethod` says.
//!
//! A mapper hands [`open`] to `skerry_mapper_sdk::run_with`; nothing else calls this crate. Sinks are HTTP, MQTT,
//! OTLP, InfluxDB 2, Redis, MySQL and TDengine, in the formats of KubeEdge's mappers.
//!
//! Invariants:
//! - A line never waits for a sink, and a sink that hangs hurts only itself: each has a task and a queue of its own.
//! - A value is in memory alone for [`HOLD`] at most: by then its sink has taken it, or it is in the spool on disk,
//!   where it survives a crash. It leaves the spool when its sink has confirmed it (at least once), or as the
//!   oldest when the spool is full or too old, which is counted and logged.
//! - Values of one property arrive in the order in which they were read.
//! - Credentials come from the environment, as KubeEdge's do, and are in no log line and in no file.
//! - No value is ever part of a statement, a path or a line without being bound or escaped.

mod address;
mod metrics;
mod plane;
mod queue;
mod record;
mod route;
mod secrets;
mod sink;
mod spool;
mod tls;
mod worker;

pub use plane::{Plane, open};
pub use secrets::Secrets;
pub use spool::{DEFAULT_SPOOL_AGE, DEFAULT_SPOOL_BYTES};
pub use worker::HOLD;
