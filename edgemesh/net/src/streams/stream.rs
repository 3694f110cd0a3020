//! A stream to a peer, as tokio sees it.
//!
//! Both directions end on their own: `shutdown` ends ours and leaves the peer's, as with TCP. Dropping a stream
//! that was not shut down cuts it: the peer reads an error, not an end. A stream stays on the connection that it was opened on; when that is lost, reads and
//! writes fail.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use libp2p::swarm;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use super::{Bytes, Load, MAX_STREAMS, framed::Framed};

/// A stream to or from another node. Both ends see the same bytes in the same order.
#[derive(Debug)]
pub struct Stream {
    inner: Framed<Compat<swarm::Stream>>,
    load: Arc<Load>,
    bytes: Arc<Bytes>,
}

impl Stream {
    /// Takes one of the connection's places. `None` when there is none left.
    pub(super) fn new(inner: swarm::Stream, load: &Arc<Load>, bytes: &Arc<Bytes>) -> Option<Self> {
        let place = |open| (open < MAX_STREAMS).then_some(open + 1);
        load.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).ok()?;
        Some(Self { inner: Framed::new(inner.compat()), load: Arc::clone(load), bytes: Arc::clone(bytes) })
    }

    fn sent(&self, count: usize) {
        self.bytes.sent.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.load.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let count = buffer.filled().len().saturating_sub(before);
        if count > 0 {
            self.bytes.received.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
            self.load.reads.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_write(context, data))?;
        self.sent(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
