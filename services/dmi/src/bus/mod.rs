//! KubeEdge's event bus: twins, states and members over MQTT 3.1.1 or 5, on a broker that somebody runs.
//!
//! Started by [`crate::app`] where a broker is configured. `topic`, `request` and `payload` are KubeEdge's contract,
//! `limits` and `news` decide without IO, `answer` does what is asked; `wire` is one connection, `inbound` sorts what
//! comes, and `client` serves one connection after the other.
//!
//! A wanted value is on disk before its result is published. Values and states are taken for devices that have
//! no mapper; where there is one, it alone is heard. What a message says of its sender is not believed, and the
//! node cannot tell clients of the broker apart: who may publish what is the broker's part
//! (`services/dmi/MQTT.md`).
//!
//! Limits: [`MAX_PAYLOAD`] of a request; the rate of each device ([`Mqtt::messages_per_second`]); [`INBOUND`]
//! messages wait, and what comes while they do is thrown away and counted. Each connection begins with nothing:
//! what was not sent on the last one is looked at again, never sent late.

mod answer;
mod client;
mod error;
mod inbound;
mod limits;
mod login;
mod news;
mod options;
mod payload;
mod request;
mod topic;
mod wire;

pub(crate) use client::run;
pub use options::{Mqtt, MqttTls, MqttVersion};

/// Longest request: hundreds of properties with their values.
const MAX_PAYLOAD: usize = 64 * 1024;
/// Longest message either way, beyond which a connection ends: all devices of a large node in one answer.
const MAX_PACKET: usize = 4 * 1024 * 1024;
/// Requests that wait for their turn; each is done in milliseconds.
const INBOUND: usize = 256;
/// Answers and news on their way to the connection.
const OUTBOUND: usize = 64;
