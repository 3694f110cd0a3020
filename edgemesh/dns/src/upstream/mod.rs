//! The name servers of the node: which there are, how they do, and asking them.
//!
//! [`servers`] and [`race`] decide without IO, [`exchange`] and [`forward`] ask, [`resolv`] and [`probe`] keep the list
//! true.

pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod probe;
mod race;
pub(crate) mod resolv;
pub(crate) mod servers;
