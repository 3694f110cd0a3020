//! Cuts, pauses and restarts.

use std::time::Duration;

use skerry_common::{Key, kinds};
use skerry_hub_tests::{FaultProxy, Fixture, Mode, Raw, eventually};
use skerry_proto::sync::v1 as pb;
use tokio::time::Instant;

/// Both ends must notice a silent link within this time.
const NOTICED: Duration = Duration::from_secs(15);

fn put(fixture: &Fixture, name: &str) -> Key {
    let key = Key::new("default", name);
    let body = serde_json::json!({"metadata": {"namespace": "default", "name": name, "uid": name}});
    fixture.cloud.put(kinds::POD, key.clone(), &body.to_string());
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_link_is_noticed_at_both_ends_and_mended() {
    let fixture = Fixture::start().await.unwrap();
    let hub = fixture.hub("hub-0").await.unwrap();
    let proxy = FaultProxy::start(hub.address).await.unwrap();
    let edge = fixture.edge("edge-1", proxy.address()).await.unwrap();
    edge.link(true).await.unwrap();
    eventually("the hub tells of the session", || fixture.cloud.sessions().len() == 1).await.unwrap();

    proxy.set(Mode::Blackhole);
    let cut = Instant::now();
    eventually("the hub notices", || fixture.cloud.sessions().is_empty()).await.unwrap();
    assert!(cut.elapsed() <= NOTICED, "hub: {:?}", cut.elapsed());
    edge.link(false).await.unwrap();
    assert!(cut.elapsed() <= NOTICED, "node: {:?}", cut.elapsed());

    let gone = put(&fixture, "while-away");
    proxy.set(Mode::Pass);
    edge.link(true).await.unwrap();
    edge.view(kinds::POD, |local| local.objects.contains_key(&gone)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_hub_costs_no_more_than_a_reconnect() {
    let fixture = Fixture::start().await.unwrap();
    let key = put(&fixture, "web");
    let hub = fixture.hub("hub-0").await.unwrap();
    let edge = fixture.edge("edge-1", hub.address).await.unwrap();
    edge.view(kinds::POD, |local| local.in_sync && local.objects.contains_key(&key)).await.unwrap();
    let address = hub.address;
    hub.stop().await.unwrap();
    edge.link(false).await.unwrap();
    let hub = fixture.hub_at("hub-0", address).await.unwrap();
    edge.link(true).await.unwrap();
    let later = put(&fixture, "later");
    edge.view(kinds::POD, |local| local.objects.contains_key(&later)).await.unwrap();
    hub.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sessions_the_newer_one_wins_on_all_hubs() {
    let fixture = Fixture::start().await.unwrap();
    let (old_hub, new_hub) = (fixture.hub("hub-0").await.unwrap(), fixture.hub("hub-1").await.unwrap());
    let credentials = || fixture.node("edge-1").unwrap();
    let old = Raw::connect(old_hub.address, credentials()).await.unwrap();
    let mut old_stream = old.subscribe("", 5).await.unwrap();
    old_stream.next().await.unwrap();
    let open = |session| {
        let open = pb::Open { subscription: 1, kind: kinds::POD.to_owned(), ..pb::Open::default() };
        let _: u64 = session;
        pb::subscribe_request::Message::Open(open)
    };
    old_stream.send(open(5)).await.unwrap();
    assert!(matches!(old_stream.next().await.unwrap(), Some(pb::subscribe_response::Message::InSync(_))));

    let new = Raw::connect(new_hub.address, credentials()).await.unwrap();
    let mut new_stream = new.subscribe("", 6).await.unwrap();
    new_stream.next().await.unwrap();
    new_stream.send(open(6)).await.unwrap();
    assert!(matches!(new_stream.next().await.unwrap(), Some(pb::subscribe_response::Message::InSync(_))));

    // The old hub is as if it had been paused: it still has the session, and can write nothing.
    let report = pb::Report {
        id: 1,
        kind: kinds::POD_STATUS.to_owned(),
        key: Some(pb::Key { namespace: "default".to_owned(), name: "web".to_owned() }),
        encoding: pb::Encoding::Identity.into(),
        ..pb::Report::default()
    };
    let outcome = old.report(5, report.clone()).await.unwrap();
    assert!(matches!(outcome, Some(pb::outcome::Result::Rejected(_))), "{outcome:?}");
    assert!(fixture.cloud.reports().is_empty());
    let again = pb::Open { subscription: 2, kind: kinds::SECRET.to_owned(), ..pb::Open::default() };
    old_stream.send(pb::subscribe_request::Message::Open(again)).await.unwrap();
    let Some(pb::subscribe_response::Message::Closed(closed)) = old_stream.next().await.unwrap() else { panic!() };
    assert_eq!((closed.code(), closed.newest_session), (pb::CloseCode::StaleSession, 6));

    // Told of the newer session it ends the old one, and on its own port refuses the number.
    fixture.cloud.fence("edge-1", 6);
    while let Ok(Some(_)) = old_stream.next().await {}
    let outcome = new.report(6, report).await.unwrap();
    assert!(matches!(outcome, Some(pb::outcome::Result::Committed(_))));
    let late = Raw::connect(new_hub.address, credentials()).await.unwrap();
    let mut stale = late.subscribe("", 5).await.unwrap();
    let Some(pb::subscribe_response::Message::Closed(closed)) = stale.next().await.unwrap() else { panic!() };
    assert_eq!(closed.newest_session, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_store_gets_above_its_old_sessions() {
    let fixture = Fixture::start().await.unwrap();
    let hub = fixture.hub("hub-0").await.unwrap();
    // As if the node had used a high number before: far in the future by its clock.
    let far = u64::MAX / 2;
    let before = Raw::connect(hub.address, fixture.node("edge-1").unwrap()).await.unwrap();
    let mut stream = before.subscribe("", far).await.unwrap();
    stream.next().await.unwrap();
    let edge = fixture.edge("edge-1", hub.address).await.unwrap();
    let status = edge.link(true).await.unwrap();
    assert!(status.session > far, "{}", status.session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_rebuilt_and_deletes_nothing_meanwhile() {
    let fixture = Fixture::start().await.unwrap();
    let key = put(&fixture, "web");
    let hub = fixture.hub("hub-0").await.unwrap();
    let address = hub.address;
    let edge = fixture.edge("edge-1", address).await.unwrap();
    edge.view(kinds::POD, |local| local.in_sync && local.objects.contains_key(&key)).await.unwrap();
    edge.stop().await.unwrap();
    hub.stop().await.unwrap();
    for entry in std::fs::read_dir(fixture.store("edge-1")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("edge.db") {
            let length = std::fs::metadata(&path).unwrap().len();
            std::fs::write(&path, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
        }
    }

    // Without the cloud the node starts, says what happened, and claims nothing about its pods.
    let edge = fixture.edge("edge-1", address).await.unwrap();
    assert!(edge.status().await.unwrap().store_problem.contains("damaged"));
    let view = tokio::time::timeout(Duration::from_secs(1), edge.view(kinds::POD, |local| local.in_sync));
    assert!(view.await.is_err(), "an empty store must not say that it is complete");
    let _hub = fixture.hub_at("hub-0", address).await.unwrap();
    let local = edge.view(kinds::POD, |local| local.in_sync).await.unwrap();
    assert!(local.objects.contains_key(&key));
}
