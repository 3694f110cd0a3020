//! The conformance kit finds what is wrong with a driver: drivers with one bug each, and one without.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use skerry_mapper_sdk::conformance::{Api, Results, Subject, Write, check_some};
use skerry_mapper_sdk::{About, Connection, DataType, Definition, Device, Driver, Fault, Point, Sample, Value};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bug {
    None,
    /// Says that it has written and has not.
    IgnoresWrites,
    /// Waits for a silent device as long as it may.
    WaitsForTheDead,
    /// Gives one sample too few.
    LosesSamples,
    /// Fails in a way that no driver should.
    Panics,
    /// Each read takes longer than the cycle of the devices.
    Slow,
    /// Takes the first failure of a line for a wrong description.
    GivesUp,
    /// Answers with what was read first, for ever.
    Stale,
}

#[derive(Clone)]
struct Planted {
    bug: Bug,
    values: Arc<Mutex<HashMap<String, i64>>>,
    cut: Arc<AtomicBool>,
}

#[derive(Deserialize)]
struct Nothing {
    #[serde(default)]
    dead: bool,
}

impl Driver for Planted {
    type Protocol = Nothing;
    type Visitor = Nothing;
    type Connection = Self;

    fn bus(&self, _device: &Device<Self>) -> Result<String, Fault> {
        Ok("one".into())
    }

    async fn connect(&self, _device: &Device<Self>) -> Result<Self, Fault> {
        match (self.cut.load(Ordering::Relaxed), self.bug) {
            (true, Bug::GivesUp) => Err(Fault::Config("no line".into())),
            (true, _) => Err(Fault::Lost("cut".into())),
            (false, _) => Ok(self.clone()),
        }
    }

    fn deadline(&self, _device: &Device<Self>) -> Duration {
        Duration::from_secs(2)
    }
}

impl Connection<Planted> for Planted {
    async fn read(&mut self, device: &Device<Planted>, points: &[&Point<Planted>]) -> Result<Vec<Sample>, Fault> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(Fault::Lost("cut".into()));
        }
        if device.protocol.dead {
            if self.bug == Bug::WaitsForTheDead {
                std::future::pending::<()>().await;
            }
            return Err(Fault::Silent("dead".into()));
        }
        assert_ne!(self.bug, Bug::Panics, "planted");
        if self.bug == Bug::Slow {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let values = self.values.lock().unwrap();
        let stale = self.bug == Bug::Stale;
        let value = |point: &&Point<Planted>| if stale { 1 } else { *values.get(point.name()).unwrap_or(&1) };
        let mut samples: Vec<_> = points.iter().map(|point| Sample::good(value(point))).collect();
        if self.bug == Bug::LosesSamples {
            samples.pop();
        }
        Ok(samples)
    }

    async fn write(&mut self, _: &Device<Planted>, point: &Point<Planted>, value: &Value) -> Result<(), Fault> {
        if let (Value::Int(value), false) = (value, self.bug == Bug::IgnoresWrites) {
            self.values.lock().unwrap().insert(point.name().to_owned(), *value);
        }
        Ok(())
    }
}

async fn results(bug: Bug, picked: &str) -> Results {
    let folder = tempfile::tempdir().unwrap();
    let driver = Planted { bug, values: Arc::default(), cut: Arc::default() };
    let line = Arc::clone(&driver.cut);
    let device = |name: &str, config| Definition::new("d", name, config).property("n", DataType::Int, json!({}));
    let subject = Subject {
        about: About { name: "planted", version: "1", protocol: "planted" },
        driver: Box::new(move || driver.clone()),
        devices: vec![device("a", json!({}))],
        writable: Write { device: 0, property: "n".into(), values: vec!["7".into(), "8".into()] },
        refused: None,
        dead: Some(device("dead", json!({"dead": true}))),
        cut: Some(Box::new(move |away| line.store(away, Ordering::Relaxed))),
        folder: folder.path().to_owned(),
    };
    check_some(&subject, Api::V1, |name| name == picked).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bug_is_found_by_the_case_that_is_there_for_it() {
    let table = [
        (Bug::IgnoresWrites, "desired is written once"),
        (Bug::Stale, "desired is written once"),
        (Bug::WaitsForTheDead, "a dead device does not stop others"),
        (Bug::LosesSamples, "every start order"),
        (Bug::Panics, "every start order"),
        (Bug::Slow, "a storm of edits"),
        (Bug::GivesUp, "the line comes back"),
    ];
    let runs = table.map(|(bug, case)| async move {
        let (with, without) = tokio::join!(results(bug, case), results(Bug::None, case));
        assert_eq!(with.failed(), [case], "{bug:?} is not found\n{with}");
        assert_eq!(without.passed(), [case], "{case} fails without a bug\n{without}");
    });
    for run in runs.map(tokio::spawn) {
        run.await.unwrap();
    }
}
