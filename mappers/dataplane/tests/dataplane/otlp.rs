//! OTLP over HTTP with a server of the test's own, which reads it with OpenTelemetry's own messages.

use axum::http::{StatusCode, header};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use prost::Message as _;
use serde_json::json;
use skerry_mapper_sdk::{DataPlane as _, DataType, Value};

use crate::server::{Got, Server};
use crate::support::{BEGIN, Fixture, device, port};

/// Each data point as (device, metric, unit, nanoseconds, value).
fn points(got: &[Got]) -> Vec<(String, String, String, u64, number_data_point::Value)> {
    let mut points = Vec::new();
    for request in got {
        let request = ExportMetricsServiceRequest::decode(request.body.clone()).unwrap();
        for resource in request.resource_metrics {
            let attributes = resource.resource.unwrap().attributes;
            let id = attributes.iter().find(|attribute| attribute.key == "device.id").unwrap();
            let Some(any_value::Value::StringValue(device)) = id.value.clone().unwrap().value else {
                panic!("no text")
            };
            for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                let Some(metric::Data::Gauge(gauge)) = metric.data else { panic!("no gauge") };
                let point = &gauge.data_points[0];
                let value = point.value.unwrap();
                points.push((device.clone(), metric.name.clone(), metric.unit.clone(), point.time_unix_nano, value));
            }
        }
    }
    points
}

#[tokio::test]
async fn values_are_gauges_of_their_device() {
    let folder = tempfile::tempdir().unwrap();
    let (server, fixture) = (Server::on(0, |_| StatusCode::OK).await, Fixture::new(folder.path()));
    let push = json!({"otel": {"endpointURL": format!("http://127.0.0.1:{}", server.port)}});
    let (number, whole) = (device("boiler", DataType::Double, &push), device("pump", DataType::Int, &push));
    fixture.define(&number);
    fixture.define(&whole);
    fixture.plane.record(&number, 0, &Value::Int(21), BEGIN);
    fixture.plane.record(&whole, 0, &Value::Int(9_007_199_254_740_993), BEGIN + 1);
    fixture.until("delivered", 2).await;
    let got = server.got();
    assert_eq!(
        (got[0].target.as_str(), got[0].header(header::CONTENT_TYPE)),
        ("/v1/metrics", "application/x-protobuf")
    );
    let nanos = u64::try_from(BEGIN).unwrap() * 1_000_000;
    let point = |device: &str, nanos, value| (device.to_owned(), "temperature".to_owned(), String::new(), nanos, value);
    let expected = [
        point("boiler", nanos, number_data_point::Value::AsDouble(21.0)),
        point("pump", nanos + 1_000_000, number_data_point::Value::AsInt(9_007_199_254_740_993)),
    ];
    assert_eq!(points(&got), expected);
}

#[tokio::test]
async fn a_collector_that_is_back_gets_everything_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (port, fixture) = (port(), Fixture::new(folder.path()));
    let push = json!({"otel": {"endpointURL": format!("http://127.0.0.1:{port}/v1/metrics")}});
    let counter = device("counter", DataType::Int, &push);
    fixture.define(&counter);
    fixture.record(&counter, 0..3000);
    fixture.until("spooled", 3000).await;
    let server = Server::on(port, |_| StatusCode::OK).await;
    fixture.until("delivered", 3000).await;
    let values: Vec<_> = points(&server.got()).into_iter().map(|point| point.4).collect();
    assert_eq!(values, (0..3000).map(number_data_point::Value::AsInt).collect::<Vec<_>>());
    assert!(server.got().len() < 100, "batches");
}
