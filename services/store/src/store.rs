//! The handle through which everybody uses the store.
//!
//! Cheap to clone; used from any async task. Writes go to the writer thread and return when they are
//! durable; reads run on blocking threads. A future that is dropped after its command was sent does not
//! undo it. When the queue is full, callers wait: nothing is dropped.

use std::{fmt, path::Path, sync::Arc};

use bytes::Bytes;
use skerry_common::{Key, Version};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Change, Health, PendingReport, Queued, Report, StoreError, StoreOptions, StoredObject, Usage, connection,
    disk::{self, Ballast},
    ops::{self, Answer, Books, Op},
    reader::{self, Readers},
    recover::{self, Ready},
    row::{CHECKPOINT, VALUE},
    writer::{Command, Failure, Stop, Writer},
};

/// How the store was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// As it was left, or new.
    Clean,
    /// Damaged, outdated or missing: a new one was made, with what could be saved. Show it as a
    /// condition of the Node; the next synchronisation completes the objects.
    Recovered {
        /// What was wrong, and what was saved.
        reason: String,
    },
}

/// The edge store. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    commands: mpsc::Sender<Command>,
    readers: Arc<Readers>,
    failure: Failure,
    health: watch::Receiver<Health>,
    usage: watch::Receiver<Usage>,
}

