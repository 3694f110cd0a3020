//! OTLP over HTTP: a batch is one export of gauges, named like their properties, of a resource per device.
//!
//! Made of OpenTelemetry's messages: its SDK keeps one value per metric and does not say which of them were taken.

use std::time::Duration;

use http::Request;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::client::{Client, post};
use super::{Means, Sent, Trouble};
use crate::address::Address;
use crate::record::{Record, Target, Typed};

/// How long an export may take; OpenTelemetry's default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where collectors take metrics, for a URL that names no path.
const DEFAULT_PATH: &str = "/v1/metrics";

/// See the module documentation.
pub(crate) struct Otlp {
    url: String,
    client: Client,
}

impl Otlp {
    pub(crate) fn new(address: &Address, means: &Means) -> Self {
        let path = if address.path.is_empty() { DEFAULT_PATH } else { "" };
        Self { url: format!("{}{path}", address.url()), client: Client::new(&means.tls, address.tls) }
    }

    pub(crate) async fn send(&mut self, records: &[Record]) -> Sent {
        let Some(request) = export(records) else {
            return Sent::refused(0, "a metric is a number, and the value is none");
        };
        let request = post(&self.url, "application/x-protobuf", None, request.encode_to_vec());
        let sent = match request {
            Ok(request) => self.exchange(request).await,
            Err(trouble) => Err(trouble),
        };
        match sent {
            Ok(()) => Sent::all(records),
            Err(Trouble::Refused(words)) if words.contains("404") => Sent::away(0, words),
            Err(trouble) => Sent { taken: 0, trouble: Some(trouble) },
        }
    }

    async fn exchange(&mut self, request: Request<http_body_util::Full<bytes::Bytes>>) -> Result<(), Trouble> {
        let answer = self.client.send(request, TIMEOUT).await?;
        let partial = ExportMetricsServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
        match partial.map(|partial| partial.rejected_data_points) {
            Some(rejected) if rejected > 0 => {
                Err(Trouble::Refused(format!("the collector rejected {rejected} data points")))
            }
            _ => Ok(()),
        }
    }
}

fn export(records: &[Record]) -> Option<ExportMetricsServiceRequest> {
    let mut resources: Vec<ResourceMetrics> = Vec::new();
    let mut last: Option<&Target> = None;
    for record in records {
        let target = &*record.target;
        // Values of a device mostly come together; those that do not are another part of the same resource.
        if last.is_none_or(|last| last.namespace != target.namespace || last.device != target.device) {
            resources.push(resource(target));
        }
        last = Some(target);
        let metrics = &mut resources.last_mut()?.scope_metrics.first_mut()?.metrics;
        metrics.push(Metric {
            name: target.property.clone(),
            unit: target.unit.clone(),
            data: Some(metric::Data::Gauge(Gauge { data_points: vec![point(record)?] })),
            ..Metric::default()
        });
    }
    Some(ExportMetricsServiceRequest { resource_metrics: resources })
}

fn point(record: &Record) -> Option<NumberDataPoint> {
    #[allow(clippy::cast_precision_loss, reason = "beyond i64 OTLP has floating point only")]
    let value = match record.typed() {
        Typed::Int(value) => number_data_point::Value::AsInt(value),
        Typed::Uint(value) => number_data_point::Value::AsDouble(value as f64),
        Typed::Float(value) => number_data_point::Value::AsDouble(value),
        Typed::Bool(value) => number_data_point::Value::AsInt(i64::from(value)),
        Typed::Text(_) => return None,
    };
    let time_unix_nano = u64::try_from(record.unix_ms).unwrap_or(0).saturating_mul(1_000_000);
    Some(NumberDataPoint { time_unix_nano, value: Some(value), ..NumberDataPoint::default() })
}

fn resource(target: &Target) -> ResourceMetrics {
    let attribute = |key: &str, value: String| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value)) }),
        ..KeyValue::default()
    };
    let attributes =
        vec![attribute("device.id", target.device.clone()), attribute("k8s.namespace.name", target.namespace.clone())];
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    ResourceMetrics {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_metrics: vec![ScopeMetrics { scope: Some(scope), ..ScopeMetrics::default() }],
        ..ResourceMetrics::default()
    }
}
