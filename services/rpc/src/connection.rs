//! What is kept of each connection: counters, stamps, and the order to end it.
//!
//! The byte counter under TLS writes the stamps, the sweeper reads them, and anybody who holds a
//! [`ConnectionHandle`] may order the end. There is no timer, channel or task per connection: an
//! order sets a flag and wakes the connection's task and the bodies of its open streams.
//!
//! Invariants: an order is never taken back, only made stricter; reading a counter never blocks.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Instant;

/// How long the streams of a connection have to end after [`ConnectionHandle::close`].
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Milliseconds since a common start, so that stamps are plain integers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    /// Never zero, so that zero can mean "not".
    pub(crate) fn now_ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// What a connection was told, from mild to strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Order {
    /// Serve.
    Run,
    /// Send GOAWAY, serve what is open.
    Drain,
    /// End the streams that are open, with the reason.
    EndStreams,
    /// Drop the connection.
    Abort,
}

/// See the module documentation.
pub(crate) struct ConnState {
    pub(crate) id: u64,
    pub(crate) clock: Clock,
    /// When the connection became ready for requests; zero before.
    pub(crate) ready_ms: AtomicU64,
    /// Bytes received when it became ready: later ones are HTTP/2.
    pub(crate) ready_rx: AtomicU64,
    pub(crate) last_read_ms: AtomicU64,
    /// When a write first could not go on; zero while writes go on.
    pub(crate) write_blocked_ms: AtomicU64,
    pub(crate) rx: AtomicU64,
    pub(crate) tx: AtomicU64,
    /// Whether there was a request.
    pub(crate) used: AtomicBool,
    pub(crate) open_streams: AtomicU32,
    /// When the last stream ended.
    pub(crate) idle_since_ms: AtomicU64,
    /// When a closing connection is aborted; zero: not closing.
    pub(crate) abort_at_ms: AtomicU64,
    /// What the metrics know of `rx` and `tx` already.
    pub(crate) counted: [AtomicU64; 2],
    order: AtomicU8,
    reason: OnceLock<Box<str>>,
    /// The reason's class, for metrics.
    label: OnceLock<&'static str>,
    /// How the bytes below broke, for the one who asks why.
    failure: OnceLock<Box<str>>,
    task: AtomicWaker,
    /// Wakers of bodies that wait for their handler; few, as the streams of a connection are.
    bodies: Mutex<Vec<Option<Waker>>>,
}

