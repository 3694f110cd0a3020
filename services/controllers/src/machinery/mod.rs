//! What every controller stands on: caches fed by one watch per kind, keyed work queues, workers,
//! the guard against stale caches, and Events.
//!
//! Used by every controller of this crate; nothing here knows what a controller decides. A reconcile
//! reads the caches, decides with a pure function, and writes through the API; when anything fails it
//! is run again, because the queue holds keys and never changes.

pub(crate) mod cache;
pub(crate) mod events;
pub(crate) mod expectations;
pub(crate) mod informer;
pub(crate) mod queue;
pub(crate) mod tasks;
pub(crate) mod worker;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex` even when a holder panicked: every critical section of this crate leaves its data
/// usable at each statement, and one failed reconcile must not stop the others.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
