//! The one thread that writes.
//!
//! It takes commands from a bounded channel, carries out as many as are waiting in one transaction
//! (group commit: one sync for all), and answers after COMMIT has returned. A caller that goes away
//! does not undo its command.
//!
//! When the disk is full the ballast is released, half of the events are dropped, and only commands
//! that remove are carried out; every [`ROOM_INTERVAL`] the thread looks whether there is room again.
//! When reading, writing or syncing fails, or the file turns out damaged, the store stops for good:
//! after a failed sync nobody knows what is on disk, and SQLite would go on as if nothing had happened.

use std::{
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{Connection, TransactionBehavior, config::DbConfig};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Health, StoreError, StoreOptions, Usage,
    disk::Ballast,
    error::{Class, class},
    ops::{self, Answer, Books, Op},
    row::Fault,
};

/// How often to look for room while the disk is full.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);

/// How long the thread sleeps between looking for commands while the disk is full.
const FULL_POLL: Duration = Duration::from_millis(20);

/// Bytes of log, estimated, after which the writer copies it back into the database file.
const MERGE_AFTER: u64 = 1024 * 1024;

/// What one command adds to the log besides its bodies: the pages on the way to its rows.
const LOG_OVERHEAD: u64 = 12 * 1024;

/// Events dropped in one transaction while the disk is full: their log stays well below the ballast.
const DROP_BATCH: u64 = 64;

/// Pages given back to the file system in one transaction while the disk is full: moving them writes
/// to the log too, which must fit into the released ballast.
const VACUUM_PAGES: i64 = 64;

/// Such transactions after each removal; the next removal goes on.
const VACUUM_ROUNDS: usize = 16;

/// A command and where its answer goes.
pub(crate) enum Command {
    Run { op: Op, answer: oneshot::Sender<Result<Answer, StoreError>> },
    Close { done: oneshot::Sender<()> },
}

/// The state that ends everything: why the store has stopped.
#[derive(Clone)]
pub(crate) struct Failure(Arc<watch::Sender<Stop>>);

#[derive(Clone, Default)]
pub(crate) enum Stop {
    #[default]
    No,
    Closed,
    Failed(Arc<str>),
}

impl Failure {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Stop::No)))
    }

    /// Refuses everything after the store has stopped.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match &*self.0.borrow() {
            Stop::No => Ok(()),
            Stop::Closed => Err(StoreError::Stopped { reason: "it was closed".into() }),
            Stop::Failed(reason) => Err(StoreError::Stopped { reason: Arc::clone(reason) }),
        }
    }

    /// Stops the store; the first reason stays.
    pub(crate) fn stop(&self, reason: String) {
        let stopped = self.0.send_if_modified(|stop| {
            let first = matches!(stop, Stop::No);
            if first {
                *stop = Stop::Failed(reason.as_str().into());
            }
            first
        });
        if stopped {
            tracing::error!(%reason, "the store has stopped; the process must restart");
        }
    }

    fn close(&self) {
        self.0.send_if_modified(|stop| {
            let open = matches!(stop, Stop::No);
            if open {
                *stop = Stop::Closed;
            }
            open
        });
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Stop> {
        self.0.subscribe()
    }
}

/// What the writer thread owns.
pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) books: Books,
    pub(crate) options: StoreOptions,
    pub(crate) ballast: Ballast,
    pub(crate) failure: Failure,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) usage: watch::Sender<Usage>,
    pub(crate) path: PathBuf,
    /// Held until the thread ends.
    pub(crate) lock: File,
    /// Bytes of log, estimated, since it was last copied back.
    pub(crate) unmerged: u64,
}

impl Writer {
    /// The body of the thread: runs until every handle is gone or one closes the store.
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut looked = Instant::now();
        let mut closed = None;
        while closed.is_none() {
            let Some(first) = self.next(&mut commands, &mut looked) else { break };
            let mut group = Vec::new();
            let mut next = Some(first);
            while let Some(command) = next {
                match command {
                    Command::Run { op, answer } => group.push((op, answer)),
                    Command::Close { done } => {
                        closed = Some(done);
                        break;
                    }
                }
                next = if group.len() < self.options.group { commands.try_recv().ok() } else { None };
            }
            self.options.metrics.queue.set(i64::try_from(commands.len()).unwrap_or(i64::MAX));
            self.commit(group);
        }
        self.failure.close();
        commands.close();
        while let Some(command) = commands.blocking_recv() {
            if let Command::Run { answer, .. } = command {
                refuse(&self.failure, answer);
            }
        }
        let Self { connection, lock, path, failure, .. } = self;
        if matches!(&*failure.subscribe().borrow(), Stop::Failed(_)) {
            // Nothing more may be written: what the disk holds is unknown.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
        drop(connection);
        drop(lock);
        tracing::debug!(path = %path.display(), "store closed");
        if let Some(done) = closed {
            let _ = done.send(());
        }
    }

