//! Every limit: at it, and one above.

use skerry_common::kinds;

use super::{event, report, status, upsert};
use crate::{Store, StoreError, StoreOptions, options::MAX_ROW, row::ROW_OVERHEAD};

async fn names(store: &Store) -> Vec<String> {
    let pending = store.pending(0, usize::MAX >> 1).await.unwrap();
    pending.into_iter().map(|pending| pending.report.key.name.to_string()).collect()
}

fn new(options: StoreOptions) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path().join("edge.db"), options).unwrap();
    (dir, store)
}

#[tokio::test]
async fn the_oldest_events_are_dropped_at_the_limit_of_rows() {
    let options = StoreOptions { max_events: 3, ..StoreOptions::default() };
    let metrics = options.metrics.clone();
    let (_dir, store) = new(options);
    store.put(report("Message", "must-arrive", "x".into(), false)).await.unwrap();
    store.put(status("web", "x")).await.unwrap();
    for name in ["e1", "e2", "e3"] {
        store.put(event(name, "x")).await.unwrap();
    }
    assert_eq!(names(&store).await, ["must-arrive", "web", "e1", "e2", "e3"]);
    assert_eq!(metrics.dropped.get(), 0);
    for name in ["e4", "e5"] {
        store.put(event(name, "x")).await.unwrap();
    }
    assert_eq!(names(&store).await, ["must-arrive", "web", "e3", "e4", "e5"], "only events, oldest first");
    assert_eq!(metrics.dropped.get(), 2);
    assert_eq!(store.usage().event_rows, 3);
}

#[tokio::test]
async fn the_oldest_events_are_dropped_at_the_limit_of_bytes() {
    let row = 1000 + ROW_OVERHEAD;
    let (_dir, store) = new(StoreOptions { max_event_bytes: 3 * row, ..StoreOptions::default() });
    for name in ["e1", "e2", "e3", "e4"] {
        store.put(event(name, vec![0; 1000])).await.unwrap();
    }
    assert_eq!(names(&store).await, ["e2", "e3", "e4"]);
    let big = usize::try_from(3 * row - ROW_OVERHEAD).unwrap();
    store.put(event("big", vec![0; big])).await.unwrap();
    assert_eq!(names(&store).await, ["big"]);
    let refused = store.put(event("too-big", vec![0; big + 1])).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    assert_eq!(names(&store).await, ["big"], "a refusal drops nothing");
}

#[tokio::test]
async fn control_state_takes_the_room_of_events_and_is_then_refused_whole() {
    let row = 1000 + ROW_OVERHEAD;
    let (_dir, store) = new(StoreOptions { max_bytes: 5 * row, ..StoreOptions::default() });
    for name in ["e1", "e2", "e3"] {
        store.put(event(name, vec![0; 1000])).await.unwrap();
    }
    let object = |name: &str| upsert(name, "1", vec![0; 1000]);
    store.apply("Pod", vec![object("a"), object("b"), object("c")]).await.unwrap();
    assert_eq!(names(&store).await, ["e2", "e3"]);
    let refused = store.apply("Pod", vec![object("d"), object("e"), object("f")]).await;
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    assert_eq!(store.held("Pod").await.unwrap().len(), 3, "all or nothing");
    assert_eq!(names(&store).await, ["e2", "e3"], "a refusal drops nothing");
    store.apply("Pod", vec![object("d"), object("e")]).await.unwrap();
    assert!(names(&store).await.is_empty());
    // Replacing needs no more room, and deleting makes some.
    store.apply("Pod", vec![object("a")]).await.unwrap();
    assert!(matches!(store.put(event("e4", vec![0; 1000])).await, Err(StoreError::Full { .. })));
    store.apply("Pod", vec![super::delete("a")]).await.unwrap();
    store.put(event("e4", vec![0; 1000])).await.unwrap();
}

#[tokio::test]
async fn a_row_may_have_its_limit_and_no_more() {
    let (_dir, store) = new(StoreOptions::default());
    let most = usize::try_from(MAX_ROW - ROW_OVERHEAD).unwrap();
    store.apply("Pod", vec![upsert("a", "1", vec![0; most])]).await.unwrap();
    let refused = store.apply("Pod", vec![upsert("b", "1", "x"), upsert("a", "2", vec![0; most + 1])]).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    assert_eq!(store.held("Pod").await.unwrap().len(), 1, "all or nothing");
    assert!(matches!(store.put_value("a", vec![0; most + 1]).await, Err(StoreError::TooLarge { .. })));
    assert!(store.get_value("a").await.unwrap().is_none());
}

#[tokio::test]
async fn one_refused_command_does_not_hurt_the_others_of_its_group() {
    let (_dir, store) = new(StoreOptions::default());
    let mut tasks = tokio::task::JoinSet::new();
    for row in 0..100_usize {
        let store = store.clone();
        tasks.spawn(async move {
            let size = if row.is_multiple_of(10) { 3 * 1024 * 1024 } else { 10 };
            (row, store.put(event(&format!("e{row}"), vec![0; size])).await.is_ok())
        });
    }
    for (row, stored) in tasks.join_all().await {
        assert_eq!(stored, !row.is_multiple_of(10), "row {row}");
    }
    assert_eq!(names(&store).await.len(), 90);
}

#[tokio::test]
async fn usage_is_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.db");
    let (store, _) = Store::open(&path, StoreOptions::default()).unwrap();
    let mut ids = Vec::new();
    for row in 0..40_usize {
        let name = format!("x{}", row % 7);
        store.apply("Pod", vec![upsert(&name, "1", vec![0; row * 31])]).await.unwrap();
        ids.push(store.put(status(&name, &"s".repeat(row * 17))).await.unwrap());
        ids.push(store.put(event(&name, vec![0; row * 13])).await.unwrap());
        ids.push(store.put(report("Message", &name, vec![0; row].into(), false)).await.unwrap());
        store.put_checkpoint("s", &name, vec![0; row * 3]).await.unwrap();
        store.put_value(&name, vec![0; row * 5]).await.unwrap();
    }
    store.remove(&ids[10..70]).await.unwrap();
    store.apply("Pod", vec![super::delete("x1"), super::delete("x1"), super::delete("none")]).await.unwrap();
    store.delete_checkpoint("s", "x2").await.unwrap();
    store.delete_value("x3").await.unwrap();
    store.next_session().await.unwrap();
    store.next_session().await.unwrap();
    let before = store.usage();
    store.close().await;
    let (store, _) = Store::open(&path, StoreOptions::default()).unwrap();
    assert_eq!(store.usage(), before);
    assert_eq!(store.usage().event_rows, names(&store).await.len() as u64 - not_events(&store).await);
}

async fn not_events(store: &Store) -> u64 {
    let pending = store.pending(0, usize::MAX >> 1).await.unwrap();
    pending.iter().filter(|pending| !kinds::droppable(&pending.report.kind)).count() as u64
}
