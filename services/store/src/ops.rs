//! The commands of the store, each carried out inside a savepoint of the group's transaction.
//!
//! Called only by the writer thread. A command either happens wholly or not at all; the bounds of
//! [`StoreOptions`] are enforced here, before the transaction commits.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};
use skerry_common::{Key, kinds};

use crate::{
    Change, Queued, Report, StoreError, StoreOptions, Usage,
    check::{EPOCH, SESSION, number, size},
    options::MAX_ROW,
    row::{Fault, META, ROW_OVERHEAD, blob_sum, encoding_number, object_sum, report_sum, signed, unsigned},
};

/// Ids in one statement; more only make the statement long.
const IDS: usize = 128;

/// Report ids of one opening begin at the epoch times this, so they grow over restarts without a
/// write of their own.
const EPOCH_BITS: u32 = 32;

/// What the writer can be asked to do.
#[derive(Debug)]
pub(crate) enum Op {
    Apply { kind: Arc<str>, changes: Vec<Change> },
    Enqueue { report: Report },
    Remove { ids: Vec<u64> },
    PutBlob { scope: String, key: String, value: Bytes },
    DeleteBlob { scope: String, key: String },
    NextSession,
}

/// What it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Queued(Queued),
    Number(u64),
}

impl Op {
    /// Bytes of its bodies.
    pub(crate) fn bytes(&self) -> u64 {
        let body = |change: &Change| match change {
            Change::Upsert { body, .. } => body.len(),
            Change::Delete { .. } => 0,
        };
        let bytes = match self {
            Self::Apply { changes, .. } => changes.iter().map(body).sum(),
            Self::Enqueue { report } => report.body.len(),
            Self::PutBlob { value, .. } => value.len(),
            Self::Remove { .. } | Self::DeleteBlob { .. } | Self::NextSession => 0,
        };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Whether it can be carried out when the disk is full: it only removes.
    pub(crate) fn shrinks(&self) -> bool {
        match self {
            Self::Apply { changes, .. } => changes.iter().all(|change| matches!(change, Change::Delete { .. })),
            Self::Remove { .. } | Self::DeleteBlob { .. } => true,
            // Overwrites one small row in place, and without it a node could not reconnect.
            Self::NextSession => true,
            Self::Enqueue { .. } | Self::PutBlob { .. } => false,
        }
    }
}

/// What the writer knows about the file; goes back when a transaction does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Books {
    pub(crate) usage: Usage,
    pub(crate) epoch: u64,
    pub(crate) next_report: u64,
    /// Droppable reports dropped so far.
    pub(crate) dropped: u64,
}

impl Books {
    /// The books of an opening.
    pub(crate) fn new(usage: Usage, epoch: u64) -> Self {
        Self { usage, epoch, next_report: epoch.saturating_mul(1 << EPOCH_BITS), dropped: 0 }
    }
}

/// The epoch of a new opening, after everything that is known of earlier ones. Without any knowledge
/// the clock gives a number above those of a store that was wiped.
pub(crate) fn next_epoch(stored: u64, newest_report: u64, now_ms: u64) -> u64 {
    const MS_PER_EPOCH: u64 = 64_000;
    let known = stored.max(newest_report >> EPOCH_BITS).saturating_add(1);
    // A clock far in the future must not use the numbers up: 2^30 epochs are reached in the year 4100.
    known.max((now_ms / MS_PER_EPOCH).min(1 << 30))
}

/// Stores the epoch of this opening.
pub(crate) fn store_epoch(connection: &Connection, epoch: u64) -> rusqlite::Result<()> {
    put_row(connection, META, EPOCH, &signed(epoch).to_le_bytes())
}

/// Carries one command out.
pub(crate) fn execute(
    connection: &Connection,
    op: &Op,
    books: &mut Books,
    options: &StoreOptions,
) -> Result<Answer, Fault> {
    match op {
        Op::Apply { kind, changes } => {
            for change in changes {
                apply(connection, kind, change, books)?;
            }
            make_room(connection, books, options)?;
            Ok(Answer::Done)
        }
        Op::Enqueue { report } => enqueue(connection, report, books, options).map(Answer::Queued),
        Op::Remove { ids } => {
            for ids in ids.chunks(IDS) {
                remove(connection, ids, books)?;
            }
            Ok(Answer::Done)
        }
        Op::PutBlob { scope, key, value } => {
            let old = blob_size(connection, scope, key)?;
            grow(books, row_size(value.len())?, old);
            put_row(connection, scope, key, value)?;
            make_room(connection, books, options)?;
            Ok(Answer::Done)
        }
        Op::DeleteBlob { scope, key } => {
            let old = blob_size(connection, scope, key)?;
            grow(books, 0, old);
            connection
                .prepare_cached("DELETE FROM blobs WHERE scope = ?1 AND key = ?2")?
                .execute(params![scope, key])?;
            Ok(Answer::Done)
        }
        Op::NextSession => {
            let stored: Option<Vec<u8>> = connection
                .prepare_cached("SELECT value FROM blobs WHERE scope = ?1 AND key = ?2")?
                .query_row(params![META, SESSION], |row| row.get(0))
                .optional()?;
            let last = stored.as_deref().map_or(Ok(0), number)?;
            let session = last.saturating_add(1).max((options.clock_ms)());
            put_row(connection, META, SESSION, &signed(session).to_le_bytes())?;
            Ok(Answer::Number(session))
        }
    }
}

