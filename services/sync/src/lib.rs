//! The sync protocol's state machines, without IO, clock or randomness.
//!
//! Objects flow from a [`Publisher`] to a [`Subscriber`] (`Source.Subscribe`), reports from a
//! [`Reporter`] to a sink guarded by a [`Fence`] and a [`Dedup`] (`Sink.Report`). Messages and the
//! time come in as arguments, messages go out as results; whoever owns the stream moves them. So
//! the same code runs in the services and, millions of steps long, in the simulation.
//!
//! Between two ends there is a set of dirty keys, never a queue of payloads: an object that changes
//! ten times while a link is slow is read and sent once. What an end must remember it can always
//! rebuild: a subscriber says what it holds, a reporter has its outbox.
//!
//! Versions are opaque: equal or not equal. Nothing here orders them; the order of a subscription
//! is the order of its stream, and the order of streams is the order of sessions.

mod compact;
mod dedup;
mod error;
mod fence;
mod object;
mod publisher;
mod reporter;
mod subscriber;

pub mod limits;
pub mod version;
pub mod wire;

pub use dedup::Dedup;
pub use error::ProtocolError;
pub use fence::{Admit, Fence, Stale};
pub use limits::{PublishLimits, SubscribeLimits};
pub use object::{Change, Lookup, Object, SubscriptionId, View};
pub use publisher::{Out, Publisher};
pub use reporter::{Outcome, Reporter, Settled};
pub use skerry_common::Encoding;
pub use subscriber::{Apply, Subscriber};
pub use version::VersionError;
pub use wire::IncomingReport;
