//! Every field of KubeEdge's Device that v1beta1.rs does not look at: where its values go, and what runs beside
//! the interface on the socket. From KubeEdge's proto file, by number.

use serde_json::{Value, json};
use skerry_common::kinds;

use crate::node::{Node, device, eventually, model};
use crate::v1beta1::{REGISTER, registration};
use crate::wire::{Field, MapperServer, Message, all, call, int, map, one, read, text};

/// A device whose properties push their values in every way there is.
fn pushing() -> Value {
    let mut device = device("b1");
    let push = [
        json!({ "http": { "hostName": "sink", "port": 8080, "requestPath": "/in", "timeout": 3000 } }),
        json!({ "mqtt": { "address": "tcp://b:1883", "topic": "t/1", "qos": 1, "retained": true } }),
        json!({ "otel": { "endpointURL": "http://otel:4318" } }),
        json!({ "dbMethod": { "influxdb2": {
            "influxdb2ClientConfig": { "url": "http://i:8086", "org": "o", "bucket": "b" },
            "influxdb2DataConfig": { "measurement": "m", "tag": { "site": "harbour" }, "fieldKey": "f" } } } }),
        json!({ "dbMethod": { "redis": {
            "redisClientConfig": { "addr": "r:6379", "db": 2, "poolsize": 30, "minIdleConns": 4 } } } }),
        json!({ "dbMethod": { "TDEngine": { "TDEngineClientConfig": { "addr": "td:6041", "dbName": "d" } } } }),
        json!({ "dbMethod": { "mysql": {
            "mysqlClientConfig": { "addr": "my:3306", "database": "db", "userName": "u" } } } }),
        json!({ "anomalyDetection": { "threshold": 3, "on": true, "how": "mean" } }),
    ];
    let property = |(at, push): (usize, Value)| json!({ "name": format!("p{at}"), "pushMethod": push });
    device["spec"]["properties"] = push.into_iter().enumerate().map(property).collect();
    device
}

#[tokio::test]
async fn where_values_are_pushed_to_has_kubeedges_numbers() {
    let node = Node::start().await;
    let address = node.path("m.sock");
    let (code, words, _) = call(node.socket(), REGISTER, &registration("m", "modbus", &address, false)).await;
    assert_eq!(code, 0, "{words}");
    let server = MapperServer::willing(&address);
    node.hub.put(kinds::DEVICE_MODEL, "plant", "boiler", model());
    node.hub.put(kinds::DEVICE, "plant", "b1", pushing());
    let sent = eventually(async || server.bodies("RegisterDevice").pop()).await.unwrap();
    let properties = all(&one(&one(&sent, 1), 2), 3);
    assert_eq!(properties.len(), 8);
    let push = |at: usize| {
        assert_eq!(text(&properties[at], 1), format!("p{at}"));
        one(&properties[at], 7)
    };
    // Nothing is there beside what is wanted.
    let only = |data: &[u8], number: u64| {
        assert_eq!(read(data).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [number]);
        one(data, number)
    };

    let http = only(&push(0), 1);
    assert_eq!(
        (text(&http, 1), int(&http, 2), text(&http, 3), int(&http, 4)),
        ("sink".into(), 8080, "/in".into(), 3000)
    );
    let mqtt = only(&push(1), 2);
    assert_eq!((text(&mqtt, 1).as_str(), text(&mqtt, 2).as_str()), ("tcp://b:1883", "t/1"));
    assert_eq!((int(&mqtt, 3), int(&mqtt, 4)), (1, 1));
    assert_eq!(text(&only(&push(2), 4), 1), "http://otel:4318");

    let influx = only(&only(&push(3), 3), 1);
    let client = one(&influx, 1);
    assert_eq!([1, 2, 3].map(|number| text(&client, number)), ["http://i:8086", "o", "b"]);
    let data = one(&influx, 2);
    assert_eq!((text(&data, 1).as_str(), text(&data, 3).as_str()), ("m", "f"));
    assert_eq!(map(&data, 2)["site"], b"harbour");
    let redis = only(&only(&only(&push(4), 3), 2), 1);
    assert_eq!((text(&redis, 1).as_str(), int(&redis, 2), int(&redis, 3), int(&redis, 4)), ("r:6379", 2, 30, 4));
    let tdengine = only(&only(&only(&push(5), 3), 3), 1);
    assert_eq!([1, 2].map(|number| text(&tdengine, number)), ["td:6041", "d"]);
    let mysql = only(&only(&only(&push(6), 3), 4), 1);
    assert_eq!([1, 2, 3].map(|number| text(&mysql, number)), ["my:3306", "db", "u"]);

    let anomalies = map(&only(&push(7), 5), 1);
    let any = |name: &str| (text(&anomalies[name], 1), read(&one(&anomalies[name], 2)));
    let wrapper = |name: &str| format!("type.googleapis.com/google.protobuf.{name}");
    assert_eq!(any("threshold"), (wrapper("FloatValue"), vec![(1, Field::Fixed32(3.0_f32.to_bits()))]));
    assert_eq!(any("on"), (wrapper("BoolValue"), vec![(1, Field::Int(1))]));
    assert_eq!(any("how"), (wrapper("StringValue"), vec![(1, Field::Bytes(b"mean".to_vec()))]));
}

#[tokio::test]
async fn health_and_reflection_are_on_the_socket() {
    const SERVING: u64 = 1;
    let node = Node::start().await;
    for service in ["", "v1beta1.DeviceManagerService", "skerry.dmi.v1.Mappers", "skerry.dmi.v1.Devices"] {
        let question = Message::new().text(1, service);
        let (code, words, answer) = call(node.socket(), "/grpc.health.v1.Health/Check", &question).await;
        assert_eq!((code, int(&answer, 1)), (0, SERVING), "{service}: {words}");
    }
    // KubeEdge's gRPC library speaks the older one; grpcurl tries the newer one first.
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        // list_services = 7, answered in list_services_response = 6.
        let (code, words, answer) = call(node.socket(), &path, &Message::new().text(7, "")).await;
        assert_eq!(code, 0, "{words}");
        let services: Vec<String> = all(&one(&answer, 6), 1).iter().map(|service| text(service, 1)).collect();
        for service in ["v1beta1.DeviceManagerService", "skerry.dmi.v1.Mappers", "skerry.dmi.v1.Devices"] {
            assert!(services.iter().any(|listed| listed == service), "{version}: {services:?}");
        }
        // file_containing_symbol = 4, answered in file_descriptor_response = 4.
        let symbol = "v1beta1.DeviceManagerService.MapperRegister";
        let (code, words, answer) = call(node.socket(), &path, &Message::new().text(4, symbol)).await;
        assert_eq!(code, 0, "{words}");
        assert!(!all(&one(&answer, 4), 1).is_empty(), "{version}: {answer:?}");
    }
}
