//! Objects down: what a node sees, when it changes, and what is not sent twice.

use serde_json::json;

use crate::cluster::Cluster;
use crate::hub::Source;

async fn example(cluster: &Cluster) -> String {
    cluster.config_map("cm", "1").await;
    cluster.config_map("other", "1").await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sec"}, "data": {"p": "aGk="}});
    cluster.create("Secret", "default", secret).await;
    cluster.pod("elsewhere", "n2").await;
    cluster.pod("web", "n1").await
}

#[tokio::test]
async fn a_node_gets_its_pods_and_what_they_refer_to() {
    let cluster = Cluster::start().await;
    example(&cluster).await;
    let controller = cluster.controller().await;
    let mut hub = Source::connect(&controller).await;
    for (id, kind) in
        [(1, "Pod"), (2, "ConfigMap"), (3, "Secret"), (4, "Namespace"), (5, "Service"), (6, "RuntimeClass")]
    {
        hub.open(id, "n1", 1, kind, &[]).await;
    }
    hub.in_sync().await;
    assert_eq!(hub.names(1), ["default/web"]);
    assert_eq!(hub.names(2), ["default/cm"]);
    assert_eq!(hub.names(3), ["default/sec"]);
    assert_eq!(hub.names(4), ["default"]);
    assert_eq!(hub.names(5), ["default/kubernetes"]);
    assert_eq!(hub.names(6), [""; 0]);
    let pod = hub.body(1, "default/web");
    assert_eq!(pod["kind"], "Pod");
    assert!(pod.get("status").is_none() && pod["metadata"].get("managedFields").is_none());

    // What the edge cannot see is not sent.
    cluster.patch_status("Pod", "default", "web", json!({"phase": "Running"})).await;
    cluster.patch("ConfigMap", "default", "other", json!({"data": {"k": "2"}})).await;
    assert_eq!(hub.quiet().await, 0);

    // A change is, once.
    cluster.patch("ConfigMap", "default", "cm", json!({"data": {"k": "2"}})).await;
    hub.until("the change arrives", |h| h.body(2, "default/cm")["data"]["k"] == "2").await;
    assert_eq!(hub.subs[&2].upserts, 2);

    // The pod goes, and with it what nobody refers to any more.
    cluster.delete("Pod", "default", "web").await;
    hub.until("the pod is gone", |h| h.names(1).is_empty()).await;
    hub.until("its map is gone", |h| h.names(2).is_empty() && h.names(3).is_empty()).await;
    controller.stop().await;
}

#[tokio::test]
async fn after_a_cut_only_differences_travel() {
    let cluster = Cluster::start().await;
    example(&cluster).await;
    let controller = cluster.controller().await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 1, "Pod", &[]).await;
    hub.open(2, "n1", 1, "ConfigMap", &[]).await;
    hub.in_sync().await;
    let (pods, maps) = (hub.held(1), hub.held(2));
    drop(hub);

    // Nothing changed, and the controller was restarted meanwhile: nothing is sent.
    controller.stop().await;
    let controller = cluster.controller().await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 2, "Pod", &pods).await;
    hub.open(2, "n1", 2, "ConfigMap", &maps).await;
    hub.in_sync().await;
    assert_eq!((hub.subs[&1].upserts, hub.subs[&2].upserts), (0, 0));
    drop(hub);

    // A change and a delete during the cut.
    cluster.patch("ConfigMap", "default", "cm", json!({"data": {"k": "9"}})).await;
    cluster.delete("Pod", "default", "web").await;
    cluster.pod("fresh", "n1").await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 3, "Pod", &pods).await;
    hub.open(2, "n1", 3, "ConfigMap", &maps).await;
    hub.in_sync().await;
    hub.until("the differences arrive", |h| h.names(1) == ["default/fresh"]).await;
    assert_eq!(hub.subs[&1].tombstones, ["default/web"]);
    hub.until("the map arrives", |h| h.body(2, "default/cm")["data"]["k"] == "9").await;
    controller.stop().await;
}