impl Store {
    /// Opens the store at `path`, and makes it when it is not there. Blocks while the file is checked;
    /// starts the writer thread.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Unsuitable`], [`StoreError::NewerSchema`],
    /// [`StoreError::Sqlite`], [`StoreError::Full`], or what failed. A damaged file is no error.
    pub fn open(path: impl AsRef<Path>, options: StoreOptions) -> Result<(Self, Opened), StoreError> {
        let path = path.as_ref();
        connection::check_version(rusqlite::version_number())?;
        let directory = disk::directory(path);
        std::fs::create_dir_all(directory).map_err(|source| StoreError::io("create", directory, source))?;
        let lock = disk::lock(path)?;
        disk::probe(path)?;
        let ballast = Ballast::new(path, options.ballast);
        let room = ballast.restore();
        let ready = match recover::open(path, &options).and_then(|ready| begin(path, &options, ready)) {
            Err(StoreError::Full { .. }) => {
                ballast.release();
                recover::open(path, &options).and_then(|ready| begin(path, &options, ready))
            }
            other => other,
        };
        let (ready, books) = ready?;
        let failure = Failure::new();
        let (health_sender, health) = watch::channel(Health::Good);
        let (usage_sender, usage) = watch::channel(books.usage);
        let mut writer = Writer {
            connection: ready.connection,
            books,
            ballast,
            failure: failure.clone(),
            health: health_sender,
            usage: usage_sender,
            path: path.to_owned(),
            lock,
            unmerged: 0,
            options,
        };
        if !room {
            writer.disk_is_full();
        }
        let (commands, receiver) = mpsc::channel(writer.options.queue.max(1));
        let readers = Arc::new(Readers::new(path.to_owned(), writer.options.readers, failure.clone()));
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(receiver))
            .map_err(|source| StoreError::io("start the writer of", path, source))?;
        Ok((Self { commands, readers, failure, health, usage }, ready.opened))
    }

    /// Applies changes of one kind, all or none, in order.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::TooLarge`], [`StoreError::Stopped`]: nothing was applied, and
    /// nothing may be acknowledged.
    pub async fn apply(&self, kind: &str, changes: Vec<Change>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return self.failure.check();
        }
        self.run(Op::Apply { kind: kind.into(), changes }).await.map(drop)
    }

    /// One object.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] and other failures stop the store.
    pub async fn get(&self, kind: &str, key: &Key) -> Result<Option<StoredObject>, StoreError> {
        let (kind, key) = (kind.to_owned(), key.clone());
        self.readers.read(move |connection| reader::get(connection, &kind, &key)).await
    }

    /// All objects of a kind, or those of one namespace, by namespace and name.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn list(&self, kind: &str, namespace: Option<&str>) -> Result<Vec<StoredObject>, StoreError> {
        let (kind, namespace) = (kind.to_owned(), namespace.map(str::to_owned));
        self.readers.read(move |connection| reader::list(connection, &kind, namespace.as_deref())).await
    }

    /// The names and versions of all objects of a kind: what the node holds.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn held(&self, kind: &str) -> Result<Vec<(Key, Version)>, StoreError> {
        let kind = kind.to_owned();
        self.readers.read(move |connection| reader::held(connection, &kind)).await
    }

    /// The kinds of which there are objects.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn kinds(&self) -> Result<Vec<String>, StoreError> {
        self.readers.read(reader::kinds).await
    }

    /// Stores a report for the cloud and returns its id. A coalescing report replaces an older pending
    /// one of the same kind and key.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::TooLarge`], [`StoreError::Stopped`]: nothing was stored.
    pub async fn put(&self, report: Report) -> Result<u64, StoreError> {
        self.enqueue(report).await.map(|queued| queued.id)
    }

    /// As [`Store::put`], and tells which report was replaced.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn enqueue(&self, report: Report) -> Result<Queued, StoreError> {
        match self.run(Op::Enqueue { report }).await? {
            Answer::Queued(queued) => Ok(queued),
            other => Err(unexpected(other)),
        }
    }

    /// Up to `limit` pending reports with ids above `after_id` (0: from the start), oldest first.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn pending(&self, after_id: u64, limit: usize) -> Result<Vec<PendingReport>, StoreError> {
        self.readers.read(move |connection| reader::pending(connection, after_id, limit)).await
    }

    /// Removes reports that the cloud has confirmed or rejected. Unknown ids are ignored.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub async fn remove(&self, ids: &[u64]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return self.failure.check();
        }
        self.run(Op::Remove { ids: ids.to_vec() }).await.map(drop)
    }

    /// A named value.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn get_value(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let name = name.to_owned();
        self.readers.read(move |connection| reader::value(connection, &name)).await
    }

    /// Stores a named value. Values do not survive the recovery of a damaged store, because they may
    /// describe the store as a whole; what must survive is a checkpoint.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn put_value(&self, name: &str, value: impl Into<Bytes>) -> Result<(), StoreError> {
        self.run(Op::PutBlob { scope: VALUE.into(), key: name.into(), value: value.into() }).await.map(drop)
    }

    /// Removes a named value.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub async fn delete_value(&self, name: &str) -> Result<(), StoreError> {
        self.run(Op::DeleteBlob { scope: VALUE.into(), key: name.into() }).await.map(drop)
    }

    /// The number of a new session: larger than every one before, whatever the clock says, and not
    /// below the clock in milliseconds. Durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub async fn next_session(&self) -> Result<u64, StoreError> {
        match self.run(Op::NextSession).await? {
            Answer::Number(session) => Ok(session),
            other => Err(unexpected(other)),
        }
    }

    /// Stores a checkpoint of a local service.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn put_checkpoint(&self, scope: &str, key: &str, value: impl Into<Bytes>) -> Result<(), StoreError> {
        self.run(Op::PutBlob { scope: format!("{CHECKPOINT}{scope}"), key: key.into(), value: value.into() })
            .await
            .map(drop)
    }

    /// All checkpoints of a scope, by key.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn list_checkpoints(&self, scope: &str) -> Result<Vec<(String, Bytes)>, StoreError> {
        let scope = scope.to_owned();
        self.readers.read(move |connection| reader::checkpoints(connection, &scope)).await
    }

    /// Removes a checkpoint.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub async fn delete_checkpoint(&self, scope: &str, key: &str) -> Result<(), StoreError> {
        self.run(Op::DeleteBlob { scope: format!("{CHECKPOINT}{scope}"), key: key.into() }).await.map(drop)
    }

    /// Whether the store takes everything at the moment; a watch, for a condition and for trying again.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// How much is stored.
    pub fn usage(&self) -> Usage {
        *self.usage.borrow()
    }

    /// Waits until the store has failed, and tells why. The process must then end with an error: only
    /// a restart knows what is on disk. Does not return when the store is closed.
    pub async fn failed(&self) -> Arc<str> {
        let mut stop = self.failure.subscribe();
        let reason = match stop.wait_for(|stop| matches!(stop, Stop::Failed(_))).await.as_deref() {
            Ok(Stop::Failed(reason)) => Some(Arc::clone(reason)),
            _ => None,
        };
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Finishes what was sent, closes the files and releases the lock. Later calls of all clones
    /// return [`StoreError::Stopped`]. Dropping every clone does the same in the background.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close { done }).await.is_ok() {
            let _ = closed.await;
        }
        self.readers.close();
    }

    async fn run(&self, op: Op) -> Result<Answer, StoreError> {
        self.failure.check()?;
        let (answer, result) = oneshot::channel();
        let gone =
            || self.failure.check().err().unwrap_or(StoreError::Stopped { reason: "its thread has ended".into() });
        self.commands.send(Command::Run { op, answer }).await.map_err(|_| gone())?;
        result.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

/// Begins a new epoch, in the database first: a crash in between leaves the file beside it behind,
/// which is harmless.
fn begin(path: &Path, options: &StoreOptions, ready: Ready) -> Result<(Ready, Books), StoreError> {
    let Ready { connection, inventory, opened } = ready;
    let epoch = ops::next_epoch(inventory.epoch, inventory.newest_report, (options.clock_ms)());
    ops::store_epoch(&connection, epoch).map_err(|error| match crate::error::class(&error) {
        crate::error::Class::Full => StoreError::Full { reason: "the disk is full" },
        _ => StoreError::Database(error),
    })?;
    disk::write_epoch(path, epoch);
    let books = Books::new(inventory.usage, epoch);
    Ok((Ready { connection, inventory, opened }, books))
}

fn unexpected(answer: Answer) -> StoreError {
    StoreError::Stopped { reason: format!("the writer answered {answer:?}").into() }
}
