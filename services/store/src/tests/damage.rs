//! Files that are not what was written: detected, set aside, and what is good is saved.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use skerry_common::Key;

use super::{event, fast_dir, open, status, upsert};
use crate::{Opened, PendingReport, Store, StoreError, StoreOptions, StoredObject};

/// Everything in a store.
#[derive(Debug, PartialEq)]
struct Content {
    objects: BTreeMap<Key, StoredObject>,
    pending: BTreeMap<u64, PendingReport>,
    checkpoints: BTreeMap<String, Bytes>,
    value: Option<Bytes>,
}

async fn content(store: &Store) -> Content {
    let objects = store.list("Pod", None).await.unwrap();
    let pending = store.pending(0, usize::MAX >> 1).await.unwrap();
    Content {
        objects: objects.into_iter().map(|object| (object.key.clone(), object)).collect(),
        pending: pending.into_iter().map(|pending| (pending.id, pending)).collect(),
        checkpoints: store.list_checkpoints("edged").await.unwrap().into_iter().collect(),
        value: store.get_value("v").await.unwrap(),
    }
}

/// Whether nothing in `found` was invented or changed.
fn is_part_of(found: &Content, written: &Content) -> bool {
    found.objects.iter().all(|(key, object)| written.objects.get(key) == Some(object))
        && found.pending.iter().all(|(id, pending)| written.pending.get(id) == Some(pending))
        && found.checkpoints.iter().all(|(key, value)| written.checkpoints.get(key) == Some(value))
        && (found.value.is_none() || found.value == written.value)
}

/// Rows on many pages of each kind: leaves, interior pages, overflow pages, free pages.
async fn fill(store: &Store) {
    for row in 0..60_usize {
        let body = vec![u8::try_from(row).unwrap(); if row.is_multiple_of(7) { 9000 } else { 700 }];
        store.apply("Pod", vec![upsert(&format!("p{row}"), &format!("v{row}"), body)]).await.unwrap();
        store.put(event(&format!("e{row}"), vec![9; 500])).await.unwrap();
        store.put(status(&format!("s{row}"), &"status ".repeat(row))).await.unwrap();
        store.put_checkpoint("edged", &format!("c{row}"), vec![3; 100]).await.unwrap();
    }
    store.put_value("v", "value").await.unwrap();
    store.next_session().await.unwrap();
    for row in 50..60 {
        store.apply("Pod", vec![super::delete(&format!("p{row}"))]).await.unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().ends_with(".ballast") {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn small() -> StoreOptions {
    // Hundreds of openings need no ballast.
    StoreOptions { ballast: 0, ..StoreOptions::default() }
}

#[tokio::test]
async fn a_flipped_bit_in_any_page_is_never_served() {
    const PAGE: usize = 4096;
    let dir = fast_dir();
    let (store, _) = Store::open(dir.path().join("edge.db"), small()).unwrap();
    fill(&store).await;
    let written = content(&store).await;
    let session = store.next_session().await.unwrap();
    store.close().await;
    let good = std::fs::read(dir.path().join("edge.db")).unwrap();
    let pages = good.len() / PAGE;
    assert!(pages > 40, "{pages} pages");

    let (mut recovered, mut harmless, mut saved_most) = (0, 0, 0);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for page in 0..pages {
        // The header of the page, its cell pointers, and somewhere in its content.
        for bit in 0..3_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let span = [8, 64, PAGE][usize::try_from(bit).unwrap()];
            let offset = page * PAGE + usize::try_from(random >> 33).unwrap() % span;
            let after = fast_dir();
            copy(dir.path(), after.path());
            let path = after.path().join("edge.db");
            let mut flipped = good.clone();
            flipped[offset] ^= 1 << (random >> 29 & 7);
            std::fs::write(&path, &flipped).unwrap();

            let (store, opened) =
                Store::open(&path, small()).unwrap_or_else(|error| panic!("offset {offset}: {error:?}"));
            let found = content(&store).await;
            match opened {
                // A bit that means nothing: everything must be there.
                Opened::Clean => {
                    assert_eq!(found, written, "offset {offset}");
                    harmless += 1;
                }
                Opened::Recovered { reason } => {
                    assert!(is_part_of(&found, &written), "offset {offset}: {reason}");
                    assert!(path.with_file_name("edge.db.damaged-1").exists(), "offset {offset}");
                    saved_most += usize::from(found.pending.len() * 2 > written.pending.len());
                    recovered += 1;
                }
            }
            assert!(store.next_session().await.unwrap() > session - 1, "offset {offset}");
            let newest = written.pending.keys().max().unwrap();
            assert!(store.put(event("new", "x")).await.unwrap() > *newest, "ids still grow, offset {offset}");
            store.close().await;
        }
    }
    assert!(recovered > pages, "{recovered} recovered, {harmless} harmless");
    assert!(saved_most * 10 > recovered * 8, "reports were saved in {saved_most} of {recovered} cases");
}

#[tokio::test]
async fn damage_while_running_stops_the_store_and_the_next_start_sets_the_file_aside() {
    let dir = fast_dir();
    let path = dir.path().join("edge.db");
    let (store, _) = Store::open(&path, small()).unwrap();
    fill(&store).await;
    store.close().await;
    let (store, opened) = Store::open(&path, small()).unwrap();
    assert_eq!(opened, Opened::Clean);
    let mut bytes = std::fs::read(&path).unwrap();
    let body = bytes.windows(600).position(|window| window.iter().all(|byte| *byte == 5)).unwrap();
    bytes[body + 300] ^= 1;
    {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&bytes[body + 300..=body + 300], u64::try_from(body + 300).unwrap()).unwrap();
    }
    let read = store.get("Pod", &Key::new("default", "p5")).await;
    assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
    assert!(matches!(store.put_value("a", "b").await, Err(StoreError::Stopped { .. })));
    assert!(store.failed().await.contains("p5"));
    store.close().await;
    let (store, opened) = Store::open(&path, small()).unwrap();
    assert!(matches!(opened, Opened::Recovered { .. }));
    assert_eq!(store.get("Pod", &Key::new("default", "p5")).await.unwrap(), None, "will be sent again");
    assert_eq!(store.list("Pod", None).await.unwrap().len(), 49);
    assert_eq!(store.list_checkpoints("edged").await.unwrap().len(), 60);
    assert_eq!(store.get_value("v").await.unwrap(), None, "it may have said that all pods are here");
    store.close().await;
}

#[tokio::test]
async fn files_that_are_no_database_are_set_aside_and_only_two_are_kept() {
    let dir = fast_dir();
    let path = dir.path().join("edge.db");
    for round in 1..=5 {
        std::fs::write(&path, format!("nonsense {round} ").repeat(1000)).unwrap();
        let (store, opened) = Store::open(&path, small()).unwrap();
        assert!(matches!(opened, Opened::Recovered { .. }), "{opened:?}");
        store.put_value("a", "b").await.unwrap();
        store.close().await;
    }
    let mut kept: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("damaged") && !name.ends_with("-wal"))
        .collect();
    kept.sort();
    assert_eq!(kept, ["edge.db.damaged-4", "edge.db.damaged-5"]);
}

