//! CloudHub: ends the nodes' connections and relays them to the sources and sinks.
//!
//! One mTLS port for every node. A node's subscriptions and reports are relayed to the service that
//! the configuration names for their kind; the hub knows nothing about Kubernetes and keeps nothing
//! that it could lose: a node says what it holds when it opens a subscription, and what it has not
//! seen committed it reports again. So any replica can serve any node at any time.
//!
//! What the hub adds: it knows who calls, by the certificate and nothing else; of two sessions of a
//! node the newer one wins; a slow node slows down itself alone; and it counts bytes by node and kind.

mod admin;
mod app;
mod config;
mod error;
mod events;
mod join;
mod lane;
mod metrics;
mod node_sink;
mod node_source;
mod registry;
mod report_lane;
mod reviews;
mod routes;
mod sessions;
mod upstream;
mod usage;

pub use app::CloudHub;
pub use config::{Config, SourceConfig};
pub use error::HubError;
