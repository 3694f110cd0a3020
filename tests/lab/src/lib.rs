//! Networks and NATs for tests: hosts, home routers, carriers and an internet, each in a network namespace.
//!
//! Used by tests of the mesh, by `make bench-nat` and `make bench-mesh`, and by hand through the program `lab`.
//! A [`Topology`] is data; [`Lab::build`] makes it real with `ip`, `nft` and `tc`, and dropping the [`Lab`] takes
//! it away. NATs are the kernel's: nftables on connection tracking, as in most routers. Delay, loss and reordering
//! are made in user space, by a thread that carries the frames of such a cable from one TAP device to another,
//! because few kernels have netem and none repeats its losses.
//!
//! Needs root, iproute2 and nftables. Nothing leaves the namespaces, so the addresses of its internet may be such
//! as programs take for public. Bounded by [`MAX_NODES`]. What a killed process left is removed by the next
//! [`Lab::build`] of any process ([`sweep`]); namespaces of living processes are not touched.

mod catalogue;
mod command;
mod error;
mod fault;
mod gateway;
mod lab;
mod namespace;
mod nat;
mod plan;
mod process;
mod pump;
mod topology;

pub use catalogue::{Site, lan, pair, shared_carrier};
pub use error::LabError;
pub use fault::{Faults, Passed};
pub use lab::{Cut, Lab};
pub use namespace::sweep;
pub use nat::{Behaviour, Nat, Ports};
pub use process::Process;
pub use topology::{Cable, Egress, Families, Host, MAX_NODES, Network, Place, Topology, Uplink};
