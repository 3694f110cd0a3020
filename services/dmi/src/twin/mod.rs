//! Twins: what a device shall be and what it is, per property.
//!
//! Nothing here does IO or reads a clock; [`crate::fleet`] calls it under its lock. Two times come in with
//! [`Now`]: one that only runs forward, for every interval, and the wall clock, which is shown and never
//! compared.
//!
//! **The rule of convergence.** The authority for a desired value is the Device in the API. A value that is
//! set on the node (an overlay) is durable at once, holds on the node and travels up with the cloud's value
//! that it replaces, its base. It is taken if the cloud's value is still its base, and the answer comes back with the
//! Device ([`skerry_common::desired`]). It ends with its answer, or when the cloud's value becomes another than the
//! base: then somebody changed the value in the cloud, who wins. So a write at the edge holds until the cloud
//! changes that property, and a change in the cloud that was made without knowledge of it wins. Answers name writes,
//! because a value that came back to what it was says nothing. A later write at the edge is not undone by the
//! acceptance of an earlier one: it is told again with the new base.

mod property;
#[cfg(test)]
mod property_tests;
mod spec;
mod value;

#[cfg(test)]
pub(crate) use property::MAX_EARLIER;
pub(crate) use property::{CloudChange, Earlier, Measured, Overlay, Property, Quality, Sync};
pub(crate) use spec::{PropertySpec, Spec, read};
pub(crate) use value::{MAX_VALUE_BYTES, check, check_type, same};

/// The two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Milliseconds since the start of the process; only runs forward.
    pub(crate) mono: u64,
    /// Milliseconds since the epoch; jumps as people and time servers want.
    pub(crate) wall: i64,
}
