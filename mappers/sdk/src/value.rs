//! Values with their types, and the text that KubeEdge's APIs have for them.
//!
//! Numbers keep their precision: 64-bit integers are never floats on the way. Bytes are base64 as text.

use std::cmp::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Longest text or byte string: what a twin of a device may be, not a file.
pub(crate) const MAX_BYTES: usize = 64 * 1024;

/// Type of a property in its DeviceModel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// A whole number.
    Int,
    /// 32-bit floating point.
    Float,
    /// 64-bit floating point.
    Double,
    /// Text.
    String,
    /// True or false.
    Boolean,
    /// Bytes.
    Bytes,
    /// A stream of frames, which is not a value.
    Stream,
}

/// A value of a property.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// A whole number above what `i64` holds, or one that the device has without a sign.
    Uint(u64),
    /// A floating point number, finite.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// Why a value does not fit a property.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The model has it as ReadOnly.
    #[error("the property is read-only")]
    ReadOnly,
    /// Not of the property's type.
    #[error("{text:?} is not {}", wanted.article())]
    Type {
        /// What was given, shortened.
        text: String,
        /// The model's type.
        wanted: DataType,
    },
    /// Below the model's minimum.
    #[error("{value} is below the minimum {minimum}")]
    Below {
        /// What was given.
        value: String,
        /// The model's.
        minimum: String,
    },
    /// Above the model's maximum.
    #[error("{value} is above the maximum {maximum}")]
    Above {
        /// What was given.
        value: String,
        /// The model's.
        maximum: String,
    },
    /// Longer than any twin may be.
    #[error("{0} bytes are too long for a value, at most {MAX_BYTES}")]
    Long(usize),
}

impl DataType {
    /// The type of this name in a DeviceModel, in any case.
    pub fn named(name: &str) -> Option<Self> {
        let types = [Self::Int, Self::Float, Self::Double, Self::String, Self::Boolean, Self::Bytes, Self::Stream];
        types.into_iter().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Its name in a DeviceModel.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int => "INT",
            Self::Float => "FLOAT",
            Self::Double => "DOUBLE",
            Self::String => "STRING",
            Self::Boolean => "BOOLEAN",
            Self::Bytes => "BYTES",
            Self::Stream => "STREAM",
        }
    }

    fn article(self) -> &'static str {
        match self {
            Self::Int => "a whole number of 64 bits",
            Self::Float | Self::Double => "a number",
            Self::String => "text",
            Self::Boolean => "true or false",
            Self::Bytes => "base64",
            Self::Stream => "a value: a stream has none",
        }
    }
}

