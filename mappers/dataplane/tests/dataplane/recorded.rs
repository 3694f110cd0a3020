//! InfluxDB 2 and TDengine: recorded exchanges, because no registry of packages has these servers.
//!
//! The requests are written after the references of InfluxDB's `/api/v2/write` and of taosAdapter's
//! `/influxdb/v1/write`, with the answers that these give. No server was asked.

use axum::http::{StatusCode, header};
use serde_json::{Value as Json, json};
use skerry_mapper_dataplane::Secrets;
use skerry_mapper_sdk::{DataPlane as _, DataPlaneConfig, DataType, Value};

use crate::server::Server;
use crate::support::{BEGIN, Fixture, device};

fn fixture(folder: &std::path::Path, influxdb2_text: bool) -> Fixture {
    let secrets = Secrets {
        token: Some("tok".into()),
        username: Some("root".into()),
        password: Some("taosdata".into()),
        ..Secrets::default()
    };
    let folder = Some(folder.to_owned());
    Fixture::with(DataPlaneConfig { folder, influxdb2_text, ..DataPlaneConfig::default() }, secrets)
}

fn influx(port: u16) -> Json {
    json!({"dbMethod": {"influxdb2": {
        "influxdb2ClientConfig": {"url": format!("http://127.0.0.1:{port}"), "org": "my org", "bucket": "a&b"},
        "influxdb2DataConfig": {"measurement": "boiler data", "tag": {"room": "b 1,2"}, "fieldKey": "temp"},
    }}})
}

#[tokio::test]
async fn recorded_a_write_to_influxdb2() {
    let (server, folder) = (Server::open().await, tempfile::tempdir().unwrap());
    let fixture = fixture(folder.path(), false);
    let number = device("boiler", DataType::Double, &influx(server.port));
    fixture.define(&number);
    fixture.plane.record(&number, 0, &Value::Float(21.5), BEGIN);
    fixture.plane.record(&number, 0, &Value::Int(22), BEGIN + 1);
    fixture.until("delivered", 2).await;
    let got = server.got();
    assert_eq!(got[0].target, "/api/v2/write?org=my+org&bucket=a%26b&precision=ms");
    assert_eq!(got[0].header(header::AUTHORIZATION), "Token tok");
    let lines = "boiler\\ data,room=b\\ 1\\,2 temp=21.5 1700000000000\n\
                 boiler\\ data,room=b\\ 1\\,2 temp=22 1700000000001\n";
    assert_eq!(got[0].text(), lines);
}

#[tokio::test]
async fn recorded_a_write_to_influxdb2_as_kubeedges_mappers_do() {
    let (server, folder) = (Server::open().await, tempfile::tempdir().unwrap());
    let fixture = fixture(folder.path(), true);
    let number = device("boiler", DataType::Double, &influx(server.port));
    fixture.define(&number);
    fixture.plane.record(&number, 0, &Value::Float(21.5), BEGIN);
    fixture.until("delivered", 1).await;
    assert_eq!(server.got()[0].text(), "boiler\\ data,room=b\\ 1\\,2 temp=\"21.5\" 1700000000000\n");
}

#[tokio::test]
async fn recorded_a_line_that_influxdb2_refuses_is_alone() {
    let folder = tempfile::tempdir().unwrap();
    // A field that is text in the bucket: 422 for the whole write.
    let server = Server::on(0, |got| match got.text().contains("temp=7i") {
        true => StatusCode::UNPROCESSABLE_ENTITY,
        false => StatusCode::NO_CONTENT,
    });
    let (server, fixture) = (server.await, fixture(folder.path(), false));
    let counter = device("counter", DataType::Int, &influx(server.port));
    fixture.define(&counter);
    fixture.record(&counter, 0..20);
    fixture.until("delivered", 19).await;
    assert_eq!(fixture.count("refused"), 1);
    let lines: String = server.got().iter().map(crate::server::Got::text).collect();
    assert_eq!(lines.lines().count(), 19);
}

#[tokio::test]
async fn recorded_a_schemaless_write_to_tdengine() {
    let (server, folder) = (Server::open().await, tempfile::tempdir().unwrap());
    let fixture = fixture(folder.path(), false);
    let client = json!({"addr": format!("127.0.0.1:{}", server.port), "dbName": "plant"});
    let push = json!({"dbMethod": {"TDEngine": {"TDEngineClientConfig": client}}});
    let text = device("boiler-1", DataType::String, &push);
    fixture.define(&text);
    fixture.plane.record(&text, 0, &Value::Text("21.5\" ü\\".into()), BEGIN);
    fixture.until("delivered", 1).await;
    let got = server.got();
    assert_eq!(got[0].target, "/influxdb/v1/write?db=plant&precision=ms");
    assert_eq!(got[0].header(header::AUTHORIZATION), "Basic cm9vdDp0YW9zZGF0YQ==");
    let line = "default_boiler_1,localtion=temperature deviceid=\"default/boiler-1\",propertyname=\"temperature\",\
                data=\"21.5\\\" ü\\\\\",type=\"string\" 1700000000000\n";
    assert_eq!(got[0].text(), line);
}
