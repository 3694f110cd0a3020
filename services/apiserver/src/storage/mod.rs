//! The objects: SQLite for durability, watch caches for reading.
//!
//! Verbs read from the caches and hand changes to [`Storage::write`]; one writer thread (`writer`) commits
//! them in groups and then updates the caches. Invariants: a write that was answered is on disk
//! (`synchronous=FULL`); versions grow over all resources and never repeat; the cache never shows what is
//! not committed.
//! Limits: [`WRITE_QUEUE`]; `writer::MAX_GROUP`; `writer::TOMBSTONES`.
//! On a crash the database is the state after the last commit; caches and the recent past of watches are
//! rebuilt from it. When the queue is full, callers wait.

mod schema;
mod writer;

use crate::error::ServerError;
use serde_json::Value;
use skerry_apimachinery::{Entry, ObjectKey, WatchCache};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::{mpsc, oneshot};

/// Writes that wait for the writer thread; more callers wait at the door.
pub(crate) const WRITE_QUEUE: usize = 4096;

/// How often the server looks whether its writer is alive.
const WRITER_CHECK: std::time::Duration = std::time::Duration::from_secs(1);

/// What must be true of the stored object for a change to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It does not exist.
    Absent,
    /// It has this version.
    Version(u64),
}

/// A change to one object. The value is complete except for its resourceVersion.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) storage: Arc<str>,
    pub(crate) value: Value,
    pub(crate) expect: Expect,
    /// Remove the object; `value` is the last state, for watchers.
    pub(crate) delete: bool,
}

/// Why a write did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// The object of this operation exists.
    Exists,
    /// The object of this operation is gone.
    Missing,
    /// The object of this operation has another version.
    Changed,
    /// The disk is full.
    Full,
    /// The database failed.
    Failed(String),
    /// The server is stopping.
    Stopped,
}

pub(crate) struct Job {
    ops: Vec<Op>,
    done: oneshot::Sender<Result<Vec<Arc<Entry>>, WriteError>>,
}

type Caches = RwLock<HashMap<Arc<str>, Arc<WatchCache>>>;

/// Shared between the handlers and the writer.
pub(crate) struct Shared {
    caches: Caches,
    applied: Arc<AtomicU64>,
    floor: u64,
    ring_events: usize,
}

impl Shared {
    fn cache(&self, storage: &str) -> Arc<WatchCache> {
        if let Some(cache) = self.caches.read().unwrap_or_else(PoisonError::into_inner).get(storage) {
            return cache.clone();
        }
        let mut caches = self.caches.write().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(WatchCache::with_ring(self.applied.clone(), self.floor, self.ring_events));
        caches.entry(storage.into()).or_insert_with(fresh).clone()
    }
}

/// The store of all objects.
pub(crate) struct Storage {
    shared: Arc<Shared>,
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Storage {
    /// Opens the database and loads all objects.
    pub(crate) fn open(path: &Path, ring_events: usize) -> Result<Self, ServerError> {
        let (connection, loaded) = schema::open(path)?;
        let shared = Arc::new(Shared {
            caches: RwLock::default(),
            applied: Arc::new(AtomicU64::new(loaded.version)),
            floor: loaded.floor,
            ring_events,
        });
        for (storage, (objects, tombstones)) in loaded.resources {
            shared.cache(&storage).seed(objects, tombstones, loaded.floor);
        }
        let (queue, jobs) = mpsc::channel(WRITE_QUEUE);
        let writer = writer::Writer::new(connection, shared.clone(), loaded.version, loaded.tombstones);
        let thread = std::thread::Builder::new()
            .name("apiserver-writer".into())
            .spawn(move || writer.run(jobs))
            .map_err(ServerError::io(path))?;
        Ok(Self { shared, queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) })
    }

    /// The cache of a resource.
    pub(crate) fn cache(&self, storage: &str) -> Arc<WatchCache> {
        self.shared.cache(storage)
    }

    /// The names of all resources that were ever read or written.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.shared.caches.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// One object.
    pub(crate) fn get(&self, storage: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.cache(storage).get(&ObjectKey::new(namespace, name))
    }

    /// Commits all operations or none. When it returns, they are durable and visible.
    pub(crate) async fn write(&self, ops: Vec<Op>) -> Result<Vec<Arc<Entry>>, WriteError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(queue) = queue else { return Err(WriteError::Stopped) };
        let (done, answer) = oneshot::channel();
        queue.send(Job { ops, done }).await.map_err(|_| WriteError::Stopped)?;
        answer.await.unwrap_or(Err(WriteError::Stopped))
    }

    /// Resolves when the writer thread has ended.
    pub(crate) async fn closed(&self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(mpsc::Sender::downgrade);
        // A weak sender does not keep the writer alive; while it waits for the end it must hold a strong one,
        // which close() would then wait for, so it looks now and then instead.
        while let Some(sender) = queue.as_ref().and_then(mpsc::WeakSender::upgrade) {
            if sender.is_closed() {
                return;
            }
            drop(sender);
            tokio::time::sleep(WRITER_CHECK).await;
        }
    }

    /// Lets the writer finish what it has and closes the database. Blocks for a few commits at most.
    pub(crate) fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the writer thread ended with a panic");
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.close();
    }
}
