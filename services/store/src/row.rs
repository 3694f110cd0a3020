//! Rows: their columns, their checksum, and their way into Rust values.
//!
//! SQLite does not notice a flipped bit inside a row, so each row carries a checksum over its other
//! columns, checked on every read. FNV-1a is enough: every step is a bijection of the state, so a
//! change of any single byte always changes the sum; it is not meant against attackers, who could
//! write a valid row anyway. Used by the writer, the readers and the check at start.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Row;
use skerry_common::{Encoding, Key, Version};

use crate::{PendingReport, Report, StoreError, StoredObject};

/// What a row counts besides its body: its names, its checksum, and SQLite's overhead.
pub(crate) const ROW_OVERHEAD: u64 = 256;

/// Scope of the store's own values in `blobs`.
pub(crate) const META: &str = "meta";
/// Scope of [`crate::Store::put_value`].
pub(crate) const VALUE: &str = "value";
/// Before the scope of a checkpoint.
pub(crate) const CHECKPOINT: &str = "checkpoint/";

/// Columns of an object, in the order that [`object`] reads.
pub(crate) const OBJECT: &str = "kind, namespace, name, uid, version, encoding, body, sum";
/// Columns of an event, in the order that [`event`] reads.
pub(crate) const EVENT: &str =
    "kind, namespace, name, id, uid, observed_ms, traceparent, encoding, body, sum, droppable";
/// Columns of a coalescing report, in the order that [`latest`] reads.
pub(crate) const LATEST: &str = "kind, namespace, name, id, uid, observed_ms, traceparent, encoding, body, sum";
/// Columns of a blob, in the order that [`blob`] reads.
pub(crate) const BLOB: &str = "scope, key, value, sum";

