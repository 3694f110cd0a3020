//! EdgeController: Source and Sink for the core Kubernetes kinds, keeper of presence, leases and identity.
//!
//! It stands between the Kubernetes API and CloudHub. Downwards it sends each node the objects that the
//! node may see, trimmed and compressed; upwards it writes what nodes report, after the node authorizer
//! allowed it. It renews the leases of connected nodes, fences old sessions, and issues certificates. It
//! keeps nothing that it cannot rebuild from the API and from what nodes say that they hold.
//!
//! Start reading at `app` (how the parts are put together) and `apply` (how a report reaches the API); what a
//! node may see is in `skerry-kubesync`, which the controllers of the cloud share.

mod app;
mod apply;
mod bindings;
mod config;
mod credentials;
mod error;
mod hubs;
mod issuer;
mod labels;
mod lease;
mod metrics;
mod mint;
mod presence;
mod registry;
mod reviews;
mod revive;
mod revocations;
mod system;
pub mod tokens;

pub mod nodes {
    //! What operators do with nodes.
    pub use crate::revocations::revoke_node as revoke;
}

pub use app::{EdgeController, kube_client};
pub use config::Config;
pub use error::ControllerError;
pub use issuer::CODE_HEADER;
pub use system::{CA_BUNDLE, CA_SECRET, NAMESPACE, ca, existing_ca, issue_service_credentials};
