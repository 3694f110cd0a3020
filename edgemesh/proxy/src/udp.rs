//! Redirected datagrams: the listener and its flows.
//!
//! One task receives; each flow (the datagrams between a client and a destination) has a task of its own and a
//! short queue. Who serves a flow is chosen at its first datagram and kept. A flow ends after silence, when its
//! backend is not there (the next datagram chooses anew), or when it must make room. What does not fit is
//! dropped and counted, as a full link would drop it; nobody waits for a slow flow.

mod conntrack;
pub(crate) mod flow;
mod frames;
pub(crate) mod socket;
mod table;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use skerry_common::drain::Watch;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::sleep;

use self::conntrack::{ASK_AGAIN, Conntrack};
use self::flow::Meter;
use self::socket::{Received, Reply};
use self::table::Table;
use crate::accept::Counted;
use crate::dial::Dial;
use crate::error::BindError;
use crate::flow::Choose;
use crate::limits::{ACCEPT_PAUSE, FLOW_QUEUE, MAX_REPLY_SOCKETS, QUEUED_BYTES};
use crate::pool::LARGE;
use crate::proxy::{Proxy, Shared};
use crate::socket::Interception;

/// A listener for redirected datagrams.
#[derive(Debug)]
pub struct UdpListen {
    socket: UdpSocket,
    address: SocketAddr,
    conntrack: Option<Conntrack>,
}

impl UdpListen {
    /// Listens on an address. Port 0 takes a free port.
    ///
    /// # Errors
    /// When the address is taken, the process may not divert packets, or the kernel has no connection tracking
    /// that could tell where redirected ones were sent.
    pub fn bind(address: SocketAddr, interception: Interception) -> Result<Self, BindError> {
        let conntrack = match interception {
            Interception::Redirect => Conntrack::open().map(Some),
            Interception::Transparent => Ok(None),
        };
        let bound = conntrack.and_then(|conntrack| {
            let socket = socket::listen(address, interception)?;
            Ok(Self { address: socket.local_addr()?, socket, conntrack })
        });
        bound.map_err(|source| BindError::Listen { address, source })
    }

    /// Its address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// A client and the address at which its datagrams arrive.
type Key = (SocketAddr, SocketAddr);

/// What the listener knows of a flow.
struct Handle {
    queue: mpsc::Sender<Datagram>,
    destination: SocketAddr,
}

/// A datagram that waits. Its bytes count until it is dropped.
pub(crate) struct Datagram {
    bytes: Bytes,
    queued: Arc<AtomicUsize>,
}

impl Datagram {
    /// `None`: too much waits already.
    fn new(bytes: &[u8], queued: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |waiting: usize| Some(waiting + bytes.len()).filter(|waiting| *waiting <= QUEUED_BYTES);
        queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self { bytes: Bytes::copy_from_slice(bytes), queued: queued.clone() })
    }
}

