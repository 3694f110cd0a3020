//! dmi on its real socket and store, with mappers that know no generated code and mappers of the stream.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

mod broker;
mod bus;
mod bus_access;
mod bus_broker;
mod bus_hostile;
mod bus_link;
mod gate;
mod node;
mod stream;
mod v1beta1;
mod wire;
