//! What the API promises on a good day.

use std::os::unix::fs::PermissionsExt;

use skerry_common::{Encoding, Key, Version, kinds};

use super::{delete, event, open, report, status, upsert};
use crate::{Opened, Queued, Store, StoreError, StoreOptions, connection};

#[tokio::test]
async fn objects_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.db");
    let (store, opened) = open(&path);
    assert_eq!(opened, Opened::Clean);
    store.apply("Pod", vec![upsert("a", "1", "one"), upsert("b", "2", "two")]).await.unwrap();
    store.apply("Secret", vec![upsert("a", "9", "secret")]).await.unwrap();
    store.apply("Pod", vec![delete("a"), upsert("b", "3", "three"), delete("never-was")]).await.unwrap();
    store.close().await;

    let (store, opened) = open(&path);
    assert_eq!(opened, Opened::Clean);
    let b = store.get("Pod", &Key::new("default", "b")).await.unwrap().unwrap();
    assert_eq!(
        (&*b.uid, b.version.as_str(), &b.body[..], b.encoding),
        ("uid-b", "3", &b"three"[..], Encoding::Identity)
    );
    assert_eq!(store.get("Pod", &Key::new("default", "a")).await.unwrap(), None);
    assert_eq!(store.held("Pod").await.unwrap(), vec![(Key::new("default", "b"), Version::new("3"))]);
    assert_eq!(store.list("Pod", None).await.unwrap(), vec![b]);
    assert_eq!(store.list("Pod", Some("kube-system")).await.unwrap(), vec![]);
    assert_eq!(store.kinds().await.unwrap(), ["Pod", "Secret"]);
}

#[tokio::test]
async fn reports_are_pending_in_order_until_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.db");
    let (store, _) = open(&path);
    let e1 = store.put(event("e1", "first")).await.unwrap();
    let s1 = store.put(status("web", "Pending")).await.unwrap();
    let e2 = store.put(event("e2", "second")).await.unwrap();
    let Queued { id: s2, superseded } = store.enqueue(status("web", "Running")).await.unwrap();
    assert_eq!(superseded, Some(s1));
    assert!(e1 < s1 && s1 < e2 && e2 < s2);
    let ids = |pending: &[crate::PendingReport]| pending.iter().map(|p| p.id).collect::<Vec<_>>();
    let pending = store.pending(0, 10).await.unwrap();
    assert_eq!(ids(&pending), [e1, e2, s2]);
    assert_eq!(pending[2].report, status("web", "Running"), "the newest status wins");
    assert_eq!(ids(&store.pending(0, 1).await.unwrap()), [e1]);
    assert_eq!(ids(&store.pending(e1, 10).await.unwrap()), [e2, s2]);
    store.remove(&[e1, s1, 12345]).await.unwrap();
    store.close().await;

    let (store, _) = open(&path);
    assert_eq!(ids(&store.pending(0, 10).await.unwrap()), [e2, s2]);
    let after = store.put(status("web", "Succeeded")).await.unwrap();
    assert!(after > s2, "ids grow over restarts");
    store.remove(&[e2, after]).await.unwrap();
    store.close().await;
    let (store, _) = open(&path);
    assert!(store.put(event("e", "x")).await.unwrap() > after, "also when the outbox was empty");
}

#[tokio::test]
async fn deletions_of_different_pods_do_not_replace_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir.path().join("edge.db"));
    for (kind, name) in [(kinds::POD_DELETION, "a"), (kinds::POD_DELETION, "b"), (kinds::POD_STATUS, "a")] {
        store.put(report(kind, name, "".into(), true)).await.unwrap();
    }
    assert_eq!(store.pending(0, 10).await.unwrap().len(), 3);
}

