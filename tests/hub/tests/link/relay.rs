//! Objects go down, reports go up, and nothing is deleted by silence.

use std::time::Duration;

use skerry_common::{Key, kinds};
use skerry_hub_tests::{FaultProxy, Fixture, Mode, eventually};
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::sink_client::SinkClient;
use tokio_stream::wrappers::ReceiverStream;

fn pod(name: &str, note: &str) -> (Key, String) {
    let body = serde_json::json!({"metadata": {"namespace": "default", "name": name, "uid": name}, "note": note});
    (Key::new("default", name), body.to_string())
}

/// Hands a report to the node, as edged does.
async fn report(edge: &skerry_hub_tests::Edge, id: u64, kind: &str, name: &str, body: &str) -> pb::Outcome {
    let (requests, queue) = tokio::sync::mpsc::channel(4);
    let hello = pb::Hello { protocols: vec![1], ..pb::Hello::default() };
    let report = pb::Report {
        id,
        kind: kind.to_owned(),
        key: Some(pb::Key { namespace: "default".to_owned(), name: name.to_owned() }),
        encoding: pb::Encoding::Identity.into(),
        body: body.to_owned().into(),
        ..pb::Report::default()
    };
    for message in [pb::report_request::Message::Hello(hello), pb::report_request::Message::Report(report)] {
        requests.send(pb::ReportRequest { message: Some(message) }).await.unwrap();
    }
    let mut stream = SinkClient::new(edge.channel()).report(ReceiverStream::new(queue)).await.unwrap().into_inner();
    loop {
        if let Some(pb::report_response::Message::Outcome(outcome)) = stream.message().await.unwrap().unwrap().message {
            return outcome;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_travel_down_and_deletions_follow() {
    let fixture = Fixture::start().await.unwrap();
    let (key, body) = pod("web", "one");
    fixture.cloud.put(kinds::POD, key.clone(), &body);
    let hub = fixture.hub("hub-0").await.unwrap();
    let edge = fixture.edge("edge-1", hub.address).await.unwrap();
    edge.link(true).await.unwrap();

    let local = edge.view(kinds::POD, |local| local.in_sync && !local.objects.is_empty()).await.unwrap();
    assert_eq!(local.objects[&key], body.as_bytes());
    let (_, changed) = pod("web", "two");
    fixture.cloud.put(kinds::POD, key.clone(), &changed);
    edge.view(kinds::POD, |local| local.objects.get(&key).is_some_and(|b| b == changed.as_bytes())).await.unwrap();
    fixture.cloud.delete(kinds::POD, &key);
    edge.view(kinds::POD, |local| local.in_sync && local.objects.is_empty()).await.unwrap();
    assert_eq!(fixture.cloud.sessions().len(), 1);
    edge.stop().await.unwrap();
    hub.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_holds_outlives_the_cloud_and_a_restart() {
    let fixture = Fixture::start().await.unwrap();
    let (key, body) = pod("web", "one");
    fixture.cloud.put(kinds::POD, key.clone(), &body);
    let hub = fixture.hub("hub-0").await.unwrap();
    let edge = fixture.edge("edge-1", hub.address).await.unwrap();
    edge.view(kinds::POD, |local| local.in_sync && local.objects.len() == 1).await.unwrap();
    edge.stop().await.unwrap();
    let address = hub.address;
    hub.stop().await.unwrap();

    let edge = fixture.edge("edge-1", address).await.unwrap();
    let local = edge.view(kinds::POD, |local| local.in_sync).await.unwrap();
    assert_eq!(local.objects.len(), 1);
    assert!(!edge.status().await.unwrap().reason.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_tell_deletes_nothing() {
    let fixture = Fixture::start().await.unwrap();
    let (key, body) = pod("web", "one");
    fixture.cloud.put(kinds::POD, key.clone(), &body);
    let hub = fixture.hub("hub-0").await.unwrap();
    let proxy = FaultProxy::start(hub.address).await.unwrap();
    let edge = fixture.edge("edge-1", proxy.address()).await.unwrap();
    edge.view(kinds::POD, |local| local.in_sync && local.objects.len() == 1).await.unwrap();

    fixture.cloud.lose_everything();
    proxy.set(Mode::Cut);
    edge.link(false).await.unwrap();
    proxy.set(Mode::Pass);
    edge.link(true).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let local = edge.view(kinds::POD, |local| local.in_sync).await.unwrap();
    assert_eq!(local.objects.len(), 1);

    // The control: a source that knows that the object is gone says so, and then it goes.
    fixture.cloud.put(kinds::POD, key.clone(), &body);
    let (other, other_body) = pod("other", "one");
    fixture.cloud.put(kinds::POD, other, &other_body);
    edge.view(kinds::POD, |local| local.objects.len() == 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_survive_a_cut_and_the_newest_status_wins() {
    let fixture = Fixture::start().await.unwrap();
    let hub = fixture.hub("hub-0").await.unwrap();
    let proxy = FaultProxy::start(hub.address).await.unwrap();
    let edge = fixture.edge("edge-1", proxy.address()).await.unwrap();
    edge.link(true).await.unwrap();
    proxy.set(Mode::Cut);
    edge.link(false).await.unwrap();
    for id in 1..=20 {
        let outcome = report(&edge, id, kinds::POD_STATUS, "web", &format!("status {id}")).await;
        assert!(matches!(outcome.result, Some(pb::outcome::Result::Committed(_))), "{outcome:?}");
        report(&edge, 100 + id, kinds::EVENT, &format!("event-{id}"), &format!("event {id}")).await;
    }
    assert!(fixture.cloud.reports().is_empty());
    proxy.set(Mode::Pass);
    eventually("all events arrive", || fixture.cloud.reports().len() >= 21).await.unwrap();
    let reports = fixture.cloud.reports();
    let of = |kind: &str| -> Vec<String> {
        let of_kind = reports.iter().filter(|r| r.kind == kind);
        of_kind.map(|r| String::from_utf8(r.body.clone()).unwrap()).collect()
    };
    assert_eq!(of(kinds::POD_STATUS), ["status 20"]);
    assert_eq!(of(kinds::EVENT), (1..=20).map(|id| format!("event {id}")).collect::<Vec<_>>());
    assert!(reports.iter().all(|r| r.node == "edge-1"));
    while edge.status().await.unwrap().outbox > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_must_wait_is_sent_again() {
    let fixture = Fixture::start().await.unwrap();
    let hub = fixture.hub("hub-0").await.unwrap();
    let edge = fixture.edge("edge-1", hub.address).await.unwrap();
    edge.link(true).await.unwrap();
    fixture.cloud.refuse_reports(true);
    report(&edge, 1, kinds::EVENT, "event", "event").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(edge.status().await.unwrap().outbox, 1);
    fixture.cloud.refuse_reports(false);
    eventually("the report arrives", || fixture.cloud.reports().len() == 1).await.unwrap();
}
