//! The store against a model in memory, over random commands and restarts.

use std::collections::BTreeMap;

use proptest::prelude::*;
use skerry_common::Key;

use super::{delete, event, fast_dir, report, status, upsert};
use crate::{Opened, Report, Store, StoreOptions};

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(u8, Option<(u8, u16)>)>),
    Status(u8, u16),
    Event(u8, u16),
    Message(u8, u16),
    RemoveOldest(u8),
    RemoveAny(u8),
    Value(u8, Option<u16>),
    Checkpoint(u8, Option<u16>),
    Session,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![4 => 0..300_u16, 1 => 3000..20_000_u16];
    let change = (0..8_u8, proptest::option::of((any::<u8>(), size.clone())));
    let step = prop_oneof![
        4 => prop::collection::vec(change, 1..5).prop_map(Step::Apply),
        3 => (0..6_u8, size.clone()).prop_map(|(key, size)| Step::Status(key, size)),
        3 => (0..6_u8, size.clone()).prop_map(|(key, size)| Step::Event(key, size)),
        1 => (0..6_u8, size.clone()).prop_map(|(key, size)| Step::Message(key, size)),
        2 => (0..4_u8).prop_map(Step::RemoveOldest),
        1 => any::<u8>().prop_map(Step::RemoveAny),
        1 => (0..3_u8, proptest::option::of(0..300_u16)).prop_map(|(key, value)| Step::Value(key, value)),
        1 => (0..3_u8, proptest::option::of(0..300_u16)).prop_map(|(key, value)| Step::Checkpoint(key, value)),
        1 => Just(Step::Session),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Default)]
struct Model {
    objects: BTreeMap<String, (String, Vec<u8>)>,
    pending: BTreeMap<u64, Report>,
    values: BTreeMap<String, Vec<u8>>,
    checkpoints: BTreeMap<String, Vec<u8>>,
    newest_id: u64,
    session: u64,
}

/// Small, so that dropping is part of the model.
const MAX_EVENTS: usize = 5;

impl Model {
    fn put(&mut self, id: u64, report: Report) {
        assert!(id > self.newest_id, "ids grow");
        self.newest_id = id;
        if report.coalesce {
            self.pending.retain(|_, old| old.kind != report.kind || old.key != report.key || !old.coalesce);
        }
        self.pending.insert(id, report);
        let events: Vec<u64> = self.pending.iter().filter(|(_, r)| &*r.kind == "Event").map(|(id, _)| *id).collect();
        for id in events.iter().take(events.len().saturating_sub(MAX_EVENTS)) {
            self.pending.remove(id);
        }
    }
}

fn options() -> StoreOptions {
    StoreOptions { max_events: MAX_EVENTS as u64, ballast: 0, ..StoreOptions::default() }
}

async fn run(steps: Vec<Step>) {
    let dir = fast_dir();
    let path = dir.path().join("edge.db");
    let (mut store, _) = Store::open(&path, options()).unwrap();
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Apply(changes) => {
                let mut real = Vec::new();
                for (key, change) in changes {
                    let name = format!("o{key}");
                    match change {
                        Some((version, size)) => {
                            let body = vec![version; usize::from(size)];
                            real.push(upsert(&name, &version.to_string(), body.clone()));
                            model.objects.insert(name, (version.to_string(), body));
                        }
                        None => {
                            real.push(delete(&name));
                            model.objects.remove(&name);
                        }
                    }
                }
                store.apply("Pod", real).await.unwrap();
            }
            Step::Status(key, size) => {
                let report = status(&format!("s{key}"), &"x".repeat(usize::from(size)));
                model.put(store.put(report.clone()).await.unwrap(), report);
            }
            Step::Event(key, size) => {
                let report = event(&format!("e{key}"), vec![key; usize::from(size)]);
                model.put(store.put(report.clone()).await.unwrap(), report);
            }
            Step::Message(key, size) => {
                let report = report("Message", &format!("m{key}"), vec![key; usize::from(size)].into(), false);
                model.put(store.put(report.clone()).await.unwrap(), report);
            }
            Step::RemoveOldest(count) => {
                let ids: Vec<u64> = model.pending.keys().copied().take(usize::from(count)).collect();
                store.remove(&ids).await.unwrap();
                ids.iter().for_each(|id| drop(model.pending.remove(id)));
            }
            Step::RemoveAny(which) => {
                let id = model.newest_id.saturating_sub(u64::from(which % 8));
                store.remove(&[id]).await.unwrap();
                model.pending.remove(&id);
            }
            Step::Value(key, Some(size)) => {
                let value = vec![key; usize::from(size)];
                store.put_value(&key.to_string(), value.clone()).await.unwrap();
                model.values.insert(key.to_string(), value);
            }
            Step::Value(key, None) => {
                store.delete_value(&key.to_string()).await.unwrap();
                model.values.remove(&key.to_string());
            }
            Step::Checkpoint(key, Some(size)) => {
                let value = vec![key; usize::from(size)];
                store.put_checkpoint("scope", &key.to_string(), value.clone()).await.unwrap();
                model.checkpoints.insert(key.to_string(), value);
            }
            Step::Checkpoint(key, None) => {
                store.delete_checkpoint("scope", &key.to_string()).await.unwrap();
                model.checkpoints.remove(&key.to_string());
            }
            Step::Session => {
                let session = store.next_session().await.unwrap();
                assert!(session > model.session);
                model.session = session;
            }
            Step::Reopen => {
                let before = store.usage();
                store.close().await;
                let (again, opened) = Store::open(&path, options()).unwrap();
                assert_eq!(opened, Opened::Clean);
                assert_eq!(again.usage(), before);
                store = again;
            }
        }
    }
    compare(&store, &model).await;
    store.close().await;
}

async fn compare(store: &Store, model: &Model) {
    let objects: BTreeMap<String, (String, Vec<u8>)> = store
        .list("Pod", None)
        .await
        .unwrap()
        .into_iter()
        .map(|object| (object.key.name.to_string(), (object.version.as_str().to_owned(), object.body.to_vec())))
        .collect();
    assert_eq!(objects, model.objects);
    for (name, (version, body)) in &model.objects {
        let object = store.get("Pod", &Key::new("default", name.as_str())).await.unwrap().unwrap();
        assert_eq!((object.version.as_str(), &object.body[..]), (version.as_str(), &body[..]));
    }
    // In pages, as the reporter reads.
    let (mut pending, mut after) = (BTreeMap::new(), 0);
    loop {
        let page = store.pending(after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page[0].id > after && page.is_sorted_by_key(|pending| pending.id));
        after = last.id;
        pending.extend(page.into_iter().map(|pending| (pending.id, pending.report)));
    }
    assert_eq!(pending, model.pending);
    for key in 0..3_u8 {
        let value = store.get_value(&key.to_string()).await.unwrap().map(|value| value.to_vec());
        assert_eq!(value.as_ref(), model.values.get(&key.to_string()));
    }
    let checkpoints: BTreeMap<String, Vec<u8>> =
        store.list_checkpoints("scope").await.unwrap().into_iter().map(|(key, value)| (key, value.to_vec())).collect();
    assert_eq!(checkpoints, model.checkpoints);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behaves_like_its_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
