//! Simulation of the sync protocol.
//!
//! Drives the state machines of `skerry-sync` through cuts, duplicated sessions, delays, slow peers,
//! lost and damaged stores, lying lists, and restarts of every process, and checks the project's
//! invariants by name. One seed is one run, always the same.
//!
//! The harness plays the services: where it must do something for the invariants to hold, a service
//! must do it too. Each [`Bug`] is one such duty left out, and must be found.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a simulation that steps out of its own tables must stop loudly; nothing here is shipped"
)]

mod api;
mod bug;
mod edge;
mod invariant;
mod rng;
mod run;
mod session;
mod sink;
mod source;
mod world;

pub use bug::Bug;
pub use invariant::{Invariant, Violation};
pub use run::{Failure, Run, Summary, run_many, run_seed};
pub use world::Counters;