impl ConnState {
    pub(crate) fn new(id: u64, clock: Clock) -> Self {
        let now = clock.now_ms();
        Self {
            id,
            clock,
            ready_ms: AtomicU64::new(0),
            ready_rx: AtomicU64::new(0),
            last_read_ms: AtomicU64::new(now),
            write_blocked_ms: AtomicU64::new(0),
            rx: AtomicU64::new(0),
            tx: AtomicU64::new(0),
            used: AtomicBool::new(false),
            open_streams: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(now),
            abort_at_ms: AtomicU64::new(0),
            counted: [AtomicU64::new(0), AtomicU64::new(0)],
            order: AtomicU8::new(Order::Run as u8),
            reason: OnceLock::new(),
            label: OnceLock::new(),
            failure: OnceLock::new(),
            task: AtomicWaker::new(),
            bodies: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn ready(&self) {
        self.ready_rx.store(self.rx.load(Ordering::Relaxed), Ordering::Relaxed);
        self.ready_ms.store(self.clock.now_ms(), Ordering::Relaxed);
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.rx.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_read_ms.store(self.clock.now_ms(), Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.tx.fetch_add(bytes as u64, Ordering::Relaxed);
        self.write_blocked_ms.store(0, Ordering::Relaxed);
    }

    pub(crate) fn write_blocked(&self) {
        let now = self.clock.now_ms();
        // Only the first of a row of blocked writes counts.
        let _ = self.write_blocked_ms.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn stream_opened(&self) {
        self.used.store(true, Ordering::Relaxed);
        self.open_streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stream_ended(&self) {
        self.idle_since_ms.store(self.clock.now_ms(), Ordering::Relaxed);
        self.open_streams.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, error: &std::io::Error) {
        let _ = self.failure.set(error.to_string().into());
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(AsRef::as_ref)
    }

    pub(crate) fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Run,
            1 => Order::Drain,
            2 => Order::EndStreams,
            _ => Order::Abort,
        }
    }

    pub(crate) fn reason(&self) -> &str {
        self.reason.get().map_or("the server is stopping", AsRef::as_ref)
    }

    /// Why the connection was told to end, as a class; `None`: it was not.
    pub(crate) fn label(&self) -> Option<&'static str> {
        self.label.get().copied()
    }

    /// Gives an order; the first reason stays.
    pub(crate) fn give(&self, order: Order, label: &'static str, reason: &str) {
        if order >= Order::EndStreams {
            let _ = self.label.set(label);
            let _ = self.reason.set(reason.into());
        }
        if self.order.fetch_max(order as u8, Ordering::AcqRel) >= order as u8 {
            return;
        }
        self.task.wake();
        if order >= Order::EndStreams {
            let bodies = std::mem::take(&mut *self.bodies.lock().unwrap_or_else(PoisonError::into_inner));
            bodies.into_iter().flatten().for_each(Waker::wake);
        }
    }

    pub(crate) fn register_task(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
    }

    /// Registers a body that waits, in its slot or a free one. The caller checks the order after
    /// this, so no order is missed.
    pub(crate) fn register_body(&self, slot: &mut Option<usize>, waker: &Waker) {
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = slot.and_then(|at| bodies.get_mut(at)) {
            if !place.as_ref().is_some_and(|known| known.will_wake(waker)) {
                *place = Some(waker.clone());
            }
            return;
        }
        let at = bodies.iter().position(Option::is_none).unwrap_or(bodies.len());
        if let Some(place) = bodies.get_mut(at) {
            *place = Some(waker.clone());
        } else {
            bodies.push(Some(waker.clone()));
        }
        *slot = Some(at);
    }

    pub(crate) fn forget_body(&self, slot: &mut Option<usize>) {
        if let Some(at) = slot.take()
            && let Some(place) = self.bodies.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at)
        {
            *place = None;
        }
    }
}

/// One connection of a server: its counters, and the means to end it. Cheap to clone.
#[derive(Clone)]
pub struct ConnectionHandle(pub(crate) Arc<ConnState>);

impl ConnectionHandle {
    /// A handle of no connection, for tests of those who keep handles.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn detached() -> Self {
        Self(Arc::new(ConnState::new(0, Clock::new())))
    }

    /// Number of the connection in its server, for logs.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Ends the connection: its streams end with `UNAVAILABLE` and the reason, and after a second at
    /// most the connection is dropped. Returns at once.
    pub fn close(&self, reason: &str) {
        let at = self.0.clock.now_ms().saturating_add(u64::try_from(CLOSE_GRACE.as_millis()).unwrap_or(1000));
        let _ = self.0.abort_at_ms.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
        self.0.give(Order::EndStreams, "closed_by_service", reason);
    }

    /// Drops the connection as soon as its task runs, without a word to the peer: for a peer that
    /// lost the right to be served.
    pub fn abort(&self, reason: &str) {
        self.0.give(Order::Abort, "aborted_by_service", reason);
    }

    /// Bytes received and sent, with TLS.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.0.rx.load(Ordering::Relaxed), self.0.tx.load(Ordering::Relaxed))
    }

    /// Time since the last byte from the peer.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        Duration::from_millis(self.0.clock.now_ms().saturating_sub(self.0.last_read_ms.load(Ordering::Relaxed)))
    }

    /// Whether the connection was ordered to end.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.0.order() >= Order::EndStreams
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {}", self.0.id)
    }
}
