//! Buffers for bytes on their way.
//!
//! A direction of a connection has a buffer only while bytes are in it, so silent connections cost none. Most
//! buffers are small. A direction that fills them may have one of a few large ones, so the memory of any number
//! of streams is at most `LARGE_MAX × LARGE`, and twice [`SMALL`] for each stream. A buffer comes back when it
//! is dropped.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Enough for a request: 1,000 streams that all wait in both directions hold 16 MB.
pub(crate) const SMALL: usize = 8 * 1024;
/// As much as one read of a fast stream brings.
pub(crate) const LARGE: usize = 64 * 1024;
/// Large buffers in use at once: 2 MiB. More streams at full speed than these share the processors anyway.
const LARGE_MAX: usize = 32;
/// Free buffers that are kept for the next user; the allocator has the others back.
const KEEP_SMALL: usize = 64;
const KEEP_LARGE: usize = 8;

#[derive(Debug, Default)]
struct Free {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
}

#[derive(Debug, Default)]
struct Inner {
    free: Mutex<Free>,
    large: AtomicUsize,
}

/// A pool; clones are the same pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool(Arc<Inner>);

/// A buffer of a pool.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    pool: Arc<Inner>,
}

impl Pool {
    /// A buffer; a large one if wanted and free.
    pub(crate) fn take(&self, want_large: bool) -> Buffer {
        let inner = &*self.0;
        let large = want_large
            && inner
                .large
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used < LARGE_MAX).then_some(used + 1))
                .is_ok();
        let mut free = inner.free.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = if large { free.large.pop() } else { free.small.pop() };
        drop(free);
        let size = if large { LARGE } else { SMALL };
        Buffer { bytes: bytes.unwrap_or_else(|| vec![0; size].into_boxed_slice()), pool: self.0.clone() }
    }
}

impl Pool {
    /// A large buffer, also when there are too many: for a datagram, while nothing is waited for, so that there
    /// are as many of these as there are threads.
    pub(crate) fn scratch(&self) -> Buffer {
        self.0.large.fetch_add(1, Ordering::Relaxed);
        let bytes = self.0.free.lock().unwrap_or_else(PoisonError::into_inner).large.pop();
        Buffer { bytes: bytes.unwrap_or_else(|| vec![0; LARGE].into_boxed_slice()), pool: self.0.clone() }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let large = bytes.len() == LARGE;
        if large {
            self.pool.large.fetch_sub(1, Ordering::Relaxed);
        }
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, most) = if large { (&mut free.large, KEEP_LARGE) } else { (&mut free.small, KEEP_SMALL) };
        if kept.len() < most {
            kept.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_few_and_come_back() {
        let pool = Pool::default();
        let held: Vec<_> = (0..LARGE_MAX).map(|_| pool.take(true)).collect();
        assert!(held.iter().all(|buffer| buffer.len() == LARGE));
        assert_eq!(pool.take(true).len(), SMALL);
        drop(held);
        assert_eq!(pool.take(true).len(), LARGE);
    }

    #[test]
    fn few_free_buffers_are_kept() {
        let pool = Pool::default();
        let held: Vec<_> = (0..1000).map(|_| pool.take(false)).collect();
        drop(held);
        let free = pool.0.free.lock().unwrap();
        assert_eq!(free.small.len(), KEEP_SMALL);
    }
}
