//! Values of OPC UA and of twins.
//!
//! Whole numbers keep all 64 bits and times their 100 nanoseconds. What one value cannot say is bad and says why.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use opcua::types::{
    ByteString, DataValue, DateTime, LocalizedText, StatusCode, UAString, Variant, VariantScalarTypeId as Type,
};
use skerry_mapper_sdk::{Sample, Value};

use crate::error::status;

/// Longest text or byte string: what a twin may be.
pub(crate) const MAX_BYTES: usize = 64 * 1024;
/// 100 nanoseconds from 1601, where OPC UA begins to count, to 1970.
const TICKS_TO_UNIX: i64 = 116_444_736_000_000_000;
/// Nanoseconds of a tick.
const TICK_NANOS: i64 = 100;

/// What a server says of a node.
pub(crate) fn sample(value: DataValue) -> Sample {
    let code = value.status.unwrap_or(StatusCode::Good);
    if code.is_bad() {
        return Sample::bad(status(code));
    }
    let sample = match decode(value.value.unwrap_or_default()) {
        Ok(value) if code.is_uncertain() => Sample::uncertain(value, status(code)),
        Ok(value) => Sample::good(value),
        Err(problem) => Sample::bad(problem),
    };
    match value.source_timestamp.as_ref().and_then(time) {
        Some(time) => sample.at(time),
        None => sample,
    }
}

/// The value in a variant.
///
/// # Errors
/// Why a twin cannot have it.
pub(crate) fn decode(variant: Variant) -> Result<Value, String> {
    let text = |text: UAString| match text.value() {
        Some(text) if text.len() <= MAX_BYTES => Ok(Value::from(text.as_str())),
        Some(text) => Err(format!("{} bytes are too long for a value, at most {MAX_BYTES}", text.len())),
        None => Ok(Value::from("")),
    };
    match variant {
        Variant::Boolean(value) => Ok(value.into()),
        Variant::SByte(value) => Ok(i64::from(value).into()),
        Variant::Byte(value) => Ok(i64::from(value).into()),
        Variant::Int16(value) => Ok(i64::from(value).into()),
        Variant::UInt16(value) => Ok(i64::from(value).into()),
        Variant::Int32(value) => Ok(i64::from(value).into()),
        Variant::UInt32(value) => Ok(i64::from(value).into()),
        Variant::Int64(value) => Ok(value.into()),
        Variant::UInt64(value) => Ok(i64::try_from(value).map_or(Value::Uint(value), Value::Int)),
        Variant::Float(value) => Ok(value.into()),
        Variant::Double(value) => Ok(value.into()),
        Variant::String(value) => text(value),
        Variant::LocalizedText(value) => text(value.text),
        Variant::QualifiedName(value) => text(value.name),
        Variant::XmlElement(value) => text(value.to_string().into()),
        Variant::Guid(value) => Ok(value.to_string().into()),
        Variant::NodeId(value) => text(value.to_string().into()),
        Variant::ExpandedNodeId(value) => text(value.to_string().into()),
        Variant::StatusCode(value) => Ok(value.to_string().into()),
        Variant::DateTime(value) => {
            timestamp(&value).map(|time| time.to_string().into()).ok_or_else(|| "the time is out of range".to_owned())
        }
        Variant::ByteString(value) => {
            let bytes = value.value.unwrap_or_default();
            if bytes.len() > MAX_BYTES {
                return Err(format!("{} bytes are too long for a value, at most {MAX_BYTES}", bytes.len()));
            }
            Ok(bytes.into())
        }
        Variant::Variant(inner) if !matches!(*inner, Variant::Variant(_)) => decode(*inner),
        Variant::Empty => Err("the node has no value".to_owned()),
        Variant::Array(array) => {
            Err(format!("the node is an array of {}, and a property has one value", array.values.len()))
        }
        Variant::ExtensionObject(_) | Variant::DataValue(_) | Variant::DiagnosticInfo(_) | Variant::Variant(_) => {
            Err("the node is a structure, and a property has one value; use the nodes of its fields".to_owned())
        }
    }
}

