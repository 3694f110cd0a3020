//! EdgeHub: the edge end of the connection; owns the store.
//!
//! It dials the hub and keeps one connection: subscriptions down, reports up, certificate renewal.
//! What comes down is acknowledged when it is on disk; what goes up leaves the outbox when the cloud
//! has committed it. Towards the services of the node it is a `Source` and a `Sink` of the same
//! protocol, on a socket of the machine, with or without the cloud.
//!
//! An empty answer, an error or a timeout changes nothing here. Only a tombstone deletes.

mod app;
mod body;
mod config;
mod downlink;
mod error;
mod link;
mod listeners;
mod local_sink;
mod local_source;
mod metrics;
mod objects;
mod renew;
mod reviews;
mod status;
mod uplink;
mod upreports;

pub use app::EdgeHub;
pub use config::{Config, LinkTimes, Listen};
pub use error::EdgeHubError;
