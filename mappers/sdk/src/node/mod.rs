//! The link to the node: our own `skerry.dmi.v1`, or KubeEdge's `v1beta1` where the node has nothing else.
//!
//! It dials the node's socket again and again, so any order of starting works, and while the node is away the
//! devices are served as they were. A session ends with its connection; the next one tells everything anew.

mod channel;
#[cfg(test)]
mod size_tests;
mod v1;
mod v1_convert;
mod v1beta1;

#[cfg(feature = "conformance")]
pub(crate) use self::channel::dial;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use skerry_telemetry::Readiness;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::Plant;
use crate::metrics::Metrics;
use crate::report::Outbox;

/// First pause before dialling again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause: a node that is back must have its values within seconds, and a unix socket costs nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A session that lasted so long was a good one.
const STABLE: Duration = Duration::from_secs(10);

/// Who the mapper is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) api_version: String,
    pub(crate) protocol: String,
    pub(crate) namespaces: Vec<String>,
}

/// What a session needs.
pub(crate) struct Link {
    pub(crate) identity: Identity,
    /// The node's socket.
    pub(crate) node_socket: PathBuf,
    /// Our own, for `v1beta1`.
    pub(crate) own_socket: PathBuf,
    pub(crate) plant: Arc<dyn Plant>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("cannot reach the node's socket")]
    Dial(#[source] std::io::Error),
    #[error("cannot listen on our own socket")]
    Listen(#[source] std::io::Error),
    #[error("the node does not speak skerry.dmi.v1")]
    Unimplemented,
    #[error("the node ended the session: {0}")]
    Node(String),
    #[error("the node did not answer in time")]
    Late,
}

/// Keeps the link until `stop`.
pub(crate) async fn run(link: Link, stop: CancellationToken) {
    let ready = std::sync::Mutex::new(Some(link.readiness.task("node")));
    let connected = || {
        drop(ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
    };
    let mut failures = 0_u32;
    let mut said = String::new();
    loop {
        let begun = Instant::now();
        let ended = tokio::select! {
            ended = session(&link, &connected) => ended,
            () = stop.cancelled() => return,
        };
        failures = if begun.elapsed() >= STABLE { 1 } else { failures.saturating_add(1) };
        let words = crate::fault::chain(&ended);
        // Said once, not with each attempt.
        if words != said {
            tracing::warn!(socket = %link.node_socket.display(), error = words, "no session with the node");
            said = words;
        }
        let longest = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST_PAUSE);
        let pause = longest.mul_f64(rand::rng().random_range(0.0..1.0));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn session(link: &Link, connected: &(dyn Fn() + Sync)) -> Ended {
    let channel = match channel::dial(&link.node_socket).await {
        Ok(channel) => channel,
        Err(error) => return Ended::Dial(error),
    };
    match v1::session(link, &channel, connected).await {
        Ended::Unimplemented => v1beta1::session(link, &channel, connected).await,
        ended => ended,
    }
}
