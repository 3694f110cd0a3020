//! Bytes of an answer to values, and values to registers and coils. No IO.
//!
//! Registers are big-endian on the wire and the most significant one comes first, unless the visitor says
//! otherwise. Whole numbers are never floats on the way, unless a scale with decimals makes them so.

use skerry_mapper_sdk::{DataType, Value};

use crate::config::VisitorConfig;
use crate::format::{Format, Raw};

/// Numbers are the same when they differ by less than this part: scales are decimals, and floats are not.
const ROUNDING: f64 = 1e-6;

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Write {
    /// These registers.
    Registers(Vec<u16>),
    /// These coils.
    Coils(Vec<bool>),
    /// The masked bits of the registers, which have to be read first: both in the order of the wire.
    Masked {
        /// Which bits.
        mask: Vec<u16>,
        /// What they become.
        bits: Vec<u16>,
    },
}

/// The value of a property. `data` are the registers' bytes as they came, or the coils packed from bit 0.
///
/// # Errors
/// Says why the registers hold no such value.
pub(crate) fn decode(format: &Format, visitor: &VisitorConfig, model: DataType, data: &[u8]) -> Result<Value, String> {
    let value = match format.raw {
        Raw::Text => text(visitor, data)?,
        Raw::Bytes if format.span.kind.is_bit() => Value::Bytes(data.to_vec()),
        Raw::Bytes => Value::Bytes(ordered(visitor, data)),
        Raw::Ieee => {
            let bits = number(format, visitor, data);
            if format.span.count == 2 && visitor.scale.is_identity() {
                whole_if_int(single(bits).into(), model)
            } else {
                let raw = if format.span.count == 2 { f64::from(single(bits)) } else { f64::from_bits(bits) };
                whole_if_int(Value::Float(visitor.scale.apply(raw)), model)
            }
        }
        Raw::Unsigned | Raw::Signed | Raw::Field(_) => whole(format, visitor, model, number(format, visitor, data)),
    };
    if let Value::Float(number) = value
        && !number.is_finite()
    {
        return Err(format!("the registers hold {number}, which is not a number"));
    }
    value.cast(model).map_err(|error| error.to_string())
}

fn whole(format: &Format, visitor: &VisitorConfig, model: DataType, bits: u64) -> Value {
    let raw = match format.raw {
        Raw::Signed => i128::from(signed(bits, format.span.count)),
        Raw::Field(range) => i128::from((bits >> range.first) & ones(u32::from(range.count))),
        _ => i128::from(bits),
    };
    if model == DataType::Boolean {
        return Value::Bool(raw != 0);
    }
    let whole = visitor.scale.whole(raw);
    if let Some(value) = whole.and_then(|value| i64::try_from(value).ok()) {
        return Value::Int(value);
    }
    if let Some(value) = whole.and_then(|value| u64::try_from(value).ok()) {
        return Value::Uint(value);
    }
    #[expect(clippy::cast_precision_loss, reason = "a scale with decimals makes it a float")]
    whole_if_int(Value::Float(visitor.scale.apply(raw as f64)), model)
}

/// The nearest whole number where the model has whole numbers; KubeEdge cuts the decimals off.
fn whole_if_int(value: Value, model: DataType) -> Value {
    match value {
        // Beyond 2^63 it stays a float, which the model's type then refuses.
        Value::Float(number) if model == DataType::Int && number.abs() < 9.2e18 =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "rounded, and in range as was just checked")]
            Value::Int(number.round() as i64)
        }
        other => other,
    }
}

/// The registers or coils as bits of one number, which has at most 64.
fn number(format: &Format, visitor: &VisitorConfig, data: &[u8]) -> u64 {
    if format.span.kind.is_bit() {
        let bits = data.iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        return bits & ones(u32::from(format.span.count));
    }
    let word = |all: u64, pair: &[u8]| match *pair {
        [low, high] if visitor.swap_bytes => all << 16 | u64::from(u16::from_be_bytes([high, low])),
        [high, low] => all << 16 | u64::from(u16::from_be_bytes([high, low])),
        _ => all,
    };
    if visitor.swap_words { data.rchunks(2).fold(0, word) } else { data.chunks(2).fold(0, word) }
}

