//! Probes: whether a container has started, is healthy, and is ready.

mod results;

pub(crate) use results::Results;
#[cfg(test)]
pub(crate) use results::{Outcome, Unhealthy};
