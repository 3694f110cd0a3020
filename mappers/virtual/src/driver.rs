//! The driver: devices that exist in memory only. What was written is kept as long as the process lives, also
//! while no line is open, as a device would.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Deserialize;
use skerry_mapper_sdk::{Connection, Device, DeviceKey, Driver, Fault, Point, Sample, Value};

/// What the devices keep.
type Memory = Arc<Mutex<HashMap<(DeviceKey, String), Value>>>;

/// `protocol.configData` of a device.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// The line that leads to the device.
    #[serde(default)]
    pub line: String,
    /// The device does not answer.
    #[serde(default)]
    pub silent: bool,
}

/// `visitors.configData` of a property.
#[derive(Debug, Deserialize)]
#[serde(tag = "source", deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Source {
    /// Always the same.
    Constant {
        /// The value, as text.
        value: String,
    },
    /// One more with each read.
    Counter {
        /// The first.
        #[serde(default)]
        start: i64,
    },
    /// A sine wave.
    Sine {
        /// Its height.
        amplitude: f64,
        /// Its middle.
        #[serde(default)]
        offset: f64,
        /// Seconds of one wave.
        period_seconds: f64,
    },
    /// Evenly between two bounds.
    Random {
        /// The smallest.
        low: f64,
        /// The largest.
        high: f64,
    },
    /// What was written last.
    Echo {
        /// Before anything was written, as text.
        value: String,
    },
}

/// See the module documentation. Clones are the same devices.
#[derive(Debug, Clone, Default)]
pub struct Virtual {
    memory: Memory,
    cut: Arc<AtomicBool>,
}

impl Virtual {
    /// Cuts all lines, or joins them again.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }
}

/// A line that is open.
#[derive(Debug)]
pub struct Line {
    memory: Memory,
    cut: Arc<AtomicBool>,
    begun: Instant,
}

impl Driver for Virtual {
    type Protocol = Config;
    type Visitor = Source;
    type Connection = Line;

    fn bus(&self, device: &Device<Self>) -> Result<String, Fault> {
        for point in &device.points {
            if let Source::Constant { value } | Source::Echo { value } = &point.visitor {
                let wrong = |error| Fault::Config(format!("property {}: value: {error}", point.name()));
                Value::parse(point.data_type(), value).map_err(wrong)?;
            }
        }
        Ok(device.protocol.line.clone())
    }

    async fn connect(&self, _device: &Device<Self>) -> Result<Line, Fault> {
        let line = Line { memory: Arc::clone(&self.memory), cut: Arc::clone(&self.cut), begun: Instant::now() };
        line.whole().map(|()| line)
    }
}

impl Connection<Virtual> for Line {
    async fn read(&mut self, device: &Device<Virtual>, points: &[&Point<Virtual>]) -> Result<Vec<Sample>, Fault> {
        self.whole()?;
        if device.protocol.silent {
            return Err(Fault::Silent("it is silent by its configuration".to_owned()));
        }
        Ok(points.iter().map(|point| self.sample(device, point)).collect())
    }

    async fn write(&mut self, device: &Device<Virtual>, point: &Point<Virtual>, value: &Value) -> Result<(), Fault> {
        self.whole()?;
        let Source::Echo { .. } = &point.visitor else {
            return Err(Fault::Refused(format!("{} makes its own values", point.name())));
        };
        self.keep(device, point, value.clone());
        Ok(())
    }
}

impl Line {
    fn whole(&self) -> Result<(), Fault> {
        if self.cut.load(Ordering::Relaxed) { Err(Fault::Lost("the line is cut".to_owned())) } else { Ok(()) }
    }

