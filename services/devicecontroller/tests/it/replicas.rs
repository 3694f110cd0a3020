//! Two DeviceControllers at once.

use std::time::Duration;

use skerry_common::kinds::DEVICE_STATUS;

use crate::cluster::{Cluster, twin, works};
use crate::hub::{Sink, committed};

#[tokio::test]
async fn replicas_agree_and_then_rest() {
    let cluster = Cluster::start().await;
    let uid = cluster.device("d", "n1").await;
    let (a, b) = (cluster.controller().await, cluster.controller().await);
    let (mut to_a, mut to_b) = (Sink::connect(&a).await, Sink::connect(&b).await);
    for turn in 1..=6_u64 {
        let sink = if turn % 2 == 0 { &mut to_a } else { &mut to_b };
        let mut body = works(&uid, twin(&turn.to_string(), "20"));
        let online = if turn % 3 == 0 { "False" } else { "True" };
        body["status"]["conditions"][1]["status"] = online.into();
        body["status"]["state"] = if turn % 3 == 0 { "offline" } else { "online" }.into();
        let outcome = sink.report("n1", turn, DEVICE_STATUS, "default/d", "", body).await;
        // Values alone may have to wait; a state never.
        assert!(committed(&outcome) || turn % 3 == 2, "{turn}: {outcome:?}");
        cluster.until("d", "Online", &format!("{online} DeviceOnline")).await;
        cluster.ready("n1", if turn % 2 == 0 { "True" } else { "Unknown" }).await;
        cluster
            .until(
                "d",
                "Online",
                if turn % 2 == 0 {
                    if turn % 3 == 0 { "False DeviceOnline" } else { "True DeviceOnline" }
                } else {
                    "Unknown NodeNotReady"
                },
            )
            .await;
        cluster.ready("n1", "True").await;
        cluster.until("d", "Online", &format!("{online} DeviceOnline")).await;
    }
    // Both have seen everything: nobody has anything to write any more.
    let versions = async || {
        let of = async |kind| cluster.get(kind, "d").await.unwrap().metadata.resource_version;
        (of("Device").await, of("DeviceStatus").await)
    };
    let mut last = versions().await;
    let mut quiet = 0;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    while quiet < 10 {
        assert!(tokio::time::Instant::now() < deadline, "they write against each other");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = versions().await;
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
    a.stop().await;
    b.stop().await;
}