/// The bytes in the order that the visitor says.
fn ordered(visitor: &VisitorConfig, data: &[u8]) -> Vec<u8> {
    let mut words: Vec<[u8; 2]> = data.chunks_exact(2).map(|pair| [byte(pair, 0), byte(pair, 1)]).collect();
    if visitor.swap_words {
        words.reverse();
    }
    if visitor.swap_bytes {
        words.iter_mut().for_each(|word| word.reverse());
    }
    words.concat()
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

fn text(visitor: &VisitorConfig, data: &[u8]) -> Result<Value, String> {
    let mut bytes = ordered(visitor, data);
    // Devices fill up with zeros or spaces.
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    let text = String::from_utf8(bytes).map_err(|_| "the registers hold no UTF-8 text; use `bytes`".to_owned())?;
    Ok(Value::Text(text.trim_end().to_owned()))
}

/// What to write so that the property has this value.
///
/// # Errors
/// Says why the registers cannot hold it.
pub(crate) fn encode(format: &Format, visitor: &VisitorConfig, value: &Value) -> Result<Write, String> {
    let count = usize::from(format.span.count);
    let bits = match format.raw {
        Raw::Text | Raw::Bytes => return encode_bytes(format, visitor, value),
        Raw::Ieee => encode_float(format, visitor, value)?,
        Raw::Unsigned => encode_whole(visitor, value, 0, unsigned_most(format))?,
        Raw::Signed => {
            let most = i128::from(ones(u32::from(format.span.count) * 16 - 1));
            encode_whole(visitor, value, -most - 1, most)?
        }
        Raw::Field(range) => {
            let mask = ones(u32::from(range.count));
            let bits = encode_whole(visitor, value, 0, i128::from(mask))?;
            return Ok(Write::Masked {
                mask: words(visitor, mask << range.first, count),
                bits: words(visitor, bits << range.first, count),
            });
        }
    };
    if format.span.kind.is_bit() {
        return Ok(Write::Coils((0..count).map(|at| bits >> at & 1 == 1).collect()));
    }
    Ok(Write::Registers(words(visitor, bits, count)))
}

fn encode_whole(visitor: &VisitorConfig, value: &Value, least: i128, most: i128) -> Result<u64, String> {
    let exact = match value {
        Value::Int(value) => visitor.scale.whole_raw(i128::from(*value)),
        Value::Uint(value) => visitor.scale.whole_raw(i128::from(*value)),
        Value::Bool(value) => Some(i128::from(*value)),
        _ => None,
    };
    let raw = match exact {
        Some(raw) => raw,
        None => {
            let wanted = float(value)?;
            let raw = visitor.scale.invert(wanted).round();
            // The device could only show another value than the one that was asked for.
            let nearest = visitor.scale.apply(raw);
            if (nearest - wanted).abs() > ROUNDING * wanted.abs() {
                return Err(format!(
                    "{} is between two steps of the register; the nearest is {nearest}",
                    value.to_text()
                ));
            }
            // Anything beyond the range of an i128 is out of range too: the cast saturates.
            #[expect(clippy::cast_possible_truncation)]
            let raw = raw as i128;
            raw
        }
    };
    if raw < least || raw > most {
        let scaled = if visitor.scale.is_identity() { "" } else { " after scale and valueOffset" };
        return Err(format!("{} does not fit{scaled}: {raw} is not from {least} to {most}", value.to_text()));
    }
    // The low bits of two's complement; what is above them was just checked to be the sign.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(raw as u64)
}

fn encode_float(format: &Format, visitor: &VisitorConfig, value: &Value) -> Result<u64, String> {
    let number = if visitor.scale.is_identity() { float(value)? } else { visitor.scale.invert(float(value)?) };
    // A whole number that would become another one is refused; of others the nearest is meant.
    let wanted = match value {
        Value::Int(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        _ => None,
    };
    #[expect(clippy::cast_possible_truncation, reason = "a f64 of 64 bits of whole number is far from the bounds")]
    let inexact = |kept: f64| visitor.scale.is_identity() && wanted.is_some_and(|wanted| wanted != kept as i128);
    if format.span.count == 4 {
        if inexact(number) {
            return Err(format!("{} has more digits than a float64 keeps", value.to_text()));
        }
        return Ok(number.to_bits());
    }
    #[expect(clippy::cast_possible_truncation, reason = "the nearest float32 is what is wanted")]
    let single = number as f32;
    if !single.is_finite() {
        return Err(format!("{} is more than a float32 holds", value.to_text()));
    }
    if inexact(f64::from(single)) {
        return Err(format!("{} has more digits than a float32 keeps", value.to_text()));
    }
    Ok(u64::from(single.to_bits()))
}

fn encode_bytes(format: &Format, visitor: &VisitorConfig, value: &Value) -> Result<Write, String> {
    let count = usize::from(format.span.count);
    let mut bytes = match value {
        Value::Bytes(bytes) => bytes.clone(),
        other => other.to_text().into_bytes(),
    };
    if format.span.kind.is_bit() {
        let room = count.div_ceil(8);
        if bytes.len() != room {
            return Err(format!("{} bytes for {count} coils, which are {room}", bytes.len()));
        }
        return Ok(Write::Coils((0..count).map(|at| byte(&bytes, at / 8) >> (at % 8) & 1 == 1).collect()));
    }
    let room = count * 2;
    if bytes.len() > room || (format.raw == Raw::Bytes && bytes.len() != room) {
        return Err(format!("{} bytes for {count} registers, which have {room}", bytes.len()));
    }
    // Text is filled up with zeros.
    bytes.resize(room, 0);
    let ordered = ordered(visitor, &bytes);
    Ok(Write::Registers(ordered.chunks(2).map(|pair| u16::from_be_bytes([byte(pair, 0), byte(pair, 1)])).collect()))
}

fn float(value: &Value) -> Result<f64, String> {
    let number = match value {
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        Value::Text(text) => Value::parse(DataType::Double, text).ok().and_then(|number| number.as_f64()),
        other => other.as_f64(),
    };
    number.ok_or_else(|| format!("{:?} is not a number", value.to_text()))
}

/// The number as registers in the order of the wire.
fn words(visitor: &VisitorConfig, bits: u64, count: usize) -> Vec<u16> {
    let order = |word: u16| if visitor.swap_bytes { word.swap_bytes() } else { word };
    #[expect(clippy::cast_possible_truncation, reason = "16 bits at a time")]
    let mut words: Vec<u16> = (0..count).rev().map(|at| order((bits >> (16 * at)) as u16)).collect();
    if visitor.swap_words {
        words.reverse();
    }
    words
}

fn unsigned_most(format: &Format) -> i128 {
    let width = u32::from(format.span.count) * if format.span.kind.is_bit() { 1 } else { 16 };
    i128::from(ones(width))
}

/// A number of this many low bits.
fn ones(bits: u32) -> u64 {
    u64::MAX.checked_shr(64_u32.saturating_sub(bits)).unwrap_or(0)
}

fn signed(bits: u64, registers: u16) -> i64 {
    let unused = 64_u32.saturating_sub(u32::from(registers) * 16);
    (bits << unused).cast_signed() >> unused
}

fn single(bits: u64) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "two registers have 32 bits")]
    f32::from_bits(bits as u32)
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
