//! All open subscriptions: which there are, and who must look when something changed.
//!
//! Written by the Source streams (open, close), read by everybody who changes the cache
//! ([`Subs::dispatch`]). Sync code; locks are short and never held across an await. Order of locks:
//! the registry, then a subscription, then the cache; never the other way round.
//!
//! Invariants: one subscription per node and kind, the newest session's; a change only marks a key dirty,
//! so that memory is bounded by keys and a slow node slows itself alone.
//! Limits: kinds × nodes; [`MAX_SUBSCRIPTIONS`] per stream is checked by the source.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skerry_common::{Key, NodeName};
use skerry_proto::sync::v1::{CloseCode, Closed, SubscribeResponse, subscribe_response::Message};
use skerry_sync::Publisher;
use tokio::sync::Notify;

use crate::cache::Wake;
use crate::kinds::{Kind, Scope};

/// Subscriptions of one hub stream: 11 kinds of 20,000 nodes.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 220_000;

/// One subscription of one node.
#[derive(Debug)]
pub(crate) struct Sub {
    pub id: u64,
    pub node: NodeName,
    pub session: u64,
    pub kind: Kind,
    pub stream: Arc<Stream>,
    pub publisher: Mutex<Publisher>,
    /// It is in its stream's queue.
    queued: AtomicBool,
    /// It was replaced or closed: it sends nothing any more.
    closed: AtomicBool,
}

/// The sending side of one hub stream: which subscriptions have something to say.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    ready: Mutex<Ready>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Ready {
    control: VecDeque<Arc<Sub>>,
    bulk: VecDeque<Arc<Sub>>,
    messages: VecDeque<SubscribeResponse>,
    bulk_next: bool,
}

/// What the stream's writer does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send this.
    Message(SubscribeResponse),
    /// Ask this subscription what it has to send.
    Poll(Arc<Sub>),
}

