//! dmi: devices of this node, for mappers and for people.
//!
//! It follows edgehub for the Devices of its node and their models, gives each to a mapper of its protocol,
//! keeps a twin of every property, and reports what devices say. Mappers of KubeEdge speak DMI v1beta1 with
//! it, others one stream of `skerry.dmi.v1`; people look at devices and set desired values through
//! `skerry.dmi.v1.Devices`. All of it on one unix socket, with or without the cloud. Where a broker is
//! configured, clients of KubeEdge's MQTT topics do the same ([`bus`]).
//!
//! A state machine without IO decides ([`fleet`]), with the rule of convergence in [`twin`]; the rest does it.
//! Devices and models are not stored here: edgehub has them on disk and serves them without the cloud, and a
//! second copy could only be another. What only dmi knows is in a store of its own: values set on the node,
//! before they are acknowledged; mappers that must be called again after a restart; the last values, at an
//! interval.

mod access;
mod app;
mod bus;
mod config;
mod error;
mod fleet;
mod follow;
mod metrics;
mod node;
mod persist;
mod status;
mod twin;
mod v1;
mod v1beta1;

pub use app::Dmi;
pub use bus::{Mqtt, MqttTls, MqttVersion};
pub use config::{Config, Connect, DEFAULT_SOCKET, Options, Quotas};
pub use error::Error;
