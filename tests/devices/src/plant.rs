//! The devices themselves: registers in memory, behind a driver of the mapper SDK as any author would write it.
//!
//! They outlive their mapper, as devices do. A property named `picky` refuses multiples of [`REFUSED`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use skerry_mapper_sdk::{About, Connection, Device, Driver, Fault, Point, Sample, Value};

/// What the mapper is.
pub(crate) const ABOUT: About = About { name: "plant-mapper", version: "1", protocol: "plant" };

/// What `picky` refuses multiples of.
pub const REFUSED: i64 = 3;

/// Whether a device refuses the value.
pub(crate) fn refuses(property: &str, value: i64) -> bool {
    property == "picky" && value > 0 && value % REFUSED == 0
}

/// By device and property.
type Registers = HashMap<(String, String), i64>;

/// See the module documentation. Clones are the same devices.
#[derive(Debug, Clone, Default)]
pub struct Plant {
    registers: Arc<Mutex<Registers>>,
    /// What was written last, taken or refused.
    told: Arc<Mutex<Registers>>,
    cut: Arc<AtomicBool>,
}

impl Plant {
    /// What a register holds.
    pub fn holds(&self, device: &str, property: &str) -> i64 {
        get(&self.registers, device, property).unwrap_or_default()
    }

    /// What somebody wrote to a register last.
    pub fn told(&self, device: &str, property: &str) -> Option<i64> {
        get(&self.told, device, property)
    }

    /// Cuts the line to all devices, or joins it.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }
}

fn get(registers: &Mutex<Registers>, device: &str, property: &str) -> Option<i64> {
    let registers = registers.lock().unwrap_or_else(PoisonError::into_inner);
    registers.get(&(device.to_owned(), property.to_owned())).copied()
}

fn put(registers: &Mutex<Registers>, device: &str, property: &str, value: i64) {
    let mut registers = registers.lock().unwrap_or_else(PoisonError::into_inner);
    registers.insert((device.to_owned(), property.to_owned()), value);
}

/// Nothing is configured.
#[derive(Debug, Deserialize)]
pub struct Empty {}

/// The line to all devices.
#[derive(Debug)]
pub struct Line(Plant);

impl Driver for Plant {
    type Protocol = Empty;
    type Visitor = Empty;
    type Connection = Line;

    fn bus(&self, _device: &Device<Self>) -> Result<String, Fault> {
        Ok("plant".to_owned())
    }

    async fn connect(&self, _device: &Device<Self>) -> Result<Line, Fault> {
        let line = Line(self.clone());
        line.whole().map(|()| line)
    }
}

impl Line {
    fn whole(&self) -> Result<(), Fault> {
        if self.0.cut.load(Ordering::Relaxed) { Err(Fault::Lost("the line is cut".to_owned())) } else { Ok(()) }
    }
}

impl Connection<Plant> for Line {
    async fn read(&mut self, device: &Device<Plant>, points: &[&Point<Plant>]) -> Result<Vec<Sample>, Fault> {
        self.whole()?;
        Ok(points.iter().map(|point| Sample::good(self.0.holds(&device.key.name, point.name()))).collect())
    }

    async fn write(&mut self, device: &Device<Plant>, point: &Point<Plant>, value: &Value) -> Result<(), Fault> {
        self.whole()?;
        let Value::Int(value) = value else { return Err(Fault::Refused("it takes whole numbers".to_owned())) };
        put(&self.0.told, &device.key.name, point.name(), *value);
        if refuses(point.name(), *value) {
            return Err(Fault::Refused(format!("{value} is a multiple of {REFUSED}")));
        }
        put(&self.0.registers, &device.key.name, point.name(), *value);
        Ok(())
    }
}
