//! Devices from the API to the device and back: every service between them, cut and restarted.
//!
//! [`System`] is the whole way, each service as a process would be. [`round`] lets the cloud and people at the node
//! write at once while links are cut and services are killed, waits until everything has come to rest, and judges:
//! everybody wants and has the same, nothing is lost that the rule of convergence says must hold, the conditions are
//! right, and nobody writes any more. [`Bug`]s are planted to show that it would be found out.

#![allow(clippy::indexing_slicing, reason = "of JSON only, where what is missing is null")]

mod api;
mod history;
mod part;
mod plant;
mod relay;
mod rest;
mod rng;
mod round;
mod system;

pub use api::{Kubernetes, devices_api};
pub use history::{History, Taken, Write};
pub use plant::{Plant, REFUSED};
pub use relay::Bug;
pub use rest::{Rest, desired_in};
pub use rng::Rng;
pub use round::{PROPERTIES, Plan, round};
pub use system::{NODE, Service, System, key};

use std::time::Duration;

/// How long a test waits for something that should happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again until it is so.
///
/// # Errors
/// Why it was not so, the last time that it was asked within [`PATIENCE`].
pub async fn eventually(mut ask: impl AsyncFnMut() -> Result<(), String>) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let Err(why) = ask().await else { return Ok(()) };
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "in vain: {why}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
