//! Logs, traces, metrics and the admin server of every Skerry process.
//!
//! A process calls [`init`] once, hands its [`Registry`] to the crates that count, and serves both
//! with [`admin::Admin`]. Events that matter are typed: see [`Event`].

pub mod admin;
mod error;
mod event;
mod logs;
mod metrics;
mod readiness;
pub mod trace;

pub use error::TelemetryError;
pub use event::{Event, emit};
pub use logs::{Guard, LogConfig, LogFormat, init};
pub use metrics::Registry;
pub use readiness::{Readiness, Task};

/// Version of this build, for people.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
