//! What many reports must not do to others; and what goes with a Device.

use std::time::Duration;

use serde_json::json;
use skerry_common::drain;
use skerry_common::kinds::{DEVICE_DESIRED, DEVICE_STATUS, desired_base, desired_name};
use skerry_controllers::Controllers;
use skerry_devicecontroller::Config;
use tokio::time::Instant;

use crate::cluster::{Cluster, Controller, eventually, twin, works};
use crate::hub::{Sink, committed, later, rejected};

/// Devices of the node whose statuses wait.
const DEVICES: usize = 40;

#[tokio::test]
async fn many_statuses_do_not_hold_up_a_desired_value() {
    let cluster = Cluster::start().await;
    let mut uids = Vec::new();
    for n in 0..DEVICES {
        uids.push(cluster.device(&format!("d{n}"), "n1").await);
    }
    // One status write a second: the statuses of this node take minutes.
    let config = Config { writes_per_second: 1, ..Config::default() };
    let controller = Controller::with(cluster.client.clone(), config, None).await;
    let flood = async {
        let mut sink = Sink::connect(&controller).await;
        for (n, uid) in uids.iter().enumerate() {
            sink.report("n1", 1, DEVICE_STATUS, &format!("default/d{n}"), "", works(uid, twin("1", "20"))).await;
        }
    };
    let desired = async {
        let mut sink = Sink::connect(&controller).await;
        let begun = Instant::now();
        for (n, uid) in uids.iter().enumerate() {
            let device = format!("d{n}");
            let body = json!({"device": device, "property": "t", "value": "50", "base": desired_base(Some("20")),
                "id": device});
            let key = format!("default/{}", desired_name(&device, "t"));
            let outcome = sink.report("n1", 1, DEVICE_DESIRED, &key, uid, body).await;
            assert!(committed(&outcome), "{outcome:?}");
        }
        begun.elapsed()
    };
    tokio::select! {
        () = flood => panic!("the statuses were written in no time"),
        took = desired => assert!(took < Duration::from_secs(10), "{took:?}"),
    }
    controller.stop().await;
}

#[tokio::test]
async fn a_node_above_its_rate_waits_alone() {
    let cluster = Cluster::start().await;
    let other = cluster.device("other", "n2").await;
    let controller = cluster.controller().await;
    let mut sink = Sink::connect(&controller).await;
    let mut reports = 0;
    loop {
        // Of two devices at once: refused without a look at the API, so that nothing but the rate is in the way.
        let outcome = sink.report("n1", 1, DEVICE_STATUS, "default/d", "b", works("a", twin("1", "20"))).await;
        if later(&outcome) {
            break;
        }
        assert!(rejected(&outcome), "{outcome:?}");
        reports += 1;
        assert!(reports < 100_000, "a node may report as often as it likes");
    }
    assert!(reports >= 2_000, "a thousand devices may be told of when the node comes back: {reports}");
    let outcome = sink.report("n2", 1, DEVICE_STATUS, "default/other", "", works(&other, twin("1", "20"))).await;
    assert!(committed(&outcome), "{outcome:?}");
    controller.stop().await;
}

#[tokio::test]
async fn a_status_goes_with_its_device() {
    let cluster = Cluster::start().await;
    let (trigger, stop) = drain::channel(Duration::from_secs(5));
    let controllers = Controllers::new(cluster.client.clone(), cluster.ca_pem.clone());
    let controllers = tokio::spawn(controllers.run(stop));
    let (gone, stays) = (cluster.device("gone", "n1").await, cluster.device("stays", "n1").await);
    let controller = cluster.controller().await;
    let mut sink = Sink::connect(&controller).await;
    for (name, uid) in [("gone", &gone), ("stays", &stays)] {
        let outcome =
            sink.report("n1", 1, DEVICE_STATUS, &format!("default/{name}"), "", works(uid, twin("1", "20"))).await;
        assert!(committed(&outcome), "{outcome:?}");
    }
    cluster.delete("Device", "gone").await;
    eventually("its status goes too", || async { cluster.get("DeviceStatus", "gone").await.is_none() }).await;
    assert!(cluster.get("DeviceStatus", "stays").await.is_some());
    // What is reported late about it does not bring it back.
    let outcome = sink.report("n1", 1, DEVICE_STATUS, "default/gone", "", works(&gone, twin("1", "20"))).await;
    assert!(!committed(&outcome), "{outcome:?}");
    assert!(cluster.get("DeviceStatus", "gone").await.is_none());
    controller.stop().await;
    trigger.drain().await;
    controllers.await.unwrap().unwrap();
}
