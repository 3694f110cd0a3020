//! A data plane with its registry and folder, and devices whose values are made by the test.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use skerry_mapper_dataplane::{Plane, Secrets};
use skerry_mapper_sdk::{DataPlane as _, DataPlaneConfig, DataType, Definition, Value};
use skerry_telemetry::Registry;

/// Longest wait for what must happen.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// Time of the first value.
pub(crate) const BEGIN: i64 = 1_700_000_000_000;

/// A data plane as a mapper has it.
pub(crate) struct Fixture {
    pub(crate) plane: Plane,
    registry: Registry,
}

impl Fixture {
    /// With its spool in a folder.
    pub(crate) fn new(folder: &Path) -> Self {
        Self::with(
            DataPlaneConfig { folder: Some(folder.to_owned()), ..DataPlaneConfig::default() },
            Secrets::default(),
        )
    }

    /// Without a spool: its folder cannot be made, because a file is in its place.
    pub(crate) fn without_spool(folder: &Path) -> Self {
        let file = folder.join("file");
        std::fs::write(&file, "").unwrap();
        Self::new(&file.join("below"))
    }

    pub(crate) fn with(config: DataPlaneConfig, secrets: Secrets) -> Self {
        let registry = Registry::new();
        Self { plane: Plane::new(&config, "test-mapper", &registry, secrets), registry }
    }

    /// Defines a device; nothing may be wrong with it.
    pub(crate) fn define(&self, definition: &Arc<Definition>) {
        assert_eq!(self.plane.define(definition), Vec::<String>::new());
    }

    /// Hands over whole numbers, one each millisecond, of the first property.
    pub(crate) fn record(&self, definition: &Arc<Definition>, numbers: std::ops::Range<i64>) {
        for number in numbers {
            self.plane.record(definition, 0, &Value::Int(number), BEGIN + number);
        }
    }

    /// A counter, over all kinds of sinks.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let text = self.registry.encode();
        let lines = text.lines().filter(|line| line.starts_with(&format!("skerry_mapper_dataplane_{name}_total")));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    /// Waits until a counter has a value.
    pub(crate) async fn until(&self, name: &str, least: u64) {
        let reached = eventually(async || (self.count(name) >= least).then_some(())).await;
        assert!(reached.is_some(), "{name} is {}, not {least}", self.count(name));
    }
}

/// `default/<name>` with one property, whose values go where `push` says.
pub(crate) fn device(name: &str, data_type: DataType, push: &Json) -> Arc<Definition> {
    let mut definition = Definition::new("default", name, json!({})).property("temperature", data_type, json!({}));
    Arc::make_mut(&mut definition.properties[0]).push_method = push.as_object().unwrap().clone().into();
    Arc::new(definition)
}

/// Asks again and again until there is an answer, or for too long.
pub(crate) async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let ask = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, ask).await.ok()
}

/// A port that nobody uses now.
pub(crate) fn port() -> u16 {
    // Nobody else asks for it in the moment until it is used: the kernel hands them out in turn.
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
