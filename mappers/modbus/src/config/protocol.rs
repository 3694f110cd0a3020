//! `protocol.configData`: the line, the unit on it, and what the device can bear.
//!
//! Three ways of writing it are known, and may be mixed: flat keys as in KubeEdge's mapper framework
//! (`communicateMode`, `ip`, `port`, `serialName`, …), the nested ones of mappers-go (`modbus.slaveID`,
//! `common.tcp.ip`, `common.com.serialPort`, `common.customizedValues.serialType`), and our own.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};
use skerry_mapper_sdk::{ConfigError, Keys};

use super::visitor::REGISTERS;
use crate::plan::{Hole, Limits};

/// Longest wait for an answer where the Device says none: many times what a slow device needs. The time that the
/// bytes take on a serial line is added to it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// Milliseconds that a timeout may be.
const TIMEOUTS: std::ops::RangeInclusive<u32> = 10..=60_000;
/// Port of Modbus TCP.
const DEFAULT_PORT: u16 = 502;
/// The specification's default speed.
const DEFAULT_BAUD: u32 = 19_200;
/// Requests under way at a time: what the messaging guide's `NumberMaxOfServerTransaction` is at most.
const MAX_PIPELINE: u32 = 16;
/// Holes that a Device may list; each is looked at for each merged read.
const MAX_HOLES: usize = 256;

/// The line and the unit of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct ProtocolConfig {
    /// Where the line is.
    pub endpoint: Endpoint,
    /// `slaveID`: the unit on the line.
    pub unit: u8,
    /// `timeout`: longest wait for one answer, without the time that the bytes take on a serial line.
    pub timeout: Duration,
    /// `collectRetryTimes`: how often a read is tried again after an answer that was none or garbage.
    pub retries: u32,
    /// `pipeline`: requests that may be under way at a time (TCP).
    pub pipeline: usize,
    /// What one request may ask for.
    pub limits: Limits,
    /// `writeFunction`: which functions the device understands.
    pub write: WriteFunction,
}

/// Where a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Modbus TCP.
    Tcp {
        /// Name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// Modbus RTU.
    Serial(SerialConfig),
}

/// A serial line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialConfig {
    /// `serialPort`: path of the device file.
    pub path: String,
    /// Bits a second.
    pub baud_rate: u32,
    /// 7 or 8.
    pub data_bits: u8,
    /// Parity of each byte.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// `rs485Enabled`: the port's own RS-485 mode is switched on.
    pub rs485: bool,
}

/// Parity of each byte on a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// No parity bit.
    None,
    /// Even.
    Even,
    /// Odd.
    Odd,
}

/// Functions for writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFunction {
    /// 5 and 6 for one coil or register, 15 and 16 for more.
    Auto,
    /// Always 15 and 16.
    Multiple,
}

impl ProtocolConfig {
    /// Reads the configuration of a device.
    ///
    /// # Errors
    /// Names the key and what would be right.
    pub fn parse(object: Map<String, Value>) -> Result<Self, ConfigError> {
        let mut keys = Keys::new(object)?;
        keys.absorb("common")?;
        for inner in ["modbus", "tcp", "com", "customizedValues"] {
            keys.absorb(inner)?;
        }
        let endpoint = endpoint(&mut keys)?;
        let unit = unit(&mut keys, &endpoint)?;
        let timeout = keys.integer("timeout", TIMEOUTS)?;
        let collect = keys.integer("collectTimeout", TIMEOUTS)?;
        let timeout = timeout.or(collect).map_or(DEFAULT_TIMEOUT, |ms| Duration::from_millis(u64::from(ms)));
        let retries = keys.integer("collectRetryTimes", 0..=10)?.unwrap_or(0);
        let pipeline = keys.integer("pipeline", 1..=MAX_PIPELINE)?.unwrap_or(1);
        if pipeline > 1 && matches!(endpoint, Endpoint::Serial(_)) {
            return Err(ConfigError::invalid("pipeline", "a serial line carries one request at a time; remove it"));
        }
        let write = [("auto", WriteFunction::Auto), ("multiple", WriteFunction::Multiple)];
        let write = keys.word("writeFunction", &write)?.unwrap_or(WriteFunction::Auto);
        let limits = limits(&mut keys)?;
        // The connection is kept and tried again for ever, and reads never block one another.
        for settled in ["reconnTimeout", "reconnRetryTimes", "collectType"] {
            keys.ignore(settled);
        }
        keys.finish()?;
        Ok(Self { endpoint, unit, timeout, retries, pipeline: pipeline as usize, limits, write })
    }
}

fn endpoint(keys: &mut Keys) -> Result<Endpoint, ConfigError> {
    let modes = [("TCP", false), ("RTU", true), ("serial", true)];
    let communicate = keys.word("communicateMode", &modes)?;
    let comm_type = keys.word("commType", &modes)?;
    let mode = communicate.or(comm_type);
    let host = keys.text("ip")?;
    let port = keys.integer("port", 1..=65_535)?;
    let serial = serial(keys)?;
    match (mode, host, serial) {
        (Some(true), None, Some(serial)) | (None, None, Some(serial)) => {
            if port.is_some() {
                return Err(ConfigError::invalid("port", "belongs to TCP; a serial line has `serialPort`"));
            }
            Ok(Endpoint::Serial(serial))
        }
        (Some(true), _, None) => {
            Err(ConfigError::Missing { key: "serialPort", fix: "an RTU device needs one, as in /dev/ttyS0" })
        }
        (Some(true), Some(_), _) => Err(ConfigError::invalid("ip", "belongs to TCP, and the mode is RTU; remove one")),
        (Some(false), _, Some(_)) => {
            Err(ConfigError::invalid("serialPort", "belongs to RTU, and the mode is TCP; remove one"))
        }
        (None, Some(_), Some(_)) => {
            Err(ConfigError::invalid("serialPort", "and `ip` are both there: keep one, or say communicateMode"))
        }
        (Some(false) | None, Some(host), None) => {
            let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(DEFAULT_PORT);
            Ok(Endpoint::Tcp { host, port })
        }
        (Some(false) | None, None, None) => Err(ConfigError::Missing {
            key: "ip",
            fix: "a TCP device needs `ip` (and `port`, 502 without), an RTU device `serialPort`",
        }),
    }
}

