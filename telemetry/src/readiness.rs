//! Readiness as a set of named tasks.
//!
//! A part of the process that must finish something before the process is ready holds a [`Task`];
//! dropping it is being ready. So readiness cannot be forgotten, and what is pending has a name.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The tasks that a process waits for. Clones are the same set.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    pending: BTreeSet<String>,
    draining: bool,
}

/// A task that is not ready yet; dropping it makes it ready.
#[derive(Debug)]
#[must_use]
pub struct Task {
    name: String,
    readiness: Readiness,
}

impl Readiness {
    /// A set without tasks, which is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task. A second one of the same name replaces the first.
    pub fn task(&self, name: &str) -> Task {
        self.lock().pending.insert(name.to_owned());
        Task { name: name.to_owned(), readiness: self.clone() }
    }

    /// Says that the process is about to stop: never ready again.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// Whether nothing is pending.
    pub fn is_ready(&self) -> bool {
        let state = self.lock();
        state.pending.is_empty() && !state.draining
    }

    /// What is waited for, by name.
    pub fn pending(&self) -> Vec<String> {
        let state = self.lock();
        let draining = state.draining.then(|| "draining".to_owned());
        state.pending.iter().cloned().chain(draining).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    /// The task is done.
    pub fn ready(self) {}
}

impl Drop for Task {
    fn drop(&mut self) {
        self.readiness.lock().pending.remove(&self.name);
        tracing::debug!(task = self.name, pending = ?self.readiness.pending(), "ready");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_task_is() {
        let readiness = Readiness::new();
        let (store, link) = (readiness.task("store"), readiness.task("link"));
        store.ready();
        assert_eq!(readiness.pending(), ["link"]);
        drop(link);
        assert!(readiness.is_ready());
        readiness.drain();
        assert!(!readiness.is_ready());
    }
}
