//! What was read of a point: a value, how good it is, and when the device had it.

use std::time::SystemTime;

use crate::Value;

/// How far a value can be trusted, as OPC UA and others have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quality {
    /// Read from the device now.
    #[default]
    Good,
    /// The device doubts it, or it is too old.
    Uncertain,
    /// There is no usable value.
    Bad,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What was read; nothing when the quality is bad.
    pub value: Option<Value>,
    /// How good it is.
    pub quality: Quality,
    /// When the device had it, if the device says so; otherwise it is the time of the read.
    pub source_time: Option<SystemTime>,
    /// Why it is not good; empty when it is.
    pub problem: String,
}

impl Sample {
    /// A value that can be trusted. A number that is none (NaN, infinite) cannot.
    pub fn good(value: impl Into<Value>) -> Self {
        let value = value.into();
        if let Value::Float(number) = value
            && !number.is_finite()
        {
            return Self::bad(format!("the device answered {number}, which is not a number"));
        }
        Self { value: Some(value), quality: Quality::Good, source_time: None, problem: String::new() }
    }

    /// A value that is doubted, and why.
    pub fn uncertain(value: impl Into<Value>, problem: impl Into<String>) -> Self {
        let sample = Self::good(value);
        match sample.quality {
            Quality::Good => Self { quality: Quality::Uncertain, problem: problem.into(), ..sample },
            Quality::Uncertain | Quality::Bad => sample,
        }
    }

    /// No value, and why.
    pub fn bad(problem: impl Into<String>) -> Self {
        Self { value: None, quality: Quality::Bad, source_time: None, problem: problem.into() }
    }

    /// With the time that the device gave.
    #[must_use]
    pub fn at(self, time: SystemTime) -> Self {
        Self { source_time: Some(time), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_not_good() {
        assert_eq!(Sample::good(f64::NAN).quality, Quality::Bad);
        assert_eq!(Sample::uncertain(f64::INFINITY, "old").quality, Quality::Bad);
        assert_eq!(Sample::good(1.5).value, Some(Value::Float(1.5)));
    }
}
