//! The one writer thread: takes what waits, checks preconditions, commits once, then publishes.
//!
//! Runs on its own thread until the queue closes. Invariants: a group is committed as a whole or not at
//! all; preconditions are checked against the state that the earlier operations of the group will make;
//! nothing is published before the commit.
//! Limits: [`MAX_GROUP`] jobs in one commit, [`TOMBSTONES`] kept. On a crash the group is lost as a whole
//! and nobody was told that it was written. A full disk fails the group; the next one is tried again.

use super::{Expect, Job, Op, Shared, WriteError};
use rusqlite::{Connection, ErrorCode, params};
use skerry_apimachinery::{Entry, EventType, ObjectKey, meta};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// Most jobs in one commit: bounds the time that the first of them waits.
pub(super) const MAX_GROUP: usize = 512;
/// Deletions remembered for watches that resume after a restart.
pub(super) const TOMBSTONES: usize = 10_000;
/// Tombstones are pruned when there are so many more.
const TOMBSTONE_SLACK: usize = 1_000;

struct Planned {
    storage: Arc<str>,
    entry: Arc<Entry>,
    delete: bool,
}

/// `None`: deleted by an earlier operation of the group.
type Overlay = HashMap<(Arc<str>, ObjectKey), Option<Arc<Entry>>>;

pub(super) struct Writer {
    connection: Connection,
    shared: Arc<Shared>,
    version: u64,
    tombstones: usize,
}

