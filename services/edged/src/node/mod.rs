//! The Node: registered at the start, its status told when it changes.
//!
//! [`facts`] reads the machine, [`status`] builds the object without IO, [`task`] decides when to
//! send, [`allocatable`] limits all pods to what is theirs, [`shutdown`] ends them with the machine.

mod allocatable;
mod facts;
mod shutdown;
mod status;
mod task;

pub(crate) use facts::{facts, memory_capacity};
pub(crate) use shutdown::end_pods;
pub(crate) use status::is_given_up;
pub(crate) use task::NodeTask;
