//! CloudHub and EdgeHub together, with a cloud in memory behind them.
//!
//! [`Cloud`] stands where EdgeController stands: a source and a sink with objects in a map, so that a
//! test can make it say what a real one must not. [`Fixture`] has the CA and starts hubs and nodes.

mod bytes_codec;
mod cloud;
mod fixture;
mod proxy;
mod raw;

pub use bytes_codec::{BytesCodec, with_unknown, wrapped};
pub use cloud::{Cloud, Reported};
pub use fixture::{Edge, Fixture, Hub, Local, watch};
pub use proxy::{FaultProxy, Mode};
pub use raw::{Raw, RawStream, call};

use std::time::Duration;

/// How long a test waits for something that should happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition holds.
///
/// # Errors
/// When it does not hold within [`PATIENCE`].
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.map_err(|_| anyhow::anyhow!("in vain: {what}"))
}