impl Writer {
    pub(super) fn new(connection: Connection, shared: Arc<Shared>, version: u64, tombstones: usize) -> Self {
        Self { connection, shared, version, tombstones }
    }

    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut group = Vec::with_capacity(MAX_GROUP);
        while let Some(first) = jobs.blocking_recv() {
            group.push(first);
            while group.len() < MAX_GROUP
                && let Ok(job) = jobs.try_recv()
            {
                group.push(job);
            }
            self.commit(&mut group);
        }
    }

    fn commit(&mut self, group: &mut Vec<Job>) {
        let mut version = self.version;
        let mut overlay = Overlay::new();
        let plans: Vec<Result<Vec<Planned>, WriteError>> =
            group.iter_mut().map(|job| self.plan(std::mem::take(&mut job.ops), &mut version, &mut overlay)).collect();
        let stored = if version == self.version { Ok(()) } else { self.store(&plans, version) };
        match stored {
            Ok(()) => {
                for planned in plans.iter().flatten().flatten() {
                    self.shared.cache(&planned.storage).apply(planned.entry.clone(), planned.delete);
                }
                self.version = version;
                self.shared.applied.store(version, Ordering::Release);
                for (job, plan) in group.drain(..).zip(plans) {
                    // A caller that went away does not undo its write.
                    let _ = job.done.send(plan.map(|p| p.into_iter().map(|p| p.entry).collect()));
                }
            }
            Err(error) => {
                tracing::error!(%error, "a group of writes was not committed");
                let error = match error.sqlite_error_code() {
                    Some(ErrorCode::DiskFull) => WriteError::Full,
                    _ => WriteError::Failed(error.to_string()),
                };
                for (job, plan) in group.drain(..).zip(plans) {
                    let _ = job.done.send(Err(plan.err().unwrap_or_else(|| error.clone())));
                }
            }
        }
    }

    fn plan(&self, ops: Vec<Op>, version: &mut u64, overlay: &mut Overlay) -> Result<Vec<Planned>, WriteError> {
        let mut next = *version;
        let mut planned = Vec::with_capacity(ops.len());
        let mut changes = Vec::with_capacity(ops.len());
        for Op { storage, mut value, expect, delete } in ops {
            let key = (storage.clone(), ObjectKey::new(meta::namespace(&value), meta::name(&value)));
            let pending =
                changes.iter().rev().find(|(k, _)| *k == key).map(|(_, entry)| entry).or_else(|| overlay.get(&key));
            let current: Option<Arc<Entry>> = match pending {
                Some(known) => known.clone(),
                None => self.shared.cache(&storage).get(&key.1),
            };
            let created = match (expect, &current) {
                (Expect::Absent, Some(_)) => return Err(WriteError::Exists),
                (Expect::Absent, None) => None,
                (Expect::Version(_), None) => return Err(WriteError::Missing),
                (Expect::Version(wanted), Some(entry)) if entry.version != wanted => return Err(WriteError::Changed),
                (Expect::Version(_), Some(entry)) => Some(entry.created),
            };
            next += 1;
            meta::metadata(&mut value).insert("resourceVersion".into(), next.to_string().into());
            let kind = match (delete, created) {
                (true, _) => EventType::Deleted,
                (false, None) => EventType::Added,
                (false, Some(_)) => EventType::Modified,
            };
            let entry = Arc::new(Entry::new(&storage, &value, next, created.unwrap_or(next), kind));
            changes.push((key, (!delete).then(|| entry.clone())));
            planned.push(Planned { storage, entry, delete });
        }
        overlay.extend(changes);
        *version = next;
        Ok(planned)
    }

    fn store(&mut self, plans: &[Result<Vec<Planned>, WriteError>], version: u64) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let mut buried = 0;
        {
            let mut put = transaction.prepare_cached(
                "INSERT INTO objects(storage, namespace, name, version, created, body) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT(storage, namespace, name) DO UPDATE SET version = ?4, created = ?5, body = ?6",
            )?;
            let mut delete = transaction
                .prepare_cached("DELETE FROM objects WHERE storage = ?1 AND namespace = ?2 AND name = ?3")?;
            let mut bury = transaction
                .prepare_cached("INSERT INTO tombstones(version, created, storage, body) VALUES(?1, ?2, ?3, ?4)")?;
            for Planned { storage, entry, delete: gone } in plans.iter().flatten().flatten() {
                let (namespace, name, body) = (&*entry.key.namespace, &*entry.key.name, entry.body().as_ref());
                let (at, created) = (entry.version.cast_signed(), entry.created.cast_signed());
                if *gone {
                    delete.execute(params![&**storage, namespace, name])?;
                    bury.execute(params![at, created, &**storage, body])?;
                    buried += 1;
                } else {
                    put.execute(params![&**storage, namespace, name, at, created, body])?;
                }
            }
        }
        let mut left = self.tombstones + buried;
        if left > TOMBSTONES + TOMBSTONE_SLACK {
            let floor: i64 = transaction.query_row(
                "SELECT version FROM tombstones ORDER BY version DESC LIMIT 1 OFFSET ?1",
                [i64::try_from(TOMBSTONES).unwrap_or(i64::MAX)],
                |row| row.get(0),
            )?;
            let pruned = transaction.execute("DELETE FROM tombstones WHERE version <= ?1", [floor])?;
            transaction.execute("UPDATE counters SET value = ?1 WHERE name = 'floor'", [floor])?;
            left = left.saturating_sub(pruned);
        }
        transaction.execute("UPDATE counters SET value = ?1 WHERE name = 'version'", [version.cast_signed()])?;
        transaction.commit()?;
        self.tombstones = left;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::super::{Shared, schema};
    use super::*;
    use serde_json::json;
    use std::sync::RwLock;
    use std::sync::atomic::AtomicU64;
    use tokio::sync::oneshot;

    fn writer(dir: &std::path::Path) -> Writer {
        let (connection, loaded) = schema::open(&dir.join("objects.db")).unwrap();
        let shared = Shared {
            caches: RwLock::default(),
            applied: Arc::new(AtomicU64::new(loaded.version)),
            floor: loaded.floor,
            ring_events: 64,
        };
        for (storage, (objects, tombstones)) in loaded.resources {
            shared.cache(&storage).seed(objects, tombstones, loaded.floor);
        }
        Writer::new(connection, Arc::new(shared), loaded.version, loaded.tombstones)
    }

    fn op(name: &str, data: &str, expect: Expect, delete: bool) -> Op {
        let value = json!({"metadata": {"name": name, "namespace": "d"}, "data": data});
        Op { storage: "/configmaps".into(), value, expect, delete }
    }

    /// Commits jobs as one group and answers whether each was written.
    fn commit(writer: &mut Writer, jobs: Vec<Vec<Op>>) -> Vec<Result<usize, WriteError>> {
        let (mut group, mut answers) = (Vec::new(), Vec::new());
        for ops in jobs {
            let (done, answer) = oneshot::channel();
            group.push(Job { ops, done });
            answers.push(answer);
        }
        writer.commit(&mut group);
        answers.into_iter().map(|mut a| a.try_recv().unwrap().map(|entries| entries.len())).collect()
    }

    #[test]
    fn preconditions_see_the_earlier_jobs_of_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = writer(dir.path());
        let first = w.version + 1;
        let answers = commit(
            &mut w,
            vec![
                vec![op("a", "1", Expect::Absent, false)],
                vec![op("a", "2", Expect::Absent, false)],
                vec![op("a", "3", Expect::Version(first), false)],
                vec![op("a", "4", Expect::Version(first), false)],
                vec![op("a", "5", Expect::Version(first + 1), true)],
                vec![op("a", "6", Expect::Version(first + 2), false)],
            ],
        );
        let (exists, changed, missing) = (WriteError::Exists, WriteError::Changed, WriteError::Missing);
        assert_eq!(answers, [Ok(1), Err(exists), Ok(1), Err(changed), Ok(1), Err(missing)]);
        assert!(w.shared.cache("/configmaps").is_empty());
    }

    #[test]
    fn a_job_is_all_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = writer(dir.path());
        let ops = || vec![op("a", "1", Expect::Absent, false), op("b", "1", Expect::Version(77), false)];
        assert_eq!(commit(&mut w, vec![ops()]), [Err(WriteError::Missing)]);
        assert!(w.shared.cache("/configmaps").is_empty());
        assert_eq!(commit(&mut w, vec![vec![op("a", "1", Expect::Absent, false)]]), [Ok(1)]);
    }

    #[test]
    fn a_full_disk_changes_nothing_and_goes_on_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = writer(dir.path());
        let pages: i64 = w.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        w.connection.pragma_update(None, "max_page_count", pages + 1).unwrap();
        let large = "x".repeat(64 * 1024);
        let before = w.version;
        assert_eq!(commit(&mut w, vec![vec![op("a", &large, Expect::Absent, false)]]), [Err(WriteError::Full)]);
        assert_eq!(w.version, before);
        assert!(w.shared.cache("/configmaps").is_empty());
        w.connection.pragma_update(None, "max_page_count", 1_000_000).unwrap();
        assert_eq!(commit(&mut w, vec![vec![op("a", &large, Expect::Absent, false)]]), [Ok(1)]);
        drop(w);
        assert_eq!(writer(dir.path()).shared.cache("/configmaps").len(), 1);
    }

    #[test]
    fn old_tombstones_are_forgotten_and_the_floor_rises() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = writer(dir.path());
        let all = TOMBSTONES + TOMBSTONE_SLACK + 1;
        let made = (0..all).map(|n| vec![op(&format!("n{n}"), "", Expect::Absent, false)]).collect();
        assert!(commit(&mut w, made).iter().all(Result::is_ok));
        let version = |n: usize, w: &Writer| {
            w.shared.cache("/configmaps").get(&ObjectKey::new("d", &format!("n{n}"))).unwrap().version
        };
        let gone = (0..all).map(|n| vec![op(&format!("n{n}"), "", Expect::Version(version(n, &w)), true)]).collect();
        assert!(commit(&mut w, gone).iter().all(Result::is_ok));
        assert_eq!(w.tombstones, TOMBSTONES);
        let last = w.version;
        drop(w);
        let (_, loaded) = schema::open(&dir.path().join("objects.db")).unwrap();
        assert_eq!((loaded.version, loaded.floor), (last, last - TOMBSTONES as u64));
    }
}
