//! How the services of a node follow edgehub and report to it.
//!
//! Used by every service of the node beside edgehub. [`follow`] brings the objects of the kinds that the
//! service names, [`report`] empties its [`Outbox`]; each keeps one stream, and opens it again without end,
//! because edgehub is on the same machine and comes back. Differences travel, never everything.
//!
//! Nothing is kept on disk here: what a service was told it names again when it connects, and what it
//! has to report it can compute again after a restart.

mod error;
mod follow;
mod outbox;
mod report;

pub use follow::{BATCHES, Batch, Change, follow};
pub use outbox::{Outbox, Report};
pub use report::{FLUSH, report};

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use skerry_proto::sync::v1 as pb;
use skerry_rpc::Channel;

/// The protocol version that is spoken.
const PROTOCOL: u32 = 1;
/// Waits between attempts.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Messages on their way into a stream.
const SEND_QUEUE: usize = 64;

/// Who connects, and how. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    /// The node.
    pub node: String,
    /// Name of the service, for people.
    pub service: &'static str,
    /// The way to edgehub.
    pub channel: Channel,
    /// Counts subscriptions that ended.
    pub reconnects: Counter,
}

impl Client {
    fn hello(&self) -> pb::Hello {
        pb::Hello {
            protocols: vec![PROTOCOL],
            node: self.node.clone(),
            session: 0,
            agent: format!("{}/{}", self.service, skerry_telemetry::VERSION),
        }
    }
}

/// The wall clock in milliseconds since the epoch.
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