impl Drop for Datagram {
    fn drop(&mut self) {
        self.queued.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// A listener at work.
pub(crate) struct Listener<C, D> {
    shared: Arc<Shared<C, D>>,
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    conntrack: Option<Conntrack>,
    table: Mutex<Table<Key, Handle>>,
    replies: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>,
    queued: Arc<AtomicUsize>,
    stop: Watch,
}

impl<C: Choose, D: Dial> Proxy<C, D> {
    /// Serves redirected datagrams until the drain begins. Flows have no end that could be waited for, so they end
    /// then.
    pub async fn serve_udp(&self, listen: UdpListen, mut stop: Watch) {
        let UdpListen { socket, address, conntrack } = listen;
        let listener = Arc::new(Listener {
            shared: self.0.clone(),
            socket: Arc::new(socket),
            address,
            conntrack,
            table: Mutex::new(Table::new(self.0.limits.flows)),
            replies: Mutex::default(),
            queued: Arc::default(),
            stop: stop.clone(),
        });
        tokio::select! {
            _guard = stop.stopped() => {}
            () = listener.receive() => {}
        }
    }
}

impl<C: Choose, D: Dial> Listener<C, D> {
    async fn receive(self: &Arc<Self>) {
        let mut buffer = vec![0; LARGE];
        loop {
            match socket::receive(&self.socket, &mut buffer).await {
                Ok(Some(received)) => self.datagram(received, buffer.get(..received.bytes).unwrap_or_default()),
                Ok(None) => self.shared.metrics.dropped("no_destination"),
                Err(error) => {
                    tracing::warn!(%error, "cannot receive datagrams");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Puts a datagram into the queue of its flow.
    fn datagram(self: &Arc<Self>, received: Received, bytes: &[u8]) {
        let key = (received.client, received.local);
        let metrics = &self.shared.metrics;
        let Some(datagram) = Datagram::new(bytes, &self.queued) else {
            metrics.dropped("queued");
            return;
        };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = Some(datagram);
        if let Some((handle, stamp)) = table.get(&key) {
            let now = self.shared.now();
            let silence = u64::try_from(ASK_AGAIN.as_millis()).unwrap_or(u64::MAX);
            let same = now.saturating_sub(stamp.last()) < silence
                || self.destination(received).is_ok_and(|destination| destination == handle.destination);
            if same && let Some(datagram) = rest.take() {
                stamp.touch(now);
                match handle.queue.try_send(datagram) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => metrics.dropped("queue"),
                    // The flow has just ended; this one begins the next.
                    Err(mpsc::error::TrySendError::Closed(datagram)) => rest = Some(datagram),
                }
            }
        }
        let Some(first) = rest else { return };
        let Ok(destination) = self.destination(received) else {
            metrics.dropped("no_destination");
            return;
        };
        let (queue, queued) = mpsc::channel(FLOW_QUEUE);
        let meter = Meter::new(self.shared.now());
        let (number, evicted) = table.insert(key, Handle { queue, destination }, meter.stamp.clone());
        drop((table, evicted));
        let counted = Counted::new(&metrics.flows);
        let (listener, stop) = (self.clone(), self.stop.clone());
        tokio::spawn(async move {
            listener.flow(key, destination, first, queued, meter, stop).await;
            listener.table.lock().unwrap_or_else(PoisonError::into_inner).remove(&key, number);
            drop(counted);
        });
    }

    /// Where a datagram was sent.
    fn destination(&self, received: Received) -> io::Result<SocketAddr> {
        let destination = match &self.conntrack {
            Some(conntrack) => conntrack.original(received.client, received.local)?,
            None => received.local,
        };
        // Sent to the listener itself.
        let own = match &self.conntrack {
            Some(_) => destination == received.local,
            None => destination.port() == self.address.port(),
        };
        if own { Err(io::ErrorKind::NotFound.into()) } else { Ok(destination) }
    }

    /// The way back to the clients of a destination.
    fn reply(&self, local: SocketAddr, destination: SocketAddr) -> io::Result<Reply> {
        if self.conntrack.is_some() {
            return Ok(Reply::Listener(self.socket.clone(), local.ip()));
        }
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = replies.get(&destination) {
            return Ok(Reply::Bound(socket.clone()));
        }
        if replies.len() >= MAX_REPLY_SOCKETS {
            replies.retain(|_, socket| Arc::strong_count(socket) > 1);
        }
        if replies.len() >= MAX_REPLY_SOCKETS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let socket = Arc::new(socket::bound(destination)?);
        replies.insert(destination, socket.clone());
        Ok(Reply::Bound(socket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_all_flows_together_is_bounded_and_comes_back() {
        let queued = Arc::default();
        let bytes = vec![0; 64 * 1024 - 1];
        let held: Vec<_> = std::iter::from_fn(|| Datagram::new(&bytes, &queued)).collect();
        assert_eq!(held.len(), QUEUED_BYTES / bytes.len());
        drop(held);
        assert_eq!(queued.load(Ordering::Relaxed), 0);
        assert!(Datagram::new(&bytes, &queued).is_some());
    }
}
