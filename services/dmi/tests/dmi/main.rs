//! dmi on its real socket and store, with mappers that know no generated code and mappers of the stream.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

mod attacks;
mod bad_days;
mod broker;
mod bus;
mod bus_access;
mod bus_broker;
mod bus_faults;
mod bus_hostile;
mod bus_link;
mod fields;
mod flood;
mod gate;
mod large_messages;
mod node;
mod orders;
mod process;
mod questions;
mod secrets;
mod stream;
mod thousand;
mod uids;
mod v1beta1;
mod wire;
