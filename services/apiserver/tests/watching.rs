//! Lists in pages, expired versions, bookmarks, initial events, slow watchers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use axum::body::Body;
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchParams};
use kube::runtime::watcher;
use serde_json::{Value, json};
use tower::ServiceExt as _;

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

async fn small_ring(dir: &std::path::Path, ring: usize) -> skerry_apiserver::ApiServer {
    let mut config = skerry_apiserver::Config::new(dir);
    config.listen = ([127, 0, 0, 1], 0).into();
    config.ring_events = ring;
    config.build().await.unwrap()
}

async fn get(server: &skerry_apiserver::ApiServer, path: &str) -> (u16, String) {
    let request = http::Request::get(path).body(Body::empty()).unwrap();
    let response = server.router().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn pages_are_one_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(Client::new(server.router(), "default"));
    for n in 0..25 {
        maps.create(&PostParams::default(), &map(&format!("m{n:02}"))).await.unwrap();
    }
    let first = maps.list(&ListParams::default().limit(10)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (10, Some(16)));
    maps.delete("m24", &DeleteParams::default()).await.unwrap();
    maps.create(&PostParams::default(), &map("m99")).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let second = maps.list(&ListParams::default().limit(10).continue_token(&token)).await.unwrap();
    let token = second.metadata.continue_.clone().unwrap();
    let third = maps.list(&ListParams::default().limit(10).continue_token(&token)).await.unwrap();
    let names: Vec<String> =
        [first.items, second.items, third.items].concat().into_iter().filter_map(|m| m.metadata.name).collect();
    assert_eq!(names.len(), 26);
    assert!(names.contains(&"m24".to_owned()) && !names.contains(&"m99".to_owned()));
    let (status, body) = get(&server, "/api/v1/namespaces/default/configmaps?limit=1&continue=bm8tc3VjaDox").await;
    assert_eq!(status, 410, "{body}");
}

#[tokio::test]
async fn a_version_that_is_not_known_is_410_in_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let server = small_ring(dir.path(), 4).await;
    let client = Client::new(server.router(), "default");
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let old = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    for n in 0..20 {
        maps.create(&PostParams::default(), &map(&format!("m{n}"))).await.unwrap();
    }
    for version in [old.as_str(), "999999"] {
        let (status, body) = get(&server, &format!("/api/v1/configmaps?watch=1&resourceVersion={version}")).await;
        let event: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &event["type"], &event["object"]["code"]), (200, &json!("ERROR"), &json!(410)));
    }
}

#[tokio::test]
async fn an_informer_that_fell_behind_lists_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = small_ring(dir.path(), 4).await;
    let maps: Api<ConfigMap> = Api::namespaced(Client::new(server.router(), "default"), "kube-public");
    let mut informer = Box::pin(watcher(maps.clone(), watcher::Config::default()));
    // Until the list is over; the watch is not open yet.
    while !matches!(informer.next().await.unwrap().unwrap(), watcher::Event::InitDone) {}
    for n in 0..20 {
        maps.create(&PostParams::default(), &map(&format!("m{n}"))).await.unwrap();
    }
    let (mut errors, mut seen) = (0, 0);
    while seen < 21 {
        match informer.next().await.unwrap() {
            Ok(watcher::Event::InitApply(_)) => seen += 1,
            Ok(_) => {}
            Err(_) => errors += 1,
        }
        assert!(errors < 3, "the informer does not start over");
    }
}

#[tokio::test]
async fn an_informer_may_stream_its_list() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(Client::new(server.router(), "default"));
    let mut informer = Box::pin(watcher(namespaces, watcher::Config::default().streaming_lists()));
    let mut seen = 0;
    loop {
        match informer.next().await.unwrap().unwrap() {
            watcher::Event::InitApply(_) => seen += 1,
            watcher::Event::InitDone => break,
            _ => {}
        }
    }
    assert_eq!(seen, 5);
}

#[tokio::test]
async fn initial_events_end_with_an_annotated_bookmark() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let (status, body) = get(&server, &format!("/api/v1/namespaces?{query}")).await;
    assert_eq!(status, 200);
    let lines: Vec<Value> = body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let kinds: Vec<&str> = lines.iter().map(|l| l["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ADDED", "ADDED", "ADDED", "ADDED", "ADDED", "BOOKMARK", "BOOKMARK"]);
    assert_eq!(lines[5]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let (status, _) = get(&server, "/api/v1/namespaces?watch=1&sendInitialEvents=true").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_ended_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = small_ring(dir.path(), 8).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(Client::new(server.router(), "default"));
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let params = WatchParams::default().timeout(20).disable_bookmarks();
    let slow = maps.watch(&params, &version).await.unwrap();
    let mut fast = maps.watch(&params, &version).await.unwrap().boxed();
    for n in 0..100 {
        maps.create(&PostParams::default(), &map(&format!("m{n}"))).await.unwrap();
        assert!(matches!(fast.try_next().await.unwrap().unwrap(), kube::api::WatchEvent::Added(_)));
    }
    let events: Vec<_> = slow.collect().await;
    assert!(events.len() < 50);
    assert!(matches!(events.last().unwrap(), Ok(kube::api::WatchEvent::Error(e)) if e.code == 410));
}

#[tokio::test]
async fn tables_and_metadata_are_watched_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    for (accept, kind) in [
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "Table"),
        ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "PartialObjectMetadata"),
    ] {
        let request = http::Request::get("/api/v1/namespaces?watch=1&timeoutSeconds=0")
            .header("accept", accept)
            .body(Body::empty())
            .unwrap();
        let response = server.router().oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let first: Value = serde_json::from_slice(body.split(|b| *b == b'\n').next().unwrap()).unwrap();
        assert_eq!(first["object"]["kind"], kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_watches_and_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    let running = support::Running::start(support::build(dir.path()).await);
    let maps: Api<ConfigMap> = Api::default_namespaced(support::client(&running.admin).await);
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let params = WatchParams::default().timeout(60);
    let watches = [maps.watch(&params, &version).await.unwrap(), maps.watch(&params, &version).await.unwrap()];
    let reading = tokio::spawn(futures::future::join_all(watches.map(|w| w.collect::<Vec<_>>())));
    assert_eq!(running.stop().await, skerry_common::drain::Drained::Clean);
    reading.await.unwrap();
}
