//! The state of the link, for people and for the services of the node.
//!
//! The services see it as an object of kind `Link` from their `Source`, so that edged can say
//! `CloudConnected` and send the node's status at once when the link is back. It lives in memory: after
//! a restart the link is down until it is up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use skerry_common::{Encoding, Key, Version, kinds};
use skerry_sync::Object;

use crate::listeners::Listeners;
use crate::metrics::Metrics;

/// What is known about the link.
#[derive(Debug, Clone)]
pub(crate) struct LinkState {
    pub(crate) connected: bool,
    /// Why it is down; empty when it is up.
    pub(crate) reason: String,
    pub(crate) since_unix_ms: i64,
    /// The hub that is connected or tried.
    pub(crate) hub: String,
    pub(crate) session: u64,
    /// What is wrong with the store; empty when nothing is.
    pub(crate) store_problem: String,
    change: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Link {
    state: Mutex<LinkState>,
    listeners: Arc<Listeners>,
    metrics: Metrics,
}

impl Link {
    pub(crate) fn new(listeners: Arc<Listeners>, metrics: Metrics) -> Self {
        let state = LinkState {
            connected: false,
            reason: "not connected yet".to_owned(),
            since_unix_ms: now_unix_ms(),
            hub: String::new(),
            session: 0,
            store_problem: String::new(),
            change: 1,
        };
        Self { state: Mutex::new(state), listeners, metrics }
    }

    /// The key of the one object of kind `Link`.
    pub(crate) fn key() -> Key {
        Key::new("", "link")
    }

    pub(crate) fn state(&self) -> LinkState {
        self.lock().clone()
    }

    pub(crate) fn connected(&self, hub: &str, session: u64) {
        tracing::info!(hub, session, "cloud connected");
        self.metrics.connected.set(1);
        self.metrics.sessions.inc();
        self.change(|state| {
            state.connected = true;
            state.reason.clear();
            state.since_unix_ms = now_unix_ms();
            state.hub = hub.to_owned();
            state.session = session;
        });
    }

    /// Says why the link is down. Since when stays from the first reason.
    pub(crate) fn disconnected(&self, reason: &str) {
        let (was_connected, known) = {
            let state = self.lock();
            (state.connected, state.reason == reason)
        };
        if was_connected {
            tracing::warn!(reason, "cloud disconnected");
        } else if known {
            tracing::debug!(reason, "cloud still not connected");
        } else {
            tracing::warn!(reason, "cloud not connected");
        }
        self.metrics.connected.set(0);
        self.change(|state| {
            if state.connected {
                state.since_unix_ms = now_unix_ms();
            }
            state.connected = false;
            state.reason = reason.to_owned();
        });
    }

    /// Says what is wrong with the store; empty when it is well again.
    pub(crate) fn store_problem(&self, problem: &str) {
        if self.lock().store_problem != problem {
            self.change(|state| state.store_problem = problem.to_owned());
        }
    }

    /// The link as the services of the node see it.
    pub(crate) fn object(&self) -> Object {
        let state = self.lock();
        let body = serde_json::json!({
            "connected": state.connected,
            "reason": state.reason,
            "sinceUnixMs": state.since_unix_ms,
            "session": state.session,
            "storeProblem": state.store_problem,
        });
        Object {
            version: Version::new(state.change.to_string()),
            body: Bytes::from(body.to_string()),
            encoding: Encoding::Identity,
        }
    }

    fn change(&self, with: impl FnOnce(&mut LinkState)) {
        let mut state = self.lock();
        with(&mut state);
        state.change += 1;
        drop(state);
        self.listeners.changed(kinds::LINK, &[Self::key()]);
    }

    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wall clock, for people; nothing is decided by it.
pub(crate) fn now_unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
