//! Long values: a message to the node is bounded in bytes, and a value that is too long is Bad, not repeated.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use skerry_mapper_sdk::conformance::{Api, Node};
use skerry_mapper_sdk::{CancellationToken, Common, Config, DataType, Definition, DeviceKey, Mapper, Quality, Rest};
use skerry_mapper_virtual::{ABOUT, Virtual};
use skerry_telemetry::{Readiness, Registry};

/// Properties of the device. The node's messages hold 50 values and 16 KiB: seven of these.
const PROPERTIES: usize = 60;
const LENGTH: usize = 2_000;

/// Bounded by values only, the first message has 50 values and 100,000 bytes: the node ends the stream, in each
/// session anew.
#[tokio::test(flavor = "multi_thread")]
async fn long_values_arrive_in_messages_that_the_node_takes() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("dmi.sock");
    let node = Node::start(&socket, Api::V1).await.unwrap();
    let constant = |length: usize| json!({"source": "constant", "value": "x".repeat(length)});
    let mut device = Definition::new("default", "a", json!({}));
    for index in 0..PROPERTIES {
        device = device.property(&format!("p{index}"), DataType::String, constant(LENGTH));
    }
    device = device.property("long", DataType::String, constant(5_000));
    node.set(&Arc::new(device), "1");
    let config = Config {
        common: Common { edgecore_sock: Some(socket.display().to_string()), ..Common::default() },
        rest: Rest { enabled: false, ..Rest::default() },
        ..Config::default()
    };
    let (registry, readiness) = (Registry::new(), Readiness::new());
    let mapper = Mapper::build(&config, &ABOUT, Virtual::default(), &registry, &readiness).await.unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(mapper.run(stop.clone()));
    let key = DeviceKey { namespace: "default".into(), name: "a".into() };
    let all = |seen: &skerry_mapper_sdk::conformance::Seen| {
        let quality = |name: &str| seen.last(&key, name).map(|observed| observed.quality);
        (0..PROPERTIES).all(|index| quality(&format!("p{index}")) == Some(Quality::Good))
            && quality("long") == Some(Quality::Bad)
            && seen.sessions() == 1
    };
    let came = node.until("all values in one session", Duration::from_secs(20), all).await;
    stop.cancel();
    task.await.unwrap();
    node.stop().await;
    came.unwrap();
}
