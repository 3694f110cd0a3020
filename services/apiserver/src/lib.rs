//! The embedded Kubernetes API on SQLite: the default control plane of one site, a laptop and the tests.
//!
//! [`Config::build`] binds and opens everything, [`ApiServer::run`] serves until told to stop, and
//! [`ApiServer::router`] serves callers in the same process (`kube::Client::new(router, "default")`).
//! See `services/apimachinery` for the mechanics without IO.

mod admission;
mod auth;
mod bootstrap;
mod call;
mod config;
mod custom;
mod discovery;
mod error;
mod http;
mod kinds;
mod kubelet;
mod metrics;
mod openapi;
mod pki;
mod protobuf;
mod reviews;
mod server;
mod services;
mod snapshots;
mod state;
mod storage;
mod subresources;
mod sweep;
mod typed;
mod verbs;
mod view;

pub use auth::User;
pub use config::{Config, DEFAULT_DATA_DIR, DEFAULT_LISTEN, DEFAULT_SERVICE_CIDR, ISSUER};
pub use error::ServerError;
pub use kubelet::KubeletConfig;
pub use server::ApiServer;