fn serial(keys: &mut Keys) -> Result<Option<SerialConfig>, ConfigError> {
    let port = keys.text("serialPort")?;
    let name = keys.text("serialName")?;
    let baud_rate = keys.integer("baudRate", 50..=4_000_000)?;
    let data_bits = keys.integer("dataBits", 5..=8)?;
    let parities = [
        ("none", Parity::None),
        ("even", Parity::Even),
        ("odd", Parity::Odd),
        ("N", Parity::None),
        ("E", Parity::Even),
        ("O", Parity::Odd),
    ];
    let parity = keys.word("parity", &parities)?;
    let stop_bits = keys.integer("stopBits", 1..=2)?;
    let kind = keys.word("serialType", &[("RS232", false), ("RS485", true)])?;
    let rs485 = keys.boolean("rs485Enabled")?;
    let path = match (port, name) {
        (Some(_), Some(_)) => {
            return Err(ConfigError::invalid("serialName", "says the same as `serialPort`; keep one"));
        }
        (Some(path), None) | (None, Some(path)) => path,
        (None, None) => return Ok(None),
    };
    if !path.starts_with("/dev/") || path.contains("/../") {
        return Err(ConfigError::invalid("serialPort", format!("`{path}` is not a path below /dev")));
    }
    let data_bits = data_bits.unwrap_or(8);
    if data_bits < 8 {
        return Err(ConfigError::invalid(
            "dataBits",
            "RTU sends bytes and needs 8; 7 is Modbus ASCII, which is not served",
        ));
    }
    let bits = |value: Option<u32>, default| value.and_then(|bits| u8::try_from(bits).ok()).unwrap_or(default);
    Ok(Some(SerialConfig {
        path,
        baud_rate: baud_rate.unwrap_or(DEFAULT_BAUD),
        data_bits: bits(Some(data_bits), 8),
        // KubeEdge's mappers take none where nothing is said; the specification's default would be even.
        parity: parity.unwrap_or(Parity::None),
        stop_bits: bits(stop_bits, 1),
        rs485: rs485.or(kind).unwrap_or(false),
    }))
}

fn unit(keys: &mut Keys, endpoint: &Endpoint) -> Result<u8, ConfigError> {
    let unit = keys.integer("slaveID", 0..=255)?;
    match (endpoint, unit) {
        // Unit 0 of a TCP device is the device itself; KubeEdge's mappers send it where nothing is said.
        (Endpoint::Tcp { .. }, unit) => Ok(unit.and_then(|unit| u8::try_from(unit).ok()).unwrap_or(0)),
        (Endpoint::Serial(_), Some(unit @ 1..=247)) => Ok(u8::try_from(unit).unwrap_or(u8::MAX)),
        (Endpoint::Serial(_), Some(unit)) => {
            Err(ConfigError::invalid("slaveID", format!("{unit} is no unit of a serial line: 1 to 247")))
        }
        (Endpoint::Serial(_), None) => {
            Err(ConfigError::Missing { key: "slaveID", fix: "each unit of a serial line has a number from 1 to 247" })
        }
    }
}

fn limits(keys: &mut Keys) -> Result<Limits, ConfigError> {
    let standard = Limits::default();
    let word = |value: Option<u32>, default| value.and_then(|value| u16::try_from(value).ok()).unwrap_or(default);
    let registers = keys.integer("maxRegisters", 1..=u32::from(standard.registers))?;
    let coils = keys.integer("maxCoils", 1..=u32::from(standard.coils))?;
    let gap = keys.integer("maxGap", 0..=u32::from(standard.registers))?;
    let coil_gap = keys.integer("maxCoilGap", 0..=u32::from(standard.coils))?;
    let mut holes = Vec::new();
    for mut hole in keys.objects("holes")? {
        let kind = hole.word("register", REGISTERS)?;
        let kind = kind.ok_or(ConfigError::Missing { key: "holes.register", fix: "which registers the hole is in" })?;
        let start = hole.integer("offset", 0..=65_535)?;
        let start = start.ok_or(ConfigError::Missing { key: "holes.offset", fix: "where the hole begins" })?;
        let count = hole.integer("limit", 1..=65_536 - start)?.unwrap_or(1);
        hole.finish()?;
        holes.push(Hole { kind, start, end: start + count });
    }
    if holes.len() > MAX_HOLES {
        let problem = format!("{} holes are too many, at most {MAX_HOLES}; set maxGap to 0 instead", holes.len());
        return Err(ConfigError::invalid("holes", problem));
    }
    Ok(Limits {
        registers: word(registers, standard.registers),
        coils: word(coils, standard.coils),
        gap: word(gap, standard.gap),
        coil_gap: word(coil_gap, standard.coil_gap),
        holes,
    })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Serial(serial) => f.write_str(&serial.path),
        }
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
