//! Probes: whether a container has started, is healthy, and is ready.
//!
//! [`machine`] decides without IO when to ask and what the answers mean; [`prober`] is the task of one pod
//! that asks; [`results`] is what the plan and the status read.

mod machine;
mod prober;
mod results;

pub(crate) use prober::{ProbeLabels, Prober};
pub(crate) use results::Results;
#[cfg(test)]
pub(crate) use results::{Outcome, Unhealthy};