#[tokio::test]
async fn a_cut_database_file_is_set_aside() {
    let dir = fast_dir();
    let (store, _) = Store::open(dir.path().join("edge.db"), small()).unwrap();
    fill(&store).await;
    let written = content(&store).await;
    store.close().await;
    let good = std::fs::read(dir.path().join("edge.db")).unwrap();
    for length in [1, 99, 4095, 4096, 9000, good.len() / 2, good.len() - 4096, good.len() - 1] {
        let after = fast_dir();
        copy(dir.path(), after.path());
        std::fs::write(after.path().join("edge.db"), &good[..length]).unwrap();
        let (store, opened) = Store::open(after.path().join("edge.db"), small()).unwrap();
        assert!(matches!(opened, Opened::Recovered { .. }), "{length} bytes: {opened:?}");
        assert!(is_part_of(&content(&store).await, &written));
        store.close().await;
    }
}

/// A log that lost its end is, for SQLite, one whose last transactions were never committed: this
/// cannot be noticed. What must hold is that the rest is consistent and nothing is invented.
#[tokio::test]
async fn a_cut_log_gives_an_earlier_consistent_state() {
    let dir = fast_dir();
    let path = dir.path().join("edge.db");
    let (store, _) = Store::open(&path, small()).unwrap();
    for row in 0..30 {
        store.put_value("counter", row.to_string()).await.unwrap();
        store.apply("Pod", vec![upsert(&format!("p{row}"), "1", vec![1; 900])]).await.unwrap();
    }
    let live = fast_dir();
    copy(dir.path(), live.path());
    store.close().await;
    let log = std::fs::read(live.path().join("edge.db-wal")).unwrap();
    assert!(log.len() > 100_000, "the log was not merged yet");
    for cut in (0..=log.len()).step_by(log.len() / 25) {
        let after = fast_dir();
        copy(live.path(), after.path());
        std::fs::write(after.path().join("edge.db-wal"), &log[..cut]).unwrap();
        let (store, _) = Store::open(after.path().join("edge.db"), small()).unwrap();
        let objects = store.list("Pod", None).await.unwrap();
        let counter = store.get_value("counter").await.unwrap();
        let counter = counter.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse::<usize>().unwrap() + 1);
        assert!(
            objects.len() == counter || objects.len() + 1 == counter,
            "{} objects, counter {counter}",
            objects.len()
        );
        assert!(objects.iter().all(|object| object.body == vec![1; 900]));
        store.close().await;
    }
}