#[tokio::test]
async fn values_and_checkpoints_are_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.db");
    let (store, _) = open(&path);
    store.put_value("a", "value").await.unwrap();
    store.put_checkpoint("edged", "b", "two").await.unwrap();
    store.put_checkpoint("edged", "a", "one").await.unwrap();
    store.put_checkpoint("other", "a", "else").await.unwrap();
    store.delete_checkpoint("other", "a").await.unwrap();
    store.close().await;
    let (store, _) = open(&path);
    assert_eq!(store.get_value("a").await.unwrap().unwrap(), "value");
    assert_eq!(store.get_value("session").await.unwrap(), None, "the store's own values are not visible");
    let checkpoints = store.list_checkpoints("edged").await.unwrap();
    assert_eq!(checkpoints, vec![("a".to_owned(), "one".into()), ("b".to_owned(), "two".into())]);
    assert_eq!(store.list_checkpoints("other").await.unwrap(), vec![]);
}

#[tokio::test]
async fn sessions_grow_whatever_the_clock_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.db");
    let at = |clock_ms: fn() -> u64| StoreOptions { clock_ms, ..StoreOptions::default() };
    let mut last = 0;
    // Right, 1970, ten years ahead, an hour back.
    for clock in [|| 1_800_000_000_000, || 0, || 2_115_000_000_000, || 1_799_996_400_000_u64] {
        let (store, opened) = Store::open(&path, at(clock)).unwrap();
        assert_eq!(opened, Opened::Clean);
        for _ in 0..3 {
            let session = store.next_session().await.unwrap();
            assert!(session > last, "{session} after {last}");
            assert!(session >= clock());
            last = session;
        }
        store.close().await;
    }
}

#[tokio::test]
async fn there_is_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.db");
    let (store, _) = open(&path);
    assert!(matches!(Store::open(&path, StoreOptions::default()), Err(StoreError::InUse { .. })));
    store.close().await;
    assert!(matches!(store.put_value("a", "b").await, Err(StoreError::Stopped { .. })));
    assert!(matches!(store.get_value("a").await, Err(StoreError::Stopped { .. })));
    let (_store, opened) = open(&path);
    assert_eq!(opened, Opened::Clean);
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.db");
    let (store, _) = open(&path);
    store.put_value("a", "b").await.unwrap();
    drop(store);
    for _ in 0..500 {
        if let Ok((store, _)) = Store::open(&path, StoreOptions::default()) {
            assert_eq!(store.get_value("a").await.unwrap().unwrap(), "b");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the lock was not released");
}

#[tokio::test]
async fn files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.db");
    let (store, _) = open(&path);
    store.put_value("a", "b").await.unwrap();
    store.get_value("a").await.unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn settings_are_what_the_promises_need() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.db");
    connection::create_private(&path).unwrap();
    let writer = connection::open_writer(&path).unwrap();
    connection::make_durable(&writer, &StoreOptions::default()).unwrap();
    let read = |name: &str| writer.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(writer.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0)).unwrap(), "wal");
    assert_eq!(read("synchronous"), 2);
    assert_eq!(read("wal_autocheckpoint"), 1024);
    assert_eq!(read("busy_timeout"), 5000);
    assert_eq!(read("cache_size"), -512);
    let reader = connection::open_reader(&path).unwrap();
    assert!(reader.execute_batch("CREATE TABLE t (a)").is_err(), "readers cannot write");
    assert!(connection::check_version(rusqlite::version_number()).is_ok());
    for bad in [3_040_001, 3_051_002, 3_052_000] {
        assert!(connection::check_version(bad).is_err(), "{bad}");
    }
    for good in [3_051_003, 3_053_000] {
        assert!(connection::check_version(good).is_ok(), "{good}");
    }
}

#[tokio::test]
async fn waiting_commands_share_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions::default();
    let metrics = options.metrics.clone();
    let (store, _) = Store::open(dir.path().join("edge.db"), options).unwrap();
    let writes = (0..200).map(|i| {
        let store = store.clone();
        async move { store.put(event(&format!("e{i}"), "x")).await.unwrap() }
    });
    let mut tasks = tokio::task::JoinSet::new();
    writes.for_each(|write| drop(tasks.spawn(write)));
    let mut ids = tasks.join_all().await;
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 200, "each report has its own id");
    assert_eq!(store.pending(0, 1000).await.unwrap().len(), 200);
    assert!(metrics.syncs.get() < 200, "{} syncs for 200 writes", metrics.syncs.get());
}