    fn sample(&self, device: &Device<Virtual>, point: &Point<Virtual>) -> Sample {
        match &point.visitor {
            Source::Constant { value } => text(point, value),
            Source::Counter { start } => {
                let next = match self.kept(device, point) {
                    Some(Value::Int(last)) => last.wrapping_add(1),
                    _ => *start,
                };
                self.keep(device, point, Value::Int(next));
                Sample::good(next)
            }
            Source::Sine { amplitude, offset, period_seconds } => {
                let turn = self.begun.elapsed().as_secs_f64() / period_seconds * std::f64::consts::TAU;
                Sample::good(offset + amplitude * turn.sin())
            }
            Source::Random { low, high } => Sample::good(low + (high - low) * random()),
            Source::Echo { value } => self.kept(device, point).map_or_else(|| text(point, value), Sample::good),
        }
    }

    fn kept(&self, device: &Device<Virtual>, point: &Point<Virtual>) -> Option<Value> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.get(&(device.key.clone(), point.name().to_owned())).cloned()
    }

    fn keep(&self, device: &Device<Virtual>, point: &Point<Virtual>, value: Value) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.insert((device.key.clone(), point.name().to_owned()), value);
    }
}

fn text(point: &Point<Virtual>, value: &str) -> Sample {
    match Value::parse(point.data_type(), value) {
        Ok(value) => Sample::good(value),
        Err(error) => Sample::bad(error.to_string()),
    }
}

/// From 0 to 1, from the keys that the standard library draws for its hash maps: good enough to look at.
fn random() -> f64 {
    let bits = u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or_default();
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skerry_mapper_sdk::{DataType, Definition, Quality};

    #[tokio::test]
    async fn values_are_made_as_described_and_what_is_written_stays() {
        let definition = Definition::new("default", "a", json!({"line": "one"}))
            .property("constant", DataType::String, json!({"source": "constant", "value": "on"}))
            .property("counter", DataType::Int, json!({"source": "counter", "start": 5}))
            .property("sine", DataType::Double, json!({"source": "sine", "amplitude": 2.0, "periodSeconds": 10.0}))
            .property("random", DataType::Float, json!({"source": "random", "low": 1.0, "high": 3.0}))
            .property("echo", DataType::Int, json!({"source": "echo", "value": "1"}));
        let driver = Virtual::default();
        let device = Device::<Virtual>::new(&definition).unwrap();
        assert_eq!(driver.bus(&device).unwrap(), "one");
        let mut line = driver.connect(&device).await.unwrap();
        let points: Vec<_> = device.points.iter().collect();
        for read in 0..3 {
            let samples = line.read(&device, &points).await.unwrap();
            assert!(samples.iter().all(|sample| sample.quality == Quality::Good), "{samples:?}");
            assert_eq!(samples[1].value, Some(Value::Int(5 + read)));
            assert!(samples[2].value.as_ref().unwrap().as_f64().unwrap().abs() <= 2.0);
            assert!((1.0..=3.0).contains(&samples[3].value.as_ref().unwrap().as_f64().unwrap()));
        }
        line.write(&device, points[4], &Value::Int(9)).await.unwrap();
        let mut other = driver.connect(&device).await.unwrap();
        assert_eq!(other.read(&device, &points[4..]).await.unwrap(), [Sample::good(9_i64)]);
        let refused = other.write(&device, points[0], &Value::Text("off".into())).await;
        assert_eq!(refused, Err(Fault::Refused("constant makes its own values".into())));
    }

    #[test]
    fn mistakes_are_named() {
        let table = [
            (json!({}), json!({"source": "sine", "amplitude": 1}), "property p: visitors.configData: missing field"),
            (json!({}), json!({"source": "magic"}), "property p: visitors.configData: unknown variant `magic`"),
            (json!({"lime": 1}), json!({"source": "counter"}), "protocol.configData: unknown field `lime`"),
            (json!({}), json!({"source": "echo", "value": "x"}), "property p: value: \"x\" is not a whole number"),
        ];
        for (protocol, visitor, words) in table {
            let definition = Definition::new("default", "a", protocol).property("p", DataType::Int, visitor);
            let device = Device::<Virtual>::new(&definition);
            let fault = device.and_then(|device| Virtual::default().bus(&device)).unwrap_err();
            assert!(matches!(&fault, Fault::Config(text) if text.starts_with(words)), "{fault}");
        }
    }
}
