//! One connection that is watched: dialled once, never again, with the reason of its end.
//!
//! The task that drives it also speaks when the server has long heard nothing from us: HTTP/2's own
//! ping is sent only while nothing comes *in*, but the server judges us by what we send.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::Target;
use super::channel::Channel;
use super::dial::{Dialled, dial};
use crate::connection::{ConnState, Order};
use crate::error::ConnectError;
use crate::limits::ClientLimits;

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// We ended it; the text says why.
    Local(Arc<str>),
    /// The peer ended it in good order: it stops, or has no use for us.
    Peer,
    /// The peer did not answer pings: its link or its process is gone.
    Silent,
    /// The connection broke; the text says how.
    Broken(Arc<str>),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(reason) => f.write_str(reason),
            Self::Peer => f.write_str("ended by the peer"),
            Self::Silent => f.write_str("the peer is silent"),
            Self::Broken(reason) => write!(f, "broken: {reason}"),
        }
    }
}

/// One connection. It ends when the peer or the link ends, when [`Connection::close`] is called, or
/// when this value and all its channels are gone.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    closed: watch::Receiver<Option<CloseReason>>,
    state: Arc<ConnState>,
    address: Arc<str>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.address)
    }
}

/// Dials one connection.
///
/// # Errors
/// See [`ConnectError`]. With TLS 1.3 a server that refuses our certificate does so only after we
/// think the handshake is done: that is a [`CloseReason::Broken`] a moment later.
pub async fn connect_once(target: &Target, limits: &ClientLimits) -> Result<Connection, ConnectError> {
    let Dialled { sender, http, state, address } = dial(target, limits).await?;
    let channel = Channel::once(target, limits.clone(), sender);
    let (tell, closed) = watch::channel(None);
    let weak = channel.downgrade();
    let driven = Arc::clone(&state);
    let heartbeat = limits.keepalive.map(|(interval, _)| interval);
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = http => ended,
            never = heartbeats(heartbeat, &driven, || weak.upgrade().map(Channel::from_inner)) => match never {},
        };
        tell.send_replace(Some(reason(&driven, ended.err())));
    });
    Ok(Connection { channel, closed, state, address: address.into() })
}

pub(super) fn reason(state: &ConnState, error: Option<hyper::Error>) -> CloseReason {
    if state.order() == Order::Abort {
        return CloseReason::Local(state.reason().into());
    }
    match (error, state.failure()) {
        (Some(error), _) if error.is_timeout() => CloseReason::Silent,
        (_, Some(failure)) => CloseReason::Broken(failure.into()),
        (None, None) => CloseReason::Peer,
        (Some(error), None) => CloseReason::Broken(crate::error::chain(&error).into()),
    }
}

/// Sends a small request when nothing was sent for an interval although bytes came in. `channel` gives
/// the channel while somebody uses it.
pub(super) async fn heartbeats(
    interval: Option<Duration>,
    state: &ConnState,
    channel: impl Fn() -> Option<Channel>,
) -> std::convert::Infallible {
    let Some(interval) = interval else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(interval / 4);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sent, mut sent_at) = (0, Instant::now());
    let mut received = 0;
    loop {
        let now = ticks.tick().await;
        let tx = state.tx.load(Relaxed);
        if tx != sent {
            (sent, sent_at) = (tx, now);
            received = state.rx.load(Relaxed);
        } else if now.duration_since(sent_at) >= interval * 3 / 4 && state.rx.load(Relaxed) != received {
            let Some(channel) = channel() else { continue };
            sent_at = now;
            tokio::spawn(async move {
                // The answer does not matter, only that something was sent.
                let _ = channel.heartbeat(interval).await;
            });
        }
    }
}

impl Connection {
    /// For generated clients. Calls fail with `UNAVAILABLE` once the connection has ended.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) -> CloseReason {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(CloseReason::Peer),
            // The driving task is gone: the runtime stops.
            Err(_) => CloseReason::Local("the runtime stops".into()),
        }
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }

    /// Cuts the connection; open calls fail.
    pub fn close(&self, reason: &str) {
        self.state.give(Order::Abort, "closed_by_client", reason);
    }

    /// Bytes received and sent, with TLS.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.state.rx.load(Relaxed), self.state.tx.load(Relaxed))
    }

    /// Time since the last byte from the server.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        Duration::from_millis(self.state.clock.now_ms().saturating_sub(self.state.last_read_ms.load(Relaxed)))
    }

    /// The address that answered.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}