#[tokio::test]
async fn an_older_copy_is_refused_and_nothing_of_it_is_used() {
    let dir = fast_dir();
    let path = dir.path().join("edge.db");
    let (store, _) = open(&path);
    store.apply("Pod", vec![upsert("old", "1", "x")]).await.unwrap();
    let sent = store.put(event("sent", "x")).await.unwrap();
    store.close().await;
    let older = std::fs::read(&path).unwrap();

    let (store, _) = open(&path);
    store.remove(&[sent]).await.unwrap();
    store.apply("Pod", vec![super::delete("old"), upsert("new", "2", "y")]).await.unwrap();
    let session = store.next_session().await.unwrap();
    store.close().await;

    std::fs::write(&path, older).unwrap();
    let (store, opened) = open(&path);
    let Opened::Recovered { reason } = opened else { panic!("the older copy was used") };
    assert!(reason.contains("older copy"), "{reason}");
    assert_eq!(store.held("Pod").await.unwrap(), vec![], "no ghost");
    assert_eq!(store.pending(0, 10).await.unwrap(), vec![], "nothing is sent twice");
    assert!(store.next_session().await.unwrap() >= session);
    store.close().await;

    std::fs::remove_file(&path).unwrap();
    let (store, opened) = open(&path);
    assert_eq!(opened, Opened::Recovered { reason: "the database file was missing".into() });
    assert!(store.put(event("e", "x")).await.unwrap() > sent);
    store.close().await;
    assert_eq!(open(&path).1, Opened::Clean);
}

#[tokio::test]
async fn a_newer_schema_is_refused_before_anything_is_written() {
    let dir = fast_dir();
    let path = dir.path().join("edge.db");
    open(&path).0.close().await;
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.execute_batch("CREATE TABLE future (a); PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(newer);
    let before = std::fs::read(&path).unwrap();
    let refused = Store::open(&path, StoreOptions::default()).unwrap_err();
    assert!(matches!(refused, StoreError::NewerSchema { found: 99, known: 1 }), "{refused:?}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// The control: SQLite by itself writes into a schema that it cannot know.
#[test]
fn control_sqlite_alone_writes_into_a_newer_schema() {
    let dir = fast_dir();
    let path = dir.path().join("edge.db");
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.execute_batch("CREATE TABLE objects (kind, name); PRAGMA user_version = 99").unwrap();
    drop(newer);
    let older = rusqlite::Connection::open(&path).unwrap();
    assert_eq!(older.execute("INSERT INTO objects VALUES ('Pod', 'web')", []).unwrap(), 1);
}

#[tokio::test]
async fn an_older_schema_is_migrated_step_by_step() {
    let steps = ["CREATE TABLE a (x)", "INSERT INTO a VALUES (1)", "CREATE TABLE broken ("];
    let mut connection = rusqlite::Connection::open_in_memory().unwrap();
    crate::schema::migrate(&mut connection, &steps[..1]).unwrap();
    crate::schema::migrate(&mut connection, &steps[..2]).unwrap();
    crate::schema::migrate(&mut connection, &steps[..2]).unwrap();
    let rows = |connection: &rusqlite::Connection| {
        connection.query_row("SELECT count(*) FROM a", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(rows(&connection), 1, "each step runs once");
    assert!(crate::schema::migrate(&mut connection, &steps).is_err());
    assert_eq!(crate::schema::version(&connection).unwrap(), 2, "a failed step changes nothing");
    assert!(matches!(crate::schema::migrate(&mut connection, &steps[..1]), Err(StoreError::NewerSchema { .. })));
}
