//! EdgeController: Source and Sink for the core Kubernetes kinds, keeper of presence, leases and identity.
//!
//! It stands between the Kubernetes API and CloudHub. Downwards it sends each node the objects that the
//! node may see, trimmed and compressed; upwards it writes what nodes report, after the node authorizer
//! allowed it. It renews the leases of connected nodes, fences old sessions, and issues certificates. It
//! keeps nothing that it cannot rebuild from the API and from what nodes say that they hold.
//!
//! Start reading at `app` (how the parts are put together), `cache` (what a node may see) and `apply`
//! (how a report reaches the API).

mod api;
mod app;
mod apply;
mod authorize;
mod bindings;
mod cache;
mod config;
mod confirm;
mod credentials;
mod error;
mod hubs;
mod informer;
mod issuer;
mod kinds;
mod lease;
mod metrics;
mod mint;
mod presence;
mod refs;
mod registry;
mod rejections;
mod reviews;
mod revive;
mod revocations;
mod sessions;
mod sink;
mod source;
mod subs;
mod system;
pub mod tokens;
mod trim;
mod view;
mod work;

pub mod nodes {
    //! What operators do with nodes.
    pub use crate::revocations::revoke_node as revoke;
}

pub use api::ApiError;
pub use app::{EdgeController, kube_client};
pub use authorize::{
    Decision, Graph, NOT_ALLOWED, NOT_REFERENCED, OTHER_NODE, OTHER_NODES_POD, Verb, authorize, node_may_set_label,
};
pub use config::Config;
pub use error::ControllerError;
pub use issuer::CODE_HEADER;
pub use kinds::Kind;
pub use system::{CA_BUNDLE, CA_SECRET, NAMESPACE, ca, existing_ca, issue_service_credentials};
