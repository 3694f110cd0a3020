//! Tests of the store as a whole: through its public API, on real files, with real faults.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

mod basic;
mod bounds;
mod child;
mod crash;
mod damage;
mod full;
mod model;

use std::path::Path;

use bytes::Bytes;
use skerry_common::{Encoding, Key, Version, kinds};

use crate::{Change, Opened, Report, Store, StoreOptions};

/// A directory in memory where there is one: for tests that open hundreds of stores and are not about
/// the disk.
pub(crate) fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn open(path: &Path) -> (Store, Opened) {
    Store::open(path, StoreOptions::default()).unwrap()
}

pub(crate) fn upsert(name: &str, version: &str, body: impl Into<Bytes>) -> Change {
    Change::Upsert {
        key: Key::new("default", name),
        uid: format!("uid-{name}").into(),
        version: Version::new(version),
        body: body.into(),
        encoding: Encoding::Identity,
    }
}

pub(crate) fn delete(name: &str) -> Change {
    Change::Delete { key: Key::new("default", name) }
}

pub(crate) fn status(name: &str, body: &str) -> Report {
    report(kinds::POD_STATUS, name, body.to_owned().into(), true)
}

pub(crate) fn event(name: &str, body: impl Into<Bytes>) -> Report {
    report(kinds::EVENT, name, body.into(), false)
}

pub(crate) fn report(kind: &str, name: &str, body: Bytes, coalesce: bool) -> Report {
    Report {
        kind: kind.into(),
        key: Key::new("default", name),
        uid: format!("uid-{name}").into(),
        body,
        encoding: Encoding::Identity,
        coalesce,
        observed_ms: 1,
        traceparent: "".into(),
    }
}