/// A value as a node of this type takes it. Nothing is rounded but decimals to the nearest of a Float.
///
/// # Errors
/// Why the node cannot have it.
pub(crate) fn encode(value: &Value, kind: Type) -> Result<Variant, String> {
    let misfit = || {
        let shown: String = value.to_text().chars().take(64).collect();
        format!("{shown} does not fit the node, which is a {kind:?}")
    };
    let variant = match kind {
        Type::Boolean => match value {
            Value::Bool(value) => Some(Variant::Boolean(*value)),
            other => match whole(other) {
                Some(0) => Some(Variant::Boolean(false)),
                Some(1) => Some(Variant::Boolean(true)),
                _ => None,
            },
        },
        Type::SByte => integer(value).map(Variant::SByte),
        Type::Byte => integer(value).map(Variant::Byte),
        Type::Int16 => integer(value).map(Variant::Int16),
        Type::UInt16 => integer(value).map(Variant::UInt16),
        Type::Int32 => integer(value).map(Variant::Int32),
        Type::UInt32 => integer(value).map(Variant::UInt32),
        Type::Int64 => integer(value).map(Variant::Int64),
        Type::UInt64 => integer(value).map(Variant::UInt64),
        Type::Float => value.as_f64().and_then(single).map(Variant::Float),
        Type::Double => value.as_f64().map(Variant::Double),
        Type::String => Some(Variant::String(value.to_text().into())),
        Type::LocalizedText => {
            let text = LocalizedText { locale: UAString::null(), text: value.to_text().into() };
            Some(Variant::LocalizedText(Box::new(text)))
        }
        Type::DateTime => match value {
            Value::Text(text) => {
                let time = text.trim().parse().ok().and_then(ticks);
                let problem = || format!("{text} is not a time such as 2026-01-31T12:00:00Z");
                return time.map(|ticks| Variant::DateTime(Box::new(DateTime::from(ticks)))).ok_or_else(problem);
            }
            _ => None,
        },
        Type::ByteString => match value {
            Value::Bytes(bytes) => Some(Variant::ByteString(ByteString::from(bytes.as_slice()))),
            Value::Text(text) => Some(Variant::ByteString(ByteString::from(text.as_bytes()))),
            _ => None,
        },
        other => return Err(format!("the node is a {other:?}, which cannot be written")),
    };
    variant.ok_or_else(misfit)
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Int(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        Value::Bool(value) => Some(i128::from(*value)),
        // Beyond 2^53 a float does not say which whole number is meant.
        #[expect(clippy::cast_possible_truncation, reason = "whole and small, as was just checked")]
        Value::Float(value) if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 => Some(*value as i128),
        Value::Float(_) | Value::Text(_) | Value::Bytes(_) => None,
    }
}

fn integer<T: TryFrom<i128>>(value: &Value) -> Option<T> {
    whole(value).and_then(|value| value.try_into().ok())
}

/// The nearest number of 32 bits, unless it is beyond them.
fn single(value: f64) -> Option<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "rounding is what is wanted; overflow is infinite")]
    let single = value as f32;
    (single.is_finite() || !value.is_finite()).then_some(single)
}

fn timestamp(time: &DateTime) -> Option<Timestamp> {
    let nanos = i128::from(time.ticks().checked_sub(TICKS_TO_UNIX)?) * i128::from(TICK_NANOS);
    Timestamp::from_nanosecond(nanos).ok()
}

fn ticks(time: Timestamp) -> Option<i64> {
    let ticks = i64::try_from(time.as_nanosecond() / i128::from(TICK_NANOS)).ok()?;
    ticks.checked_add(TICKS_TO_UNIX).filter(|ticks| *ticks > 0)
}

/// When the device had a value; nothing where it says nothing that can be.
fn time(time: &DateTime) -> Option<SystemTime> {
    let since = time.ticks().checked_sub(TICKS_TO_UNIX).and_then(|ticks| u64::try_from(ticks).ok())?;
    UNIX_EPOCH.checked_add(Duration::from_micros(since / 10))
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
