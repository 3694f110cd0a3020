//! A value on its way to one sink.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use skerry_mapper_sdk::{DataType, Value};

use crate::route::Route;

/// What a value costs beside its text or bytes, in memory and about as much on disk.
const OVERHEAD: u64 = 64;

/// Whose values these are and how their sink wants them: one per property and sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) namespace: String,
    pub(crate) device: String,
    pub(crate) property: String,
    /// The model's type, by its name there.
    pub(crate) data_type: String,
    pub(crate) unit: String,
    pub(crate) route: Route,
}

/// A value and when the device had it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) target: Arc<Target>,
    pub(crate) value: Value,
    pub(crate) unix_ms: i64,
}

impl Record {
    /// Bytes that it counts for, wherever it waits.
    pub(crate) fn cost(&self) -> u64 {
        let bytes = match &self.value {
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::Bool(_) => 0,
        };
        OVERHEAD + u64::try_from(bytes).unwrap_or(u64::MAX / 2)
    }

    /// `2026-01-31 08:00:00` in the time of this machine, as KubeEdge's mappers write it.
    pub(crate) fn local_time(&self) -> String {
        let time = jiff::Timestamp::from_millisecond(self.unix_ms).unwrap_or_default();
        time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// The value as one kind of number per property, whatever single values look like: a sink with typed fields
    /// takes no other.
    pub(crate) fn typed(&self) -> Typed<'_> {
        let float = matches!(DataType::named(&self.target.data_type), Some(DataType::Float | DataType::Double));
        match &self.value {
            value @ (Value::Int(_) | Value::Uint(_)) if float => Typed::Float(value.as_f64().unwrap_or_default()),
            Value::Int(value) => Typed::Int(*value),
            Value::Uint(value) => i64::try_from(*value).map_or(Typed::Uint(*value), Typed::Int),
            Value::Float(value) => Typed::Float(*value),
            Value::Bool(value) => Typed::Bool(*value),
            Value::Text(value) => Typed::Text(value.into()),
            Value::Bytes(value) => Typed::Text(BASE64.encode(value).into()),
        }
    }
}

/// See [`Record::typed`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Typed<'a> {
    Int(i64),
    Uint(u64),
    Float(f64),
    Bool(bool),
    Text(std::borrow::Cow<'a, str>),
}