/// Why a command or a read did not work.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is not possible now or ever; nothing is wrong with the store.
    Refused(StoreError),
    /// SQLite reported an error.
    Sql(rusqlite::Error),
    /// A row is not what was written.
    Damaged(String),
    /// The disk did not give an answer; SQLite told it only in words.
    Unreadable(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// A checksum in the making.
#[derive(Clone, Copy)]
pub(crate) struct Sum(u64);

impl Sum {
    const START: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;

    /// Begins with the table's name, so that a row cannot pass for one of another table.
    pub(crate) fn new(table: &str) -> Self {
        Self(Self::START).bytes(table.as_bytes())
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn int(self, value: i64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    /// With its length, so that bytes cannot move between columns.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        self.raw(&(bytes.len() as u64).to_le_bytes()).raw(bytes)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(Self::PRIME);
        }
        self
    }

    pub(crate) fn finish(self) -> i64 {
        self.0.cast_signed()
    }
}

pub(crate) fn encoding_number(encoding: Encoding) -> i64 {
    match encoding {
        Encoding::Identity => 0,
        Encoding::Zstd => 1,
    }
}

fn encoding_of(number: i64) -> Result<Encoding, Fault> {
    match number {
        0 => Ok(Encoding::Identity),
        1 => Ok(Encoding::Zstd),
        other => Err(Fault::Damaged(format!("a row has the unknown encoding {other}"))),
    }
}

pub(crate) fn object_sum(kind: &str, key: &Key, uid: &str, version: &str, encoding: Encoding, body: &[u8]) -> i64 {
    let sum = Sum::new("objects").text(kind).text(&key.namespace).text(&key.name).text(uid).text(version);
    sum.int(encoding_number(encoding)).bytes(body).finish()
}

pub(crate) fn report_sum(table: &str, id: i64, report: &Report) -> i64 {
    let sum = Sum::new(table).int(id).text(&report.kind).text(&report.key.namespace).text(&report.key.name);
    let sum = sum.text(&report.uid).int(signed(report.observed_ms)).text(&report.traceparent);
    sum.int(encoding_number(report.encoding)).bytes(&report.body).finish()
}

pub(crate) fn blob_sum(scope: &str, key: &str, value: &[u8]) -> i64 {
    Sum::new("blobs").text(scope).text(key).bytes(value).finish()
}

/// Reads a row of [`OBJECT`].
pub(crate) fn object(row: &Row<'_>) -> Result<(Arc<str>, StoredObject), Fault> {
    let kind: Arc<str> = row.get(0)?;
    let key = Key::new(row.get::<_, Arc<str>>(1)?, row.get::<_, Arc<str>>(2)?);
    let uid: Arc<str> = row.get(3)?;
    let version: Arc<str> = row.get(4)?;
    let encoding = encoding_of(row.get(5)?)?;
    let body = Bytes::from(row.get::<_, Vec<u8>>(6)?);
    if row.get::<_, i64>(7)? != object_sum(&kind, &key, &uid, &version, encoding, &body) {
        return Err(Fault::Damaged(format!("the checksum of {kind} {key} does not match")));
    }
    Ok((kind, StoredObject { key, uid, version: Version::new(version), body, encoding }))
}

/// Reads a row of [`EVENT`], and whether it may be dropped.
pub(crate) fn event(row: &Row<'_>) -> Result<(PendingReport, bool), Fault> {
    let pending = report(row, "events", false)?;
    let droppable = match row.get::<_, i64>(10)? {
        0 => false,
        1 => true,
        other => return Err(Fault::Damaged(format!("report {} has the unknown class {other}", pending.id))),
    };
    if droppable != skerry_common::kinds::droppable(&pending.report.kind) {
        return Err(Fault::Damaged(format!("report {} has the wrong class", pending.id)));
    }
    Ok((pending, droppable))
}

/// Reads a row of [`LATEST`].
pub(crate) fn latest(row: &Row<'_>) -> Result<PendingReport, Fault> {
    report(row, "latest", true)
}

fn report(row: &Row<'_>, table: &str, coalesce: bool) -> Result<PendingReport, Fault> {
    let id: i64 = row.get(3)?;
    let report = Report {
        kind: row.get(0)?,
        key: Key::new(row.get::<_, Arc<str>>(1)?, row.get::<_, Arc<str>>(2)?),
        uid: row.get(4)?,
        observed_ms: unsigned(row.get(5)?),
        traceparent: row.get(6)?,
        encoding: encoding_of(row.get(7)?)?,
        body: Bytes::from(row.get::<_, Vec<u8>>(8)?),
        coalesce,
    };
    if row.get::<_, i64>(9)? != report_sum(table, id, &report) {
        return Err(Fault::Damaged(format!("the checksum of report {id} does not match")));
    }
    Ok(PendingReport { id: unsigned(id), report })
}

/// Reads a row of [`BLOB`].
pub(crate) fn blob(row: &Row<'_>) -> Result<(String, String, Bytes), Fault> {
    let (scope, key): (String, String) = (row.get(0)?, row.get(1)?);
    let value = Bytes::from(row.get::<_, Vec<u8>>(2)?);
    if row.get::<_, i64>(3)? != blob_sum(&scope, &key, &value) {
        return Err(Fault::Damaged(format!("the checksum of {scope}/{key} does not match")));
    }
    Ok((scope, key, value))
}

/// SQLite's integers are signed; ours are below 2^63 by construction.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_change_of_any_single_bit_changes_the_sum() {
        let body: Vec<u8> = (0..300_u16).map(|i| u8::try_from(i % 256).unwrap()).collect();
        let good = blob_sum("scope", "key", &body);
        for bit in 0..body.len() * 8 {
            let mut flipped = body.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(blob_sum("scope", "key", &flipped), good, "bit {bit}");
        }
    }

    #[test]
    fn bytes_cannot_move_between_columns() {
        assert_ne!(blob_sum("ab", "c", b""), blob_sum("a", "bc", b""));
        assert_ne!(blob_sum("a", "b", b"c"), blob_sum("a", "bc", b""));
    }
}
