//! The mesh's data path in the kernel: connections to Services become connections to their backends, or to the proxy.
//!
//! The agent gives a [`State`]: frontends (ClusterIPs, external addresses, NodePorts) and who serves each. Everything
//! else is here: rules in a table of our own that nobody else has and that touches nobody else's, changed in
//! transactions that hold only what is different, verified, and removed without a trace. What is needed of the kernel
//! and of nft, and how this lives beside kube-proxy and network plugins, is in `README.md`.

mod config;
mod conntrack;
mod error;
mod look;
mod neighbours;
mod netfilter;
mod nft;
mod owner;
mod program;
mod ruleset;
mod state;

pub use config::{Config, Interface, InterfaceError, ProxyPorts};
pub use conntrack::Flows;
pub use error::Error;
pub use look::look;
pub use neighbours::{
    EDGEMESH_PROXY_NAME, HEADLESS, KubeProxy, Leave, Mode, Neighbours, PROXY_NAME, PROXY_NAME_OURS, Policy, Sightings,
};
pub use netfilter::{Change, Netfilter};
pub use state::{
    At, Family, Frontend, MAX_AFFINITY, MAX_ALL_SLOTS, MAX_FRONTENDS, MAX_SLOTS, Protocol, Service, Slot, State,
    StateError,
};
