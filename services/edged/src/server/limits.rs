//! The limits of the API, each with its reason. Those of streams in time are in `skerry_common::relay`.

use std::time::Duration;

/// Connections at once: each stream is one, and an API server keeps some idle ones.
pub(super) const MAX_CONNECTIONS: usize = 512;
/// Streams at once. Each holds a descriptor or two and some 40 KiB.
pub(super) const MAX_STREAMS: usize = 256;
/// A TLS handshake must be over by then.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// The headers of the next request must have come by then: longer than the 90 s for which Go keeps idle
/// connections, so that no request meets a closed one.
pub(super) const HEADER: Duration = Duration::from_secs(120);
/// Bytes of request headers: the command of an exec is in them.
pub(super) const MAX_HEADERS: usize = 64 * 1024;
/// The runtime's streaming server is on this machine.
pub(super) const DIAL: Duration = Duration::from_secs(5);
/// Until it answers an upgrade.
pub(super) const UPGRADE: Duration = Duration::from_secs(30);
/// When a stream ends before the process of its exec was seen, it is looked for so much longer.
pub(super) const LATE: Duration = Duration::from_secs(2);
/// Bytes of an answer of the runtime that is no upgrade: an error message.
pub(super) const MAX_ERROR: usize = 64 * 1024;
/// After a failed accept (out of descriptors), before the next.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