impl Value {
    /// Reads the text of a value, as it is in a Device.
    ///
    /// # Errors
    /// When it is not of the type.
    pub fn parse(data_type: DataType, text: &str) -> Result<Self, ValueError> {
        if text.len() > MAX_BYTES {
            return Err(ValueError::Long(text.len()));
        }
        let trimmed = text.trim();
        let value = match data_type {
            DataType::Int => integer(trimmed),
            DataType::Float | DataType::Double => number(trimmed),
            DataType::String => Some(Self::Text(text.to_owned())),
            // What Go's ParseBool takes, for KubeEdge's sake.
            DataType::Boolean => match trimmed {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(Self::Bool(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(Self::Bool(false)),
                _ => None,
            },
            DataType::Bytes => BASE64.decode(trimmed).ok().map(Self::Bytes),
            DataType::Stream => None,
        };
        value.ok_or_else(|| wrong(text, data_type))
    }

    /// The value as its type in the model wants it: what a device delivers may be a number where the model has
    /// text. Nothing is rounded.
    ///
    /// # Errors
    /// When it cannot be said in that type, or is longer than any value may be.
    pub fn cast(self, data_type: DataType) -> Result<Self, ValueError> {
        match &self {
            Self::Text(text) if text.len() > MAX_BYTES => return Err(ValueError::Long(text.len())),
            Self::Bytes(bytes) if bytes.len() > MAX_BYTES => return Err(ValueError::Long(bytes.len())),
            _ => {}
        }
        let same = matches!(
            (&self, data_type),
            (Self::Int(_) | Self::Uint(_), DataType::Int | DataType::Float | DataType::Double)
                | (Self::Float(_), DataType::Float | DataType::Double)
                | (Self::Bool(_), DataType::Boolean)
                | (Self::Text(_), DataType::String)
                | (Self::Bytes(_), DataType::Bytes)
        );
        if same {
            return Ok(self);
        }
        match (self, data_type) {
            (Self::Text(text), DataType::Bytes) => Ok(Self::Bytes(text.into_bytes())),
            (Self::Bool(bool), DataType::Int) => Ok(Self::Int(i64::from(bool))),
            (other, _) => Self::parse(data_type, &other.to_text()),
        }
    }

    /// The text that KubeEdge's APIs have for it.
    pub fn to_text(&self) -> String {
        match self {
            Self::Int(value) => value.to_string(),
            Self::Uint(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Text(value) => value.clone(),
            Self::Bytes(value) => BASE64.encode(value),
        }
    }

    /// Bytes of that text, or a little more.
    pub(crate) fn text_len(&self) -> usize {
        match self {
            // Written without an exponent.
            Self::Float(value) if *value == 0.0 || (1e-6..1e16).contains(&value.abs()) => 32,
            Self::Float(_) => 352,
            Self::Int(_) | Self::Uint(_) | Self::Bool(_) => 20,
            Self::Text(value) => value.len(),
            Self::Bytes(value) => value.len().div_ceil(3) * 4,
        }
    }

    /// The number, if it is one. Whole numbers above 2^53 are rounded.
    #[allow(clippy::cast_precision_loss)]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::Uint(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Bool(_) | Self::Text(_) | Self::Bytes(_) => None,
        }
    }

    /// Whether both are the same to a device: 1 and 1.0 are.
    pub fn same(&self, other: &Self) -> bool {
        self == other || self.compare(other) == Some(Ordering::Equal)
    }

    /// The order of two numbers, exact for whole ones; nothing for other values.
    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self.whole(), other.whole()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => self.as_f64()?.partial_cmp(&other.as_f64()?),
        }
    }

    fn whole(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(i128::from(*value)),
            Self::Uint(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    /// Bounds that are not numbers bind nothing: they were refused or shown when the model was applied.
    pub(crate) fn check_range(&self, minimum: &str, maximum: &str) -> Result<(), ValueError> {
        let beyond = |bound: &str, side| number(bound.trim()).is_some_and(|b| self.compare(&b) == Some(side));
        if beyond(minimum, Ordering::Less) {
            return Err(ValueError::Below { value: self.to_text(), minimum: minimum.to_owned() });
        }
        if beyond(maximum, Ordering::Greater) {
            return Err(ValueError::Above { value: self.to_text(), maximum: maximum.to_owned() });
        }
        Ok(())
    }
}

fn integer(text: &str) -> Option<Value> {
    if let Ok(value) = text.parse() {
        return Some(Value::Int(value));
    }
    if let Ok(value) = text.parse() {
        return Some(Value::Uint(value));
    }
    // 5.0 and 1e3 are whole numbers too; beyond 2^53 a float does not say which one is meant.
    let value: f64 = text.parse().ok()?;
    let whole = value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation)]
    whole.then_some(Value::Int(value as i64))
}

fn number(text: &str) -> Option<Value> {
    if let Ok(value) = text.parse() {
        return Some(Value::Int(value));
    }
    if let Ok(value) = text.parse() {
        return Some(Value::Uint(value));
    }
    let value: f64 = text.parse().ok()?;
    value.is_finite().then_some(Value::Float(value))
}