#[tokio::test]
async fn pods_get_their_tokens_and_fresh_ones_are_not_minted_again() {
    let cluster = Cluster::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    if cluster.get("ServiceAccount", "default", "default").await.is_none() {
        cluster.create("ServiceAccount", "default", account).await;
    }
    let uid = example(&cluster).await;
    let controller = cluster.controller().await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 1, "Pod", &[]).await;
    hub.open(2, "n1", 1, "ServiceAccountToken", &[]).await;
    hub.in_sync().await;
    let held = hub.held(2);
    assert_eq!(held.len(), 1);
    let body = hub.body(2, &held[0].0);
    assert_eq!(body["pod"], "web");
    assert_eq!(body["podUid"], json!(uid));
    assert_eq!(body["serviceAccount"], "default");
    assert_eq!(body["token"].as_str().unwrap().split('.').count(), 3);
    let minted = cluster.faults.calls("POST serviceaccounts");
    drop(hub);

    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 2, "Pod", &[]).await;
    hub.open(2, "n1", 2, "ServiceAccountToken", &held).await;
    hub.in_sync().await;
    assert_eq!(hub.subs[&2].upserts, 0);
    assert_eq!(cluster.faults.calls("POST serviceaccounts"), minted);
    cluster.delete("Pod", "default", "web").await;
    hub.until("the token is gone", |h| h.names(2).is_empty()).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_slow_node_holds_up_itself_alone() {
    let cluster = Cluster::start().await;
    for i in 0..1_200_u64 {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{i}"),
            "annotations": {"x": noise(i)}}, "spec": {"clusterIP": "None"}});
        cluster.create("Service", "default", service).await;
    }
    let controller = cluster.controller().await;
    controller.ready().await;
    // A node that never acknowledges: its window is full soon, the rest waits as keys at the source.
    let mut slow = Source::connect(&controller).await;
    slow.acks = false;
    slow.open(1, "n1", 1, "Service", &[]).await;
    slow.open(2, "n2", 1, "Service", &[]).await;
    let deltas = slow.quiet().await;
    assert!((2..=2 * skerry_sync::PublishLimits::default().window_deltas).contains(&deltas), "{deltas}");
    let mut quick = Source::connect(&controller).await;
    quick.open(1, "n3", 1, "Service", &[]).await;
    quick.in_sync().await;
    assert_eq!(quick.names(1).len(), 1_201);
    controller.stop().await;
}

#[tokio::test]
async fn wrong_subscriptions_are_closed_with_a_reason() {
    use skerry_proto::sync::v1::CloseCode;
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 1, "Deployment", &[]).await;
    hub.open(2, "../x", 1, "Pod", &[]).await;
    hub.open(3, "n1", 0, "Pod", &[]).await;
    hub.open(4, "n1", 1, "Pod", &[]).await;
    let closed = |h: &Source, id: u64| h.subs[&id].closed.as_ref().map(|c| c.code());
    hub.until("three are closed", |h| (1..=3).all(|id| closed(h, id).is_some())).await;
    assert_eq!(closed(&hub, 1), Some(CloseCode::UnknownKind));
    assert_eq!(closed(&hub, 2), Some(CloseCode::Protocol));
    assert_eq!(closed(&hub, 3), Some(CloseCode::Protocol));
    assert_eq!(closed(&hub, 4), None);
    controller.stop().await;
}

#[tokio::test]
async fn a_hub_of_another_version_is_told_which_end_to_upgrade() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    for (protocols, line) in [(&[3, 2][..], ": upgrade edgecontroller"), (&[0], ": upgrade cloudhub")] {
        let status = Source::refused(&controller, protocols).await;
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert!(status.message().ends_with(line), "{}", status.message());
    }
    controller.stop().await;
}

/// A text that does not compress away.
fn noise(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    for _ in 0..4_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push(char::from(b'a' + u8::try_from(state % 26).unwrap()));
    }
    text
}
