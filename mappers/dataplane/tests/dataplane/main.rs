//! The data plane against real sinks: mosquitto, redis-server, MariaDB, and HTTP servers of the tests' own.
//!
//! InfluxDB 2 and TDengine are not in the registries of packages: what is sent to them is compared with recorded
//! exchanges, in `recorded.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]

mod http;
mod killed;
mod load;
mod mapper;
mod mqtt;
mod mysql;
mod otlp;
mod recorded;
mod redis;
mod server;
mod support;
mod tls;
