//! The Node: registered at the start, its status told when it changes.
//!
//! [`facts`] reads the machine, [`status`] builds the object without IO, [`task`] decides when to
//! send.

mod facts;
mod status;
mod task;

pub(crate) use facts::{facts, memory_capacity};
pub(crate) use status::is_given_up;
pub(crate) use task::NodeTask;
