//! What was acknowledged survives `kill -9`, and watches go on across it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"v": value}})).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let process = support::Process::start(dir.path());
    let maps: Api<ConfigMap> = Api::default_namespaced(support::client(&process.kubeconfig()).await);
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (maps, acknowledged) = (maps.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut done = Vec::new();
                for n in 0.. {
                    let name = format!("w{writer}-{n}");
                    if maps.create(&PostParams::default(), &map(&name, "1")).await.is_err() {
                        break;
                    }
                    done.push(name);
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                done
            })
        })
        .collect();
    while acknowledged.load(Ordering::SeqCst) < 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.kill();
    let process = support::Process::start(dir.path());
    let maps: Api<ConfigMap> = Api::default_namespaced(support::client(&process.kubeconfig()).await);
    let found: Vec<String> =
        maps.list(&ListParams::default()).await.unwrap().items.into_iter().filter_map(|m| m.metadata.name).collect();
    for writer in writers {
        for name in writer.await.unwrap() {
            assert!(found.contains(&name), "{name} was acknowledged and is gone");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_grow_and_a_watch_resumes_across_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let process = support::Process::start(dir.path());
    let maps: Api<ConfigMap> = Api::default_namespaced(support::client(&process.kubeconfig()).await);
    maps.create(&PostParams::default(), &map("gone", "1")).await.unwrap();
    let seen = maps.create(&PostParams::default(), &map("kept", "1")).await.unwrap().metadata.resource_version.unwrap();
    let mut kept = maps.get("kept").await.unwrap();
    kept.data.as_mut().unwrap().insert("v".into(), "2".into());
    maps.replace("kept", &PostParams::default(), &kept).await.unwrap();
    maps.delete("gone", &DeleteParams::default()).await.unwrap();
    let last = maps.create(&PostParams::default(), &map("new", "1")).await.unwrap().metadata.resource_version.unwrap();
    process.kill();
    let process = support::Process::start(dir.path());
    let maps: Api<ConfigMap> = Api::default_namespaced(support::client(&process.kubeconfig()).await);
    let watch = maps.watch(&WatchParams::default().timeout(1).disable_bookmarks(), &seen).await.unwrap();
    let events: Vec<String> = watch
        .map(|event| match event.unwrap() {
            WatchEvent::Added(m) => format!("added {}", m.metadata.name.unwrap()),
            WatchEvent::Modified(m) => format!("modified {}", m.metadata.name.unwrap()),
            WatchEvent::Deleted(m) => format!("deleted {}", m.metadata.name.unwrap()),
            other => format!("{other:?}"),
        })
        .collect()
        .await;
    assert_eq!(events, ["modified kept", "deleted gone", "added new"]);
    let next =
        maps.create(&PostParams::default(), &map("later", "1")).await.unwrap().metadata.resource_version.unwrap();
    assert!(next.parse::<u64>().unwrap() > last.parse::<u64>().unwrap());
}

#[tokio::test]
async fn one_data_directory_has_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let _first = support::build(dir.path()).await;
    let mut config = skerry_apiserver::Config::new(dir.path());
    config.listen = ([127, 0, 0, 1], 0).into();
    let second = config.build().await;
    assert!(matches!(second, Err(skerry_apiserver::ServerError::Database { .. })), "{second:?}");
}

#[tokio::test]
async fn a_damaged_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("objects.db"), b"this is not a database, it is a text that is long enough").unwrap();
    let mut config = skerry_apiserver::Config::new(dir.path());
    config.listen = ([127, 0, 0, 1], 0).into();
    assert!(config.build().await.is_err());
    assert!(std::fs::read(dir.path().join("objects.db")).unwrap().starts_with(b"this is not"));
}