fn apply(connection: &Connection, kind: &str, change: &Change, books: &mut Books) -> Result<(), Fault> {
    match change {
        Change::Upsert { key, uid, version, body, encoding } => {
            let new = row_size(body.len())?;
            let old: Option<i64> = connection
                .prepare_cached("SELECT length(body) FROM objects WHERE kind = ?1 AND namespace = ?2 AND name = ?3")?
                .query_row(params![kind, key.namespace, key.name], |row| row.get(0))
                .optional()?;
            grow(books, new, old.map_or(0, stored_size));
            let sum = object_sum(kind, key, uid, version.as_str(), *encoding, body);
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO objects (kind, namespace, name, uid, version, encoding, body, sum)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    kind,
                    key.namespace,
                    key.name,
                    uid,
                    version.as_str(),
                    encoding_number(*encoding),
                    &body[..],
                    sum
                ])?;
        }
        Change::Delete { key } => {
            let old: Option<i64> = connection
                .prepare_cached(
                    "DELETE FROM objects WHERE kind = ?1 AND namespace = ?2 AND name = ?3 RETURNING length(body)",
                )?
                .query_row(params![kind, key.namespace, key.name], |row| row.get(0))
                .optional()?;
            grow(books, 0, old.map_or(0, stored_size));
        }
    }
    Ok(())
}

fn enqueue(
    connection: &Connection,
    report: &Report,
    books: &mut Books,
    options: &StoreOptions,
) -> Result<Queued, Fault> {
    let new = row_size(report.body.len())?;
    let id = next_id(connection, books)?;
    if report.coalesce {
        let old = find_latest(connection, &report.kind, &report.key)?;
        grow(books, new, old.map_or(0, |(_, bytes)| bytes));
        insert_latest(connection, signed(id), report)?;
        make_room(connection, books, options)?;
        return Ok(Queued { id, superseded: old.map(|(id, _)| id) });
    }
    let droppable = kinds::droppable(&report.kind);
    if droppable {
        if new > options.max_event_bytes {
            return Err(Fault::Refused(StoreError::TooLarge { size: new, max: options.max_event_bytes }));
        }
        // Made before the new one is there, so that it is never the one that is dropped.
        while books.usage.event_rows >= options.max_events
            || books.usage.events.saturating_add(new) > options.max_event_bytes
        {
            if !drop_oldest(connection, books)? {
                break;
            }
        }
        let with_new = |books: &Books| books.usage.total().saturating_add(new);
        while with_new(books) > options.max_bytes && drop_oldest(connection, books)? {}
        if with_new(books) > options.max_bytes {
            return Err(Fault::Refused(StoreError::Full { reason: "its limit is reached" }));
        }
        books.usage.events = books.usage.events.saturating_add(new);
        books.usage.event_rows = books.usage.event_rows.saturating_add(1);
    } else {
        grow(books, new, 0);
        make_room(connection, books, options)?;
    }
    insert_event(connection, signed(id), report, droppable)?;
    Ok(Queued { id, superseded: None })
}

fn next_id(connection: &Connection, books: &mut Books) -> rusqlite::Result<u64> {
    let id = books.next_report;
    books.next_report = id.saturating_add(1);
    if id >> EPOCH_BITS != books.epoch {
        // More than 2^32 reports in one opening: the ids have run into the next epoch, so take it.
        books.epoch = id >> EPOCH_BITS;
        store_epoch(connection, books.epoch)?;
    }
    Ok(id)
}

fn find_latest(connection: &Connection, kind: &str, key: &Key) -> rusqlite::Result<Option<(u64, u64)>> {
    connection
        .prepare_cached("SELECT id, length(body) FROM latest WHERE kind = ?1 AND namespace = ?2 AND name = ?3")?
        .query_row(params![kind, key.namespace, key.name], |row| Ok((unsigned(row.get(0)?), stored_size(row.get(1)?))))
        .optional()
}

