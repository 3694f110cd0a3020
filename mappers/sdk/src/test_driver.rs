//! The driver of the SDK's own tests: a device of one number, which does not like thirteen.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::definition::Json;
use crate::{Connection, Device, Driver, Fault, Point, Sample, Value};

/// A device of one number.
#[derive(Clone, Default)]
pub(crate) struct Number(pub(crate) Arc<AtomicI64>);

impl Driver for Number {
    type Protocol = Json;
    type Visitor = Json;
    type Connection = Self;

    fn bus(&self, _: &Device<Self>) -> Result<String, Fault> {
        Ok(String::new())
    }

    async fn connect(&self, _: &Device<Self>) -> Result<Self, Fault> {
        Ok(self.clone())
    }
}

impl Connection<Number> for Number {
    async fn read(&mut self, _: &Device<Number>, points: &[&Point<Number>]) -> Result<Vec<Sample>, Fault> {
        Ok(vec![Sample::good(self.0.load(Ordering::Relaxed)); points.len()])
    }

    async fn write(&mut self, _: &Device<Number>, _: &Point<Number>, value: &Value) -> Result<(), Fault> {
        match value {
            Value::Int(13) => Err(Fault::Refused("not thirteen".into())),
            Value::Int(value) => {
                self.0.store(*value, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(Fault::Refused("not a number".into())),
        }
    }
}
