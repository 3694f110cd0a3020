//! `visitors.configData`: where a property is in the unit, and how its registers are read.

use serde_json::{Map, Value};
use skerry_mapper_sdk::{ConfigError, Keys};

use crate::plan::Kind;
use crate::scale::Scale;

/// Names of the register kinds: KubeEdge's, and the specification's.
pub(crate) const REGISTERS: &[(&str, Kind)] = &[
    ("CoilRegister", Kind::Coil),
    ("DiscreteInputRegister", Kind::DiscreteInput),
    ("InputRegister", Kind::Input),
    ("HoldingRegister", Kind::Holding),
    ("Coil", Kind::Coil),
    ("DiscreteInput", Kind::DiscreteInput),
    ("Input", Kind::Input),
    ("Holding", Kind::Holding),
];

/// What `dataType` says. KubeEdge's names say what a value is for people, and `limit` how wide it is; ours say
/// what is in the registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declared {
    /// `int`: unsigned, as wide as `limit`.
    Int,
    /// `float`: as wide as `limit`; one register is a whole number.
    Float,
    /// `double`: the same, four registers without a `limit`.
    Double,
    /// `boolean`: anything but zero is true.
    Boolean,
    /// `string`: two characters in each register.
    Text,
    /// `bytes`: the registers as they are.
    Bytes,
    /// `uint16`, `uint32`, `uint64`: this many registers.
    Unsigned(u16),
    /// `int16`, `int32`, `int64`: this many registers, two's complement.
    Signed(u16),
    /// `float32`, `float64`: this many registers, IEEE 754.
    Ieee(u16),
}

const TYPES: &[(&str, Declared)] = &[
    ("int", Declared::Int),
    ("float", Declared::Float),
    ("double", Declared::Double),
    ("boolean", Declared::Boolean),
    ("string", Declared::Text),
    ("bytes", Declared::Bytes),
    ("uint16", Declared::Unsigned(1)),
    ("uint32", Declared::Unsigned(2)),
    ("uint64", Declared::Unsigned(4)),
    ("int16", Declared::Signed(1)),
    ("int32", Declared::Signed(2)),
    ("int64", Declared::Signed(4)),
    ("float32", Declared::Ieee(2)),
    ("float64", Declared::Ieee(4)),
    ("bool", Declared::Boolean),
    ("u16", Declared::Unsigned(1)),
    ("u32", Declared::Unsigned(2)),
    ("u64", Declared::Unsigned(4)),
    ("i16", Declared::Signed(1)),
    ("i32", Declared::Signed(2)),
    ("i64", Declared::Signed(4)),
    ("f32", Declared::Ieee(2)),
    ("f64", Declared::Ieee(4)),
];

/// Bits of the registers, counted from the least significant one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitRange {
    /// `bit`: the lowest one.
    pub first: u8,
    /// `bitCount`.
    pub count: u8,
}

/// Where a property is in the unit.
#[derive(Debug, Clone, PartialEq)]
pub struct VisitorConfig {
    /// `register`.
    pub kind: Kind,
    /// `offset`: the address as it is on the wire, from 0.
    pub offset: u16,
    /// `limit`: registers or coils; nothing where the type says it.
    pub limit: Option<u16>,
    /// `dataType`; nothing where the model's type is meant.
    pub data_type: Option<Declared>,
    /// `bit` and `bitCount`.
    pub bits: Option<BitRange>,
    /// `scale` and `valueOffset`.
    pub scale: Scale,
    /// `isSwap` or `byteOrder: little`: the bytes of each register are the wrong way round.
    pub swap_bytes: bool,
    /// `isRegisterSwap` or `wordOrder: little`: the least significant register comes first.
    pub swap_words: bool,
}

impl VisitorConfig {
    /// Reads the configuration of a property.
    ///
    /// # Errors
    /// Names the key and what would be right.
    pub fn parse(object: Map<String, Value>) -> Result<Self, ConfigError> {
        let mut keys = Keys::new(object)?;
        let kind = keys.word("register", REGISTERS)?;
        let kind = kind.ok_or(ConfigError::Missing {
            key: "register",
            fix: "one of CoilRegister, DiscreteInputRegister, InputRegister, HoldingRegister",
        })?;
        let word = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let offset = keys.integer("offset", 0..=65_535)?;
        let offset = offset.ok_or(ConfigError::Missing { key: "offset", fix: "the address on the wire, from 0" })?;
        // KubeEdge's structs have 0 where nothing is written.
        let limit = keys.integer("limit", 0..=u32::from(kind.most()))?.filter(|limit| *limit > 0).map(word);
        let data_type = keys.word("dataType", TYPES)?;
        let scale = Scale::new(keys.number("scale")?.unwrap_or(0.0), keys.number("valueOffset")?.unwrap_or(0.0));
        let swap_bytes = order(&mut keys, "byteOrder", "isSwap")?;
        let swap_words = order(&mut keys, "wordOrder", "isRegisterSwap")?;
        let bits = bits(&mut keys)?;
        // Thresholds of KubeEdge's example, and the place where its framework keeps a desired value.
        for other in ["max", "min", "value"] {
            keys.ignore(other);
        }
        keys.finish()?;
        let scale = scale?;
        Ok(Self { kind, offset: word(offset), limit, data_type, bits, scale, swap_bytes, swap_words })
    }
}

/// Whether the order is the other way round than the specification's.
fn order(keys: &mut Keys, ours: &'static str, kubeedge: &'static str) -> Result<bool, ConfigError> {
    let little = keys.word(ours, &[("big", false), ("little", true)])?;
    let swapped = keys.boolean(kubeedge)?;
    match (little, swapped) {
        (Some(little), Some(swapped)) if little != swapped => {
            Err(ConfigError::invalid(ours, format!("says the opposite of `{kubeedge}`; keep one of them")))
        }
        (little, swapped) => Ok(little.or(swapped).unwrap_or(false)),
    }
}

fn bits(keys: &mut Keys) -> Result<Option<BitRange>, ConfigError> {
    let first = keys.integer("bit", 0..=63)?;
    let count = keys.integer("bitCount", 1..=64)?;
    let Some(first) = first else {
        return match count {
            None => Ok(None),
            Some(_) => Err(ConfigError::Missing { key: "bit", fix: "with `bitCount`, the lowest bit, from 0" }),
        };
    };
    let byte = |value: u32| u8::try_from(value).unwrap_or(u8::MAX);
    Ok(Some(BitRange { first: byte(first), count: byte(count.unwrap_or(1)) }))
}

#[cfg(test)]
#[path = "visitor_tests.rs"]
mod tests;