/// Writes a coalescing report over an older one of the same kind and key.
pub(crate) fn insert_latest(connection: &Connection, id: i64, report: &Report) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO latest
             (kind, namespace, name, id, uid, observed_ms, traceparent, encoding, body, sum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            report.kind,
            report.key.namespace,
            report.key.name,
            id,
            report.uid,
            signed(report.observed_ms),
            report.traceparent,
            encoding_number(report.encoding),
            &report.body[..],
            report_sum("latest", id, report)
        ])
        .map(drop)
}

/// Writes a report that must arrive itself.
pub(crate) fn insert_event(connection: &Connection, id: i64, report: &Report, droppable: bool) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO events
             (kind, namespace, name, id, uid, observed_ms, traceparent, encoding, body, sum, droppable)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            report.kind,
            report.key.namespace,
            report.key.name,
            id,
            report.uid,
            signed(report.observed_ms),
            report.traceparent,
            encoding_number(report.encoding),
            &report.body[..],
            report_sum("events", id, report),
            i64::from(droppable)
        ])
        .map(drop)
}

fn remove(connection: &Connection, ids: &[u64], books: &mut Books) -> Result<(), Fault> {
    let places = vec!["?"; ids.len()].join(",");
    let values = || params_from_iter(ids.iter().map(|id| signed(*id)));
    let mut events = connection
        .prepare_cached(&format!("DELETE FROM events WHERE id IN ({places}) RETURNING droppable, length(body)"))?;
    let mut rows = events.query(values())?;
    while let Some(row) = rows.next()? {
        let bytes = stored_size(row.get(1)?);
        if row.get::<_, i64>(0)? == 1 { shrink_events(books, bytes) } else { grow(books, 0, bytes) }
    }
    let mut latest =
        connection.prepare_cached(&format!("DELETE FROM latest WHERE id IN ({places}) RETURNING length(body)"))?;
    let mut rows = latest.query(values())?;
    while let Some(row) = rows.next()? {
        grow(books, 0, stored_size(row.get(0)?));
    }
    Ok(())
}

/// Drops events until everything fits; refuses when there are none left.
fn make_room(connection: &Connection, books: &mut Books, options: &StoreOptions) -> Result<(), Fault> {
    while books.usage.total() > options.max_bytes {
        if !drop_oldest(connection, books)? {
            return Err(Fault::Refused(StoreError::Full { reason: "its limit is reached" }));
        }
    }
    Ok(())
}

/// Drops the oldest droppable report. Returns whether there was one.
pub(crate) fn drop_oldest(connection: &Connection, books: &mut Books) -> rusqlite::Result<bool> {
    let bytes: Option<i64> = connection
        .prepare_cached(
            "DELETE FROM events WHERE id = (SELECT id FROM events WHERE droppable = 1 ORDER BY id LIMIT 1)
             RETURNING length(body)",
        )?
        .query_row([], |row| row.get(0))
        .optional()?;
    if let Some(bytes) = bytes {
        shrink_events(books, stored_size(bytes));
        books.dropped = books.dropped.saturating_add(1);
    }
    Ok(bytes.is_some())
}

/// Writes a row of `blobs`.
pub(crate) fn put_row(connection: &Connection, scope: &str, key: &str, value: &[u8]) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO blobs (scope, key, value, sum) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![scope, key, value, blob_sum(scope, key, value)])
        .map(drop)
}

fn blob_size(connection: &Connection, scope: &str, key: &str) -> rusqlite::Result<u64> {
    let found: Option<i64> = connection
        .prepare_cached("SELECT length(value) FROM blobs WHERE scope = ?1 AND key = ?2")?
        .query_row(params![scope, key], |row| row.get(0))
        .optional()?;
    Ok(found.map_or(0, stored_size))
}

fn row_size(body: usize) -> Result<u64, Fault> {
    let size = size(body);
    if size > MAX_ROW { Err(Fault::Refused(StoreError::TooLarge { size, max: MAX_ROW })) } else { Ok(size) }
}

fn stored_size(body: i64) -> u64 {
    unsigned(body).saturating_add(ROW_OVERHEAD)
}

fn grow(books: &mut Books, new: u64, old: u64) {
    books.usage.control = books.usage.control.saturating_add(new).saturating_sub(old);
}

fn shrink_events(books: &mut Books, bytes: u64) {
    books.usage.events = books.usage.events.saturating_sub(bytes);
    books.usage.event_rows = books.usage.event_rows.saturating_sub(1);
}
