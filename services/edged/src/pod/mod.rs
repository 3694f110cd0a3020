//! One pod: what decides, and what does it.
//!
//! [`plan`] is a state machine without IO: from the spec, what the runtime shows, and the time, it
//! says what to do next. [`status`] computes the status that users see from the same inputs. Both
//! are tested by tables and properties. [`worker`] is the task that feeds the one, performs what it
//! says, and reports the other.

pub(crate) mod backoff;
pub(crate) mod checkpoint;
pub(crate) mod clean;
pub(crate) mod failure;
pub(crate) mod labels;
pub(crate) mod memory;
pub(crate) mod observed;
pub(crate) mod perform;
pub(crate) mod plan;
pub(crate) mod priority;
pub(crate) mod resize;
pub(crate) mod spec;
pub(crate) mod status;
pub(crate) mod statuses;
pub(crate) mod worker;

/// Milliseconds since 1970 by the node's clock.
pub(crate) type UnixMs = i64;
