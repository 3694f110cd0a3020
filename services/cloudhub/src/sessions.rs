//! The sessions of this replica: at most one per node, and the newest wins.
//!
//! A session is one connection of a node. The node numbers its sessions; a stream that says a number
//! below the one we know is refused, a higher one ends the older session. The streams of a session
//! hold an [`Attached`]; when the last one is dropped the session is over.
//!
//! What changed is a set of node names ([`Sessions::changes`]), never a queue: whoever reports our
//! sessions elsewhere reads the present state of each name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skerry_common::NodeName;
use skerry_rpc::ConnectionHandle;
use skerry_telemetry::emit;
use tokio::sync::Notify;

use crate::events::{SessionEnded, SessionStarted};
use crate::metrics::Metrics;
use crate::usage::Usage;

/// A newer session of the node exists.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stale {
    pub(crate) newest: u64,
}

/// One session of a node.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) node: NodeName,
    pub(crate) number: u64,
    pub(crate) connected_unix_ms: i64,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) agent: Box<str>,
    pub(crate) connection: ConnectionHandle,
    pub(crate) usage: Usage,
    streams: AtomicU32,
}

/// All sessions of the replica.
#[derive(Debug)]
pub(crate) struct Sessions {
    state: Mutex<State>,
    changed: Notify,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    live: BTreeMap<NodeName, Arc<Session>>,
    dirty: BTreeSet<NodeName>,
}

/// What a stream says about its session in Hello, and where it comes from.
pub(crate) struct Arrival {
    pub(crate) node: NodeName,
    pub(crate) number: u64,
    pub(crate) agent: String,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) connection: ConnectionHandle,
    pub(crate) now_unix_ms: i64,
}

/// A stream's hold on its session.
#[derive(Debug)]
pub(crate) struct Attached {
    sessions: Arc<Sessions>,
    pub(crate) session: Arc<Session>,
}

impl Sessions {
    pub(crate) fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Notify::new(), metrics })
    }

    /// Adds a stream to its session, beginning the session if it is new.
    pub(crate) fn attach(self: &Arc<Self>, arrival: Arrival) -> Result<Attached, Stale> {
        let mut state = self.lock();
        if let Some(known) = state.live.get(&arrival.node) {
            if known.number > arrival.number {
                return Err(Stale { newest: known.number });
            }
            if known.number == arrival.number {
                known.streams.fetch_add(1, Ordering::Relaxed);
                return Ok(Attached { sessions: self.clone(), session: known.clone() });
            }
        }
        let session = Arc::new(Session {
            node: arrival.node.clone(),
            number: arrival.number,
            connected_unix_ms: arrival.now_unix_ms,
            remote: arrival.remote,
            agent: arrival.agent.into(),
            connection: arrival.connection,
            usage: Usage::default(),
            streams: AtomicU32::new(1),
        });
        let older = state.live.insert(arrival.node.clone(), session.clone());
        state.dirty.insert(arrival.node);
        drop(state);
        if let Some(older) = older {
            self.ended(&older, "newer session");
            older.connection.close("a newer session of this node began");
        }
        emit(SessionStarted { node: &session.node, session: session.number, agent: &session.agent }, &self.metrics);
        self.changed.notify_one();
        Ok(Attached { sessions: self.clone(), session })
    }

    /// Ends the node's session if it is older than `number`.
    pub(crate) fn fence(&self, node: &NodeName, number: u64) {
        let older = self.get(node).filter(|session| session.number < number);
        if let Some(older) = older {
            self.remove(&older, "fenced");
            older.connection.close("a newer session of this node exists elsewhere");
        }
    }

    /// Ends the node's session; the node may come back.
    pub(crate) fn disconnect(&self, node: &NodeName, reason: &str) -> bool {
        let Some(session) = self.get(node) else { return false };
        self.remove(&session, "disconnected");
        session.connection.close(reason);
        true
    }

    pub(crate) fn get(&self, node: &NodeName) -> Option<Arc<Session>> {
        self.lock().live.get(node).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().live.len()
    }

    /// Up to `limit` sessions in the order of their names, after the name `after`.
    pub(crate) fn page(&self, after: &str, limit: usize) -> Vec<Arc<Session>> {
        let state = self.lock();
        let later = state.live.iter().skip_while(|(name, _)| !after.is_empty() && name.as_str() <= after);
        later.take(limit).map(|(_, session)| session.clone()).collect()
    }

    /// Takes the names whose sessions changed, at most `limit`.
    pub(crate) fn changes(&self, limit: usize) -> Vec<NodeName> {
        let mut state = self.lock();
        let mut taken = Vec::new();
        while taken.len() < limit {
            let Some(name) = state.dirty.pop_first() else { break };
            taken.push(name);
        }
        taken
    }

    /// Makes every session's name a change, for a listener that starts anew.
    pub(crate) fn all_changed(&self) {
        let mut state = self.lock();
        state.dirty = state.live.keys().cloned().collect();
    }

    /// Resolves when there may be changes.
    pub(crate) async fn wait(&self) {
        self.changed.notified().await;
    }

    fn remove(&self, session: &Arc<Session>, reason: &'static str) {
        let mut state = self.lock();
        // A newer session of the same node must stay.
        if !state.live.get(&session.node).is_some_and(|live| Arc::ptr_eq(live, session)) {
            return;
        }
        state.live.remove(&session.node);
        state.dirty.insert(session.node.clone());
        drop(state);
        self.ended(session, reason);
        self.changed.notify_one();
    }

    fn ended(&self, session: &Session, reason: &'static str) {
        emit(SessionEnded { node: &session.node, session: session.number, reason }, &self.metrics);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.session.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.sessions.remove(&self.session, "connection ended");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn arrival(number: u64) -> Arrival {
        Arrival {
            node: NodeName::parse("edge-1").unwrap(),
            number,
            agent: "test".to_owned(),
            remote: None,
            connection: ConnectionHandle::detached(),
            now_unix_ms: 0,
        }
    }

    #[test]
    fn the_newest_session_wins() {
        let sessions = Sessions::new(Metrics::default());
        let first = sessions.attach(arrival(5)).unwrap();
        let second = sessions.attach(arrival(6)).unwrap();
        assert_eq!(sessions.attach(arrival(5)).unwrap_err(), Stale { newest: 6 });
        assert!(first.session.connection.is_closing());
        drop(first);
        assert_eq!(sessions.get(&arrival(0).node).unwrap().number, 6);
        drop(second);
        assert_eq!(sessions.len(), 0);
    }

    #[test]
    fn a_session_lasts_as_long_as_its_last_stream() {
        let sessions = Sessions::new(Metrics::default());
        let (one, two) = (sessions.attach(arrival(1)).unwrap(), sessions.attach(arrival(1)).unwrap());
        assert_eq!(sessions.changes(10).len(), 1);
        drop(one);
        assert_eq!(sessions.len(), 1);
        assert!(sessions.changes(10).is_empty());
        drop(two);
        assert_eq!(sessions.len(), 0);
        assert_eq!(sessions.changes(10).len(), 1);
    }

    #[test]
    fn a_fence_ends_only_what_is_older() {
        let sessions = Sessions::new(Metrics::default());
        let _kept = sessions.attach(arrival(7)).unwrap();
        sessions.fence(&arrival(0).node, 7);
        assert_eq!(sessions.len(), 1);
        sessions.fence(&arrival(0).node, 8);
        assert_eq!(sessions.len(), 0);
    }
}