impl Sub {
    pub(crate) fn new(
        id: u64,
        node: NodeName,
        session: u64,
        kind: Kind,
        stream: Arc<Stream>,
        publisher: Publisher,
    ) -> Arc<Self> {
        let (queued, closed) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { id, node, session, kind, stream, publisher: Mutex::new(publisher), queued, closed })
    }

    pub(crate) fn publisher(&self) -> MutexGuard<'_, Publisher> {
        self.publisher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts it in its stream's queue, unless it is there.
    pub(crate) fn enqueue(self: &Arc<Self>) {
        if !self.is_closed() && !self.queued.swap(true, Ordering::AcqRel) {
            self.stream.push(Arc::clone(self));
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends it; true the first time.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    fn changed(self: &Arc<Self>, key: &Key) {
        self.publisher().changed(key.clone());
        self.enqueue();
    }

    fn recheck(self: &Arc<Self>) {
        let mut publisher = self.publisher();
        if publisher.dirty_len() > 0 || publisher.refused_len() > 0 {
            publisher.recheck();
        }
        drop(publisher);
        self.enqueue();
    }
}

impl Stream {
    fn lock(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, sub: Arc<Sub>) {
        let mut ready = self.lock();
        if sub.kind.is_bulk() {
            ready.bulk.push_back(sub)
        } else {
            ready.control.push_back(sub)
        }
        drop(ready);
        self.notify.notify_one();
    }

    /// A message that belongs to no publisher. At most a few per subscription.
    pub(crate) fn send(&self, message: Message) {
        self.lock().messages.push_back(SubscribeResponse { message: Some(message) });
        self.notify.notify_one();
    }

    /// Tells the subscriber that a subscription ended.
    pub(crate) fn send_closed(&self, subscription: u64, code: CloseCode, reason: &str, newest_session: u64) {
        let closed = Closed { subscription, code: code as i32, reason: reason.to_owned(), newest_session };
        self.send(Message::Closed(closed));
    }

    /// What to do next: messages first, then control and bulk in turn, each round robin over nodes. Cancel
    /// safe.
    pub(crate) async fn next(&self) -> Next {
        loop {
            let notified = self.notify.notified();
            if let Some(next) = self.try_next() {
                return next;
            }
            notified.await;
        }
    }

    fn try_next(&self) -> Option<Next> {
        let mut ready = self.lock();
        if let Some(message) = ready.messages.pop_front() {
            return Some(Next::Message(message));
        }
        let first_bulk = ready.bulk_next;
        ready.bulk_next = !first_bulk;
        let sub = if first_bulk {
            ready.bulk.pop_front().or_else(|| ready.control.pop_front())
        } else {
            ready.control.pop_front().or_else(|| ready.bulk.pop_front())
        };
        drop(ready);
        let sub = sub?;
        sub.queued.store(false, Ordering::Release);
        Some(Next::Poll(sub))
    }

    /// Lets go of everything: the stream is over.
    pub(crate) fn clear(&self) {
        *self.lock() = Ready::default();
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Subs {
    nodes: Mutex<HashMap<NodeName, HashMap<Kind, Arc<Sub>>>>,
    count: AtomicUsize,
}

impl Subs {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeName, HashMap<Kind, Arc<Sub>>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subscription and returns the one that it replaces. `Err` when a newer session of the node
    /// has one: the fence was passed in the moment before.
    pub(crate) fn insert(&self, sub: Arc<Sub>) -> Result<Option<Arc<Sub>>, u64> {
        let mut nodes = self.lock();
        let kinds = nodes.entry(sub.node.clone()).or_default();
        if let Some(newer) = kinds.values().map(|s| s.session).max().filter(|newest| *newest > sub.session) {
            return Err(newer);
        }
        let old = kinds.insert(sub.kind, sub);
        self.count.fetch_add(usize::from(old.is_none()), Ordering::Relaxed);
        Ok(old)
    }

    /// Removes this very subscription; true if it was still the current one.
    pub(crate) fn remove(&self, sub: &Arc<Sub>) -> bool {
        let mut nodes = self.lock();
        let Some(kinds) = nodes.get_mut(&sub.node) else { return false };
        if kinds.get(&sub.kind).is_none_or(|current| !Arc::ptr_eq(current, sub)) {
            return false;
        }
        kinds.remove(&sub.kind);
        self.count.fetch_sub(1, Ordering::Relaxed);
        if kinds.is_empty() {
            nodes.remove(&sub.node);
        }
        true
    }

    /// Takes out the subscriptions of sessions older than this one.
    pub(crate) fn take_older(&self, node: &NodeName, session: u64) -> Vec<Arc<Sub>> {
        let mut nodes = self.lock();
        let Some(kinds) = nodes.get_mut(node) else { return Vec::new() };
        let older: Vec<_> = kinds.values().filter(|sub| sub.session < session).cloned().collect();
        kinds.retain(|_, sub| sub.session >= session);
        self.count.fetch_sub(older.len(), Ordering::Relaxed);
        if kinds.is_empty() {
            nodes.remove(node);
        }
        older
    }

    /// The subscription of a node to a kind.
    fn get(&self, node: &NodeName, kind: Kind) -> Option<Arc<Sub>> {
        self.lock().get(node)?.get(&kind).cloned()
    }

    /// Whether the node has a subscription to the kind.
    pub fn contains(&self, node: &NodeName, kind: Kind) -> bool {
        self.get(node, kind).is_some()
    }

    fn of_kind(&self, kind: Kind) -> Vec<Arc<Sub>> {
        self.lock().values().filter_map(|kinds| kinds.get(&kind)).cloned().collect()
    }

    /// One key of one node may have changed.
    pub fn wake(&self, node: &NodeName, kind: Kind, key: &Key) {
        if let Some(sub) = self.get(node, kind) {
            sub.changed(key);
        }
    }

    /// Tells those who are concerned.
    pub(crate) fn dispatch(&self, wakes: &[Wake]) {
        for wake in wakes {
            match wake {
                Wake::Key(node, kind, key) => self.wake(node, *kind, key),
                Wake::All(kind, key) => {
                    for sub in self.of_kind(*kind) {
                        // A pod that the cache does not know concerns only those who hold it.
                        if kind.scope() != Scope::Bound || sub.publisher().held_version(key).is_some() {
                            sub.changed(key);
                        }
                    }
                }
                Wake::Node(node) => {
                    let subs: Vec<_> = self.lock().get(node).into_iter().flat_map(|k| k.values().cloned()).collect();
                    subs.iter().for_each(|sub| sub.recheck());
                }
                Wake::Kind(kind) => self.of_kind(*kind).iter().for_each(|sub| sub.recheck()),
            }
        }
    }

    /// Lets everybody look again at what could not be told. Called every minute.
    pub fn recheck_all(&self) {
        let subs: Vec<_> = self.lock().values().flat_map(|kinds| kinds.values().cloned()).collect();
        subs.iter().filter(|sub| sub.publisher().dirty_len() > 0).for_each(|sub| sub.recheck());
    }

    /// Open subscriptions.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}