fn wrong(text: &str, wanted: DataType) -> ValueError {
    // As much as helps to find it.
    ValueError::Type { text: text.chars().take(64).collect(), wanted }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Uint(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<f32> for Value {
    /// The shortest number that is this one in 32 bits: 0.1 and not 0.10000000149011612.
    fn from(value: f32) -> Self {
        Self::Float(value.to_string().parse().unwrap_or(f64::from(value)))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Bytes(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_read_by_the_type() {
        let table = [
            (DataType::Int, " 42", Some(Value::Int(42))),
            (DataType::Int, "-9223372036854775808", Some(Value::Int(i64::MIN))),
            (DataType::Int, "18446744073709551615", Some(Value::Uint(u64::MAX))),
            (DataType::Int, "5.0", Some(Value::Int(5))),
            (DataType::Int, "5.5", None),
            (DataType::Int, "1e300", None),
            (DataType::Int, "", None),
            (DataType::Double, "9007199254740993", Some(Value::Int(9_007_199_254_740_993))),
            (DataType::Float, "2.5", Some(Value::Float(2.5))),
            (DataType::Float, "NaN", None),
            (DataType::Float, "inf", None),
            (DataType::Boolean, "True", Some(Value::Bool(true))),
            (DataType::Boolean, "yes", None),
            (DataType::String, " a ", Some(Value::Text(" a ".into()))),
            (DataType::Bytes, "AP8=", Some(Value::Bytes(vec![0, 255]))),
            (DataType::Bytes, "?", None),
            (DataType::Stream, "x", None),
        ];
        for (data_type, text, expected) in table {
            assert_eq!(Value::parse(data_type, text).ok(), expected, "{data_type:?} {text:?}");
        }
    }

    #[test]
    fn values_become_what_the_model_says() {
        let table = [
            (Value::Float(3.0), DataType::Int, Some(Value::Int(3))),
            (Value::Float(3.5), DataType::Int, None),
            (Value::Int(3), DataType::Double, Some(Value::Int(3))),
            (Value::Int(1), DataType::Boolean, Some(Value::Bool(true))),
            (Value::Int(2), DataType::Boolean, None),
            (Value::Bool(true), DataType::Int, Some(Value::Int(1))),
            (Value::Int(7), DataType::String, Some(Value::Text("7".into()))),
            (Value::Text("7".into()), DataType::Int, Some(Value::Int(7))),
            (Value::Text("ab".into()), DataType::Bytes, Some(Value::Bytes(b"ab".to_vec()))),
        ];
        for (value, data_type, expected) in table {
            assert_eq!(value.clone().cast(data_type).ok(), expected, "{value:?} as {data_type:?}");
        }
    }

    #[test]
    fn a_range_is_exact() {
        let big = Value::Int(i64::MAX);
        assert!(big.check_range("", "9223372036854775807").is_ok());
        assert!(matches!(big.check_range("", "9223372036854775806"), Err(ValueError::Above { .. })));
        assert!(matches!(Value::Float(-0.1).check_range("0", "1"), Err(ValueError::Below { .. })));
        assert!(Value::Text("x".into()).check_range("0", "1").is_ok());
        assert!(Value::Int(5).check_range("?", "").is_ok());
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let long = "x".repeat(MAX_BYTES + 1);
        assert_eq!(Value::parse(DataType::String, &long), Err(ValueError::Long(MAX_BYTES + 1)));
        assert!(Value::parse(DataType::String, &long[1..]).is_ok());
    }

    #[test]
    fn a_32_bit_number_is_shown_as_it_is() {
        assert_eq!(Value::from(0.1_f32).to_text(), "0.1");
        assert_eq!(Value::Float(1e21).to_text(), "1000000000000000000000");
    }

    proptest! {
        #[test]
        fn numbers_keep_their_precision(int: i64, uint: u64, float in proptest::num::f64::NORMAL, single in proptest::num::f32::NORMAL) {
            prop_assert!(Value::parse(DataType::Int, &Value::Int(int).to_text()).unwrap().same(&Value::Int(int)));
            prop_assert!(Value::parse(DataType::Int, &Value::Uint(uint).to_text()).unwrap().same(&Value::Uint(uint)));
            prop_assert_eq!(Value::parse(DataType::Double, &Value::Float(float).to_text()).unwrap().as_f64(), Some(float));
            #[allow(clippy::cast_possible_truncation)]
            let back = Value::from(single).as_f64().unwrap() as f32;
            prop_assert_eq!(back, single);
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            for data_type in [DataType::Int, DataType::Double, DataType::Boolean, DataType::Bytes] {
                if let Ok(value) = Value::parse(data_type, &text) {
                    prop_assert!(Value::parse(data_type, &value.to_text()).unwrap().same(&value));
                }
            }
        }
    }
}