    /// The next command; while the disk is full, looks for room in between.
    fn next(&mut self, commands: &mut mpsc::Receiver<Command>, looked: &mut Instant) -> Option<Command> {
        loop {
            if !self.is_full() {
                return commands.blocking_recv();
            }
            match commands.try_recv() {
                Ok(command) => return Some(command),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) => {
                    #[allow(clippy::disallowed_methods, reason = "a thread of its own")]
                    std::thread::sleep(FULL_POLL);
                }
            }
            if looked.elapsed() >= ROOM_INTERVAL {
                *looked = Instant::now();
                self.look_for_room();
            }
        }
    }

    /// Carries a group out and answers.
    fn commit(&mut self, mut group: Vec<(Op, oneshot::Sender<Result<Answer, StoreError>>)>) {
        if self.failure.check().is_err() {
            return group.into_iter().for_each(|(_, answer)| refuse(&self.failure, answer));
        }
        if self.is_full() {
            let (removing, growing) = group.into_iter().partition(|(op, _)| op.shrinks());
            group = removing;
            for (_, answer) in growing {
                self.options.metrics.full.inc();
                let _ = answer.send(Err(StoreError::Full { reason: "the disk is full" }));
            }
        }
        if group.is_empty() {
            return;
        }
        let ops: Vec<&Op> = group.iter().map(|(op, _)| op).collect();
        match self.transact(&ops) {
            Ok(answers) => {
                for ((_, answer), result) in group.into_iter().zip(answers) {
                    if matches!(result, Err(StoreError::Full { .. })) {
                        self.options.metrics.full.inc();
                    }
                    let _ = answer.send(result);
                }
                if self.is_full() {
                    self.reclaim();
                } else if self.unmerged >= MERGE_AFTER {
                    self.merge();
                }
            }
            Err(fault) => self.failed(fault, group),
        }
    }

    /// One transaction for all commands; the outer error means that none of them happened.
    fn transact(&mut self, ops: &[&Op]) -> Result<Vec<Result<Answer, StoreError>>, Fault> {
        let before = self.books;
        let result = run_group(&mut self.connection, &mut self.books, &self.options, ops);
        match &result {
            Ok(_) => {
                let metrics = &self.options.metrics;
                metrics.syncs.inc();
                #[expect(clippy::cast_precision_loss, reason = "at most a few hundred")]
                metrics.group.observe(ops.len() as f64);
                self.publish(before.dropped);
                let added = ops.iter().map(|op| op.bytes().saturating_add(LOG_OVERHEAD));
                self.unmerged = added.fold(self.unmerged, u64::saturating_add);
            }
            Err(_) => self.books = before,
        }
        result
    }

    fn publish(&self, dropped_before: u64) {
        let metrics = &self.options.metrics;
        let dropped = self.books.dropped.saturating_sub(dropped_before);
        if dropped > 0 {
            metrics.dropped.inc_by(dropped);
            tracing::warn!(dropped, "dropped the oldest reports to make room");
        }
        metrics.bytes.set(i64::try_from(self.books.usage.total()).unwrap_or(i64::MAX));
        self.usage.send_replace(self.books.usage);
    }

    fn failed(&mut self, fault: Fault, group: Vec<(Op, oneshot::Sender<Result<Answer, StoreError>>)>) {
        let error = match fault {
            // Refusals are answered inside the transaction.
            Fault::Refused(error) => {
                return answer_one_by_one(group, || Err(StoreError::Stopped { reason: error.to_string().into() }));
            }
            Fault::Damaged(reason) | Fault::Unreadable(reason) => {
                self.failure.stop(format!("damaged: {reason}"));
                return group.into_iter().for_each(|(_, answer)| refuse(&self.failure, answer));
            }
            Fault::Sql(error) => error,
        };
        match class(&error) {
            Class::Full => {
                let was_full = self.is_full();
                if !was_full {
                    self.disk_is_full();
                }
                for (op, answer) in group {
                    // A removal that does not even fit into the released ballast is refused as well.
                    if was_full || !op.shrinks() {
                        self.options.metrics.full.inc();
                        let _ = answer.send(Err(StoreError::Full { reason: "the disk is full" }));
                    } else {
                        self.commit(vec![(op, answer)]);
                    }
                }
            }
            Class::Busy => answer_one_by_one(group, || Err(StoreError::Busy)),
            Class::Damaged | Class::Failed => {
                self.failure.stop(format!("the database failed: {error}"));
                group.into_iter().for_each(|(_, answer)| refuse(&self.failure, answer));
            }
            Class::Other if group.len() > 1 => {
                // One command of the group is the cause: the others must not suffer.
                for command in group {
                    self.commit(vec![command]);
                }
            }
            Class::Other => {
                if let Some((_, answer)) = group.into_iter().next() {
                    let _ = answer.send(Err(StoreError::Database(error)));
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        *self.health.borrow() == Health::DiskFull
    }

    /// Makes room for removals, and drops events before control state has to wait.
    pub(crate) fn disk_is_full(&mut self) {
        tracing::warn!(path = %self.path.display(), "the disk is full: only removals are stored");
        self.ballast.release();
        self.options.metrics.disk_full.set(1);
        self.health.send_replace(Health::DiskFull);
        self.drop_half_of_the_events();
        self.reclaim();
    }

    fn look_for_room(&mut self) {
        if self.failure.check().is_err() {
            return;
        }
        if self.ballast.restore() {
            tracing::info!("there is room on the disk again");
            self.options.metrics.disk_full.set(0);
            self.health.send_replace(Health::Good);
            return;
        }
        self.drop_half_of_the_events();
        self.reclaim();
    }

    /// In small transactions, because their log must fit into the released ballast.
    fn drop_half_of_the_events(&mut self) {
        let mut left = self.books.usage.event_rows.div_ceil(2);
        while left > 0 {
            let batch = left.min(DROP_BATCH);
            left = left.saturating_sub(batch);
            let before = self.books;
            let dropped = (|| {
                let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                for _ in 0..batch {
                    ops::drop_oldest(&transaction, &mut self.books)?;
                }
                transaction.commit()
            })();
            match dropped {
                Ok(()) => self.publish(before.dropped),
                Err(error) => {
                    self.books = before;
                    return self.note(&error);
                }
            }
            self.reclaim();
        }
    }

    /// Copies the log back into the database file, so that it does not grow. The callers have their
    /// answers already; a failure stops the store, as SQLite's own checkpoints would not.
    fn merge(&mut self) {
        self.unmerged = 0;
        if let Err(error) = self.connection.pragma(None, "wal_checkpoint", "PASSIVE", |_| Ok(())) {
            if class(&error) == Class::Full {
                self.disk_is_full();
            } else {
                self.note(&error);
            }
        }
    }

    /// Gives free pages back to the file system: shrinks the file, then copies and cuts the log.
    fn reclaim(&mut self) {
        if let Err(error) = shrink(&self.connection) {
            self.note(&error);
        }
    }

    /// An error of housekeeping: only those that put the data in doubt matter.
    fn note(&self, error: &rusqlite::Error) {
        match class(error) {
            Class::Damaged | Class::Failed => self.failure.stop(format!("the database failed: {error}")),
            Class::Full | Class::Busy | Class::Other => tracing::debug!(%error, "could not make room yet"),
        }
    }
}

fn run_group(
    connection: &mut Connection,
    books: &mut Books,
    options: &StoreOptions,
    ops: &[&Op],
) -> Result<Vec<Result<Answer, StoreError>>, Fault> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut answers = Vec::with_capacity(ops.len());
    for op in ops {
        let before = *books;
        let savepoint = transaction.savepoint()?;
        match ops::execute(&savepoint, op, books, options) {
            Ok(answer) => {
                savepoint.commit()?;
                answers.push(Ok(answer));
            }
            Err(Fault::Refused(error)) => {
                *books = before;
                savepoint.finish()?;
                answers.push(Err(error));
            }
            Err(fault) => return Err(fault),
        }
    }
    // The answers are sent only after this has returned: it includes the sync.
    transaction.commit()?;
    Ok(answers)
}

fn shrink(connection: &Connection) -> rusqlite::Result<()> {
    let merge = || connection.pragma(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()));
    merge()?;
    for _ in 0..VACUUM_ROUNDS {
        let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        if free == 0 {
            break;
        }
        connection.pragma(None, "incremental_vacuum", VACUUM_PAGES, |_| Ok(()))?;
        merge()?;
    }
    Ok(())
}

fn refuse(failure: &Failure, answer: oneshot::Sender<Result<Answer, StoreError>>) {
    let error = failure.check().err().unwrap_or(StoreError::Stopped { reason: "it was closed".into() });
    let _ = answer.send(Err(error));
}

fn answer_one_by_one(
    group: Vec<(Op, oneshot::Sender<Result<Answer, StoreError>>)>,
    error: impl Fn() -> Result<Answer, StoreError>,
) {
    for (_, answer) in group {
        let _ = answer.send(error());
    }
}
