//! What the registers of a property hold: `dataType`, the model's type and `limit` taken together.
//!
//! Decided again for each read from the configuration, because it is a few comparisons and no state can go stale.

use skerry_mapper_sdk::{ConfigError, DataType};

use crate::config::{BitRange, Declared, VisitorConfig};
use crate::plan::{Limits, Span};

/// Registers that are one number, at most.
const MAX_NUMBER: u16 = 4;

/// What is in the registers or coils.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raw {
    /// A whole number without a sign; for coils the first one is the lowest bit.
    Unsigned,
    /// A whole number, two's complement.
    Signed,
    /// IEEE 754 of 32 or 64 bits.
    Ieee,
    /// Some bits of a whole number.
    Field(BitRange),
    /// Characters.
    Text,
    /// Bytes; for coils packed, the first one the lowest bit of the first byte.
    Bytes,
}

/// What is read for a property, and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    /// Where it is.
    pub(crate) span: Span,
    /// What is there.
    pub(crate) raw: Raw,
}

impl Format {
    /// # Errors
    /// When the keys contradict one another or the limits of the device.
    pub(crate) fn new(visitor: &VisitorConfig, model: DataType, limits: &Limits) -> Result<Self, ConfigError> {
        let declared = match visitor.data_type {
            Some(declared) => declared,
            None => of_model(model)?,
        };
        let (raw, count) =
            if visitor.kind.is_bit() { coils(visitor, declared)? } else { registers(visitor, declared)? };
        let numeric = !matches!(raw, Raw::Text | Raw::Bytes);
        if numeric && model == DataType::Bytes {
            let problem = "is a number, and the model says BYTES; use `bytes`, or another type in the model";
            return Err(ConfigError::invalid("dataType", problem));
        }
        if !numeric && !visitor.scale.is_identity() {
            return Err(ConfigError::invalid("scale", "only numbers have one; remove it"));
        }
        let span = Span { kind: visitor.kind, start: visitor.offset, count };
        if count > limits.most(visitor.kind) {
            let (key, most) =
                if visitor.kind.is_bit() { ("maxCoils", limits.coils) } else { ("maxRegisters", limits.registers) };
            let problem = format!("{count} are more than one read of this device may have ({key}: {most})");
            return Err(ConfigError::invalid("limit", problem));
        }
        if span.end() > 65_536 {
            let problem = format!("{} and {count} are beyond the last address 65535", visitor.offset);
            return Err(ConfigError::invalid("offset", problem));
        }
        Ok(Self { span, raw })
    }
}

fn of_model(model: DataType) -> Result<Declared, ConfigError> {
    match model {
        DataType::Int => Ok(Declared::Int),
        DataType::Float => Ok(Declared::Float),
        DataType::Double => Ok(Declared::Double),
        DataType::String => Ok(Declared::Text),
        DataType::Boolean => Ok(Declared::Boolean),
        DataType::Bytes => Ok(Declared::Bytes),
        DataType::Stream => Err(ConfigError::invalid("type", "a STREAM cannot come from Modbus registers")),
    }
}

fn coils(visitor: &VisitorConfig, declared: Declared) -> Result<(Raw, u16), ConfigError> {
    let count = visitor.limit.unwrap_or(1);
    if visitor.bits.is_some() {
        return Err(ConfigError::invalid("bit", "a coil is one bit: say which by `offset`, and remove it"));
    }
    match declared {
        Declared::Bytes => Ok((Raw::Bytes, count)),
        Declared::Signed(_) | Declared::Ieee(_) | Declared::Unsigned(_) => {
            Err(ConfigError::invalid("dataType", "coils are bits: use `boolean`, `int` or `bytes`"))
        }
        Declared::Int | Declared::Float | Declared::Double | Declared::Boolean | Declared::Text => {
            if count > 64 {
                let problem = format!("{count} coils are more than a number of 64 bits; use `bytes`");
                return Err(ConfigError::invalid("limit", problem));
            }
            Ok((Raw::Unsigned, count))
        }
    }
}

fn registers(visitor: &VisitorConfig, declared: Declared) -> Result<(Raw, u16), ConfigError> {
    let exact = |raw, count| match visitor.limit {
        Some(limit) if limit != count => {
            let problem = format!("{limit} registers do not hold this dataType, it has {count}; remove `limit`");
            Err(ConfigError::invalid("limit", problem))
        }
        _ => Ok((raw, count)),
    };
    let (raw, count) = match declared {
        Declared::Unsigned(count) => exact(Raw::Unsigned, count)?,
        Declared::Signed(count) => exact(Raw::Signed, count)?,
        Declared::Ieee(count) => exact(Raw::Ieee, count)?,
        Declared::Int | Declared::Boolean => (Raw::Unsigned, visitor.limit.unwrap_or(1)),
        Declared::Float | Declared::Double => {
            let default = if declared == Declared::Float { 2 } else { 4 };
            match visitor.limit.unwrap_or(default) {
                // KubeEdge's: a whole number that is shown as a fraction, by its scale.
                1 => (Raw::Unsigned, 1),
                count @ (2 | 4) => (Raw::Ieee, count),
                other => {
                    let problem = format!("{other} registers are no floating point number: 2 or 4, or 1 with a scale");
                    return Err(ConfigError::invalid("limit", problem));
                }
            }
        }
        Declared::Text | Declared::Bytes => {
            let raw = if declared == Declared::Text { Raw::Text } else { Raw::Bytes };
            let fix = "how many registers it has, two characters or bytes each";
            (raw, visitor.limit.ok_or(ConfigError::Missing { key: "limit", fix })?)
        }
    };
    if matches!(raw, Raw::Unsigned) && count > MAX_NUMBER {
        let problem = format!("{count} registers are more than a number of 64 bits has ({MAX_NUMBER}); use `bytes`");
        return Err(ConfigError::invalid("limit", problem));
    }
    let Some(bits) = visitor.bits else { return Ok((raw, count)) };
    if raw != Raw::Unsigned {
        return Err(ConfigError::invalid("bit", "only whole numbers without a sign have bits to pick; use `int`"));
    }
    let width = count * 16;
    if u16::from(bits.first) + u16::from(bits.count) > width {
        let problem =
            format!("bits {} and {} on are beyond the {width} bits of `limit` {count}", bits.first, bits.count);
        return Err(ConfigError::invalid("bit", problem));
    }
    Ok((Raw::Field(bits), count))
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
