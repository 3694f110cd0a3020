//! A whole mapper: a node that describes a device, the virtual driver, and a sink.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use skerry_mapper_dataplane::{Plane, Secrets};
use skerry_mapper_sdk::conformance::{Api, Node};
use skerry_mapper_sdk::{
    CancellationToken, Common, Config, DataPlaneConfig, DataType, Definition, GrpcServer, Mapper, Rest,
};
use skerry_mapper_virtual::{ABOUT, Virtual};
use skerry_telemetry::{Readiness, Registry};

use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_describes_goes_where_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = (Server::open().await, |name: &str| folder.path().join(name));
    let node = Node::start(&path("dmi.sock"), Api::V1).await.unwrap();
    let config = Config {
        grpc_server: GrpcServer { socket_path: Some(path("mapper.sock")) },
        common: Common { edgecore_sock: Some(path("dmi.sock").display().to_string()), ..Common::default() },
        rest: Rest { enabled: false, ..Rest::default() },
        data_plane: DataPlaneConfig { folder: Some(path("spool")), ..DataPlaneConfig::default() },
        ..Config::default()
    };
    let registry = Registry::new();
    let mapper = Mapper::build(&config, &ABOUT, Virtual::default(), &registry, &Readiness::new()).await.unwrap();
    let plane = Plane::new(&config.data_plane, "virtual-mapper", &registry, Secrets::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(mapper.with_data_plane(Arc::new(plane)).run(stop.clone()));

    let mut device = Definition::new("default", "a", json!({"line": "one"}))
        .property("counter", DataType::Int, json!({"source": "counter"}))
        .property("quiet", DataType::Int, json!({"source": "counter"}));
    for property in &mut device.properties {
        let property = Arc::make_mut(property);
        property.collect_cycle = Duration::from_millis(50);
        property.report_to_cloud = false;
    }
    let push = json!({"http": {"hostName": "127.0.0.1", "port": server.port}});
    Arc::make_mut(&mut device.properties[0]).push_method = push.as_object().unwrap().clone().into();
    node.set(&Arc::new(device), "1");
    let got = server.until(10).await;
    stop.cancel();
    running.await.unwrap();
    let numbers = server.numbers();
    assert!(got.iter().all(|got| got.fields()[0].0 == "counter"));
    assert!(numbers.is_sorted() && numbers[0] == 0, "{numbers:?}");
    node.stop().await;
}
