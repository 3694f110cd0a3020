//! The driver: devices are units, points are registers, a bus is a TCP endpoint or a serial port.
//!
//! Called by the SDK, one call at a time for each line. What a device has taught about its holes lives as long
//! as its description: it survives the loss of a line and is forgotten when the Device changes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use skerry_mapper_sdk as sdk;
use skerry_mapper_sdk::{Fault, Sample, Value};

use crate::codec::{self, Write};
use crate::config::{ProtocolConfig, VisitorConfig, WriteFunction};
use crate::format::Format;
use crate::line::{Line, Lost, Outcome};
use crate::pdu::{Failure, Request};
use crate::plan::{self, Block, Learned, Span};

/// Requests that one read may split. More points than that may be missing in a device that was described
/// wrongly; the rest is found in the next rounds.
const MAX_SPLITS: usize = 32;

/// Answers that a device says no with because of the addresses, so that fewer of them may work: illegal address,
/// and illegal value, which is what some devices say of too long a read.
const REFUSALS: [u8; 2] = [2, 3];

/// Answers of a gateway whose device is not there.
const GATEWAY: [u8; 2] = [10, 11];

/// The protocol.
#[derive(Debug, Clone, Copy, Default)]
pub struct Modbus;

/// A unit on a line.
#[derive(Debug)]
pub struct Unit {
    /// As the Device describes it.
    pub config: ProtocolConfig,
    learned: Mutex<Learned>,
}

/// A line to some units.
#[derive(Debug)]
pub struct Connection {
    line: Line,
    /// Of the device that it was opened for.
    config: ProtocolConfig,
}

type Device = sdk::Device<Modbus>;
type Point = sdk::Point<Modbus>;

impl sdk::Driver for Modbus {
    type Protocol = Unit;
    type Visitor = VisitorConfig;
    type Connection = Connection;

    fn bus(&self, device: &Device) -> Result<String, Fault> {
        for point in &device.points {
            format(device, point)?;
        }
        Ok(device.protocol.config.endpoint.to_string())
    }

    async fn connect(&self, device: &Device) -> Result<Connection, Fault> {
        let config = device.protocol.config.clone();
        let line = Line::open(&config).await.map_err(|error| Fault::lost(&error))?;
        Ok(Connection { line, config })
    }

    /// Each request has its own, shorter limit; this one is for all that a read may take at the worst.
    fn deadline(&self, device: &Device) -> Duration {
        let config = &device.protocol.config;
        let requests = device.points.len() + 2 * MAX_SPLITS;
        config.timeout * (u32::try_from(requests).unwrap_or(u32::MAX).saturating_mul(config.retries + 1))
    }
}

impl sdk::Connection<Modbus> for Connection {
    async fn read(&mut self, device: &Device, points: &[&Point]) -> Result<Vec<Sample>, Fault> {
        self.same_line(device)?;
        let formats = points.iter().map(|point| format(device, point)).collect::<Result<Vec<_>, _>>()?;
        let mut round = Round::new(device, points, formats);
        let mut blocks = round.plan();
        while !blocks.is_empty() {
            let requests: Vec<Request> = blocks.iter().map(|block| Request::Read(block.span)).collect();
            let outcomes = self.line.exchange(&device.protocol.config, &requests).await.map_err(lost)?;
            blocks = blocks.iter().zip(outcomes).flat_map(|(block, outcome)| round.take(block, outcome)).collect();
        }
        round.end()
    }

    async fn write(&mut self, device: &Device, point: &Point, value: &Value) -> Result<(), Fault> {
        self.same_line(device)?;
        let format = format(device, point)?;
        let span = format.span;
        if !span.kind.writable() {
            return Err(Fault::Refused(format!("{} is in a kind of registers that is read only", point.name())));
        }
        let config = &device.protocol.config;
        let request = match codec::encode(&format, &point.visitor, value).map_err(Fault::Refused)? {
            Write::Coils(coils) => coils_request(config.write, span, coils),
            Write::Registers(words) => registers_request(config.write, span, words),
            Write::Masked { mask, bits } => {
                // Nobody else writes through this line meanwhile; what the device itself changes between the
                // read and the write is overwritten.
                let data = self.one(config, Request::Read(span)).await?;
                let now = data.chunks(2).map(|pair| pair.iter().fold(0_u16, |word, byte| word << 8 | u16::from(*byte)));
                let words = now.zip(mask).zip(bits).map(|((now, mask), bits)| now & !mask | bits).collect();
                registers_request(config.write, span, words)
            }
        };
        self.one(config, request).await.map(|_| ())
    }

    async fn check(&mut self, device: &Device) -> Result<(), Fault> {
        self.same_line(device)?;
        let Some(point) = device.points.first() else { return Ok(()) };
        let span = format(device, point)?.span;
        match self.one(&device.protocol.config, Request::Read(span)).await {
            // It said no, so it is there.
            Err(Fault::Refused(_)) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

impl Connection {
    /// Devices of one port must agree on how it is set.
    fn same_line(&self, device: &Device) -> Result<(), Fault> {
        let wanted = &device.protocol.config.endpoint;
        if *wanted == self.config.endpoint {
            return Ok(());
        }
        let problem = "baudRate, parity, stopBits and rs485Enabled must be those of the port's other devices";
        Err(Fault::Config(format!("{wanted} is open with other settings: {problem}")))
    }

    async fn one(&mut self, config: &ProtocolConfig, request: Request) -> Result<Vec<u8>, Fault> {
        let outcomes = self.line.exchange(config, &[request]).await.map_err(lost)?;
        let outcome = outcomes.into_iter().next().unwrap_or(Err(Failure::Silent(0)));
        outcome.map_err(|failure| fault(&failure))
    }
}

/// One read of the points that are due.
struct Round<'a> {
    device: &'a Device,
    points: &'a [&'a Point],
    formats: Vec<Format>,
    spans: Vec<Span>,
    samples: Vec<Option<Sample>>,
    /// Requests that were split, and how many more may be.
    split: Vec<Span>,
    splits_left: usize,
    /// Whether the unit itself said anything.
    answered: bool,
    /// The first failure that was not a no.
    failure: Option<Failure>,
}

impl<'a> Round<'a> {
    fn new(device: &'a Device, points: &'a [&'a Point], formats: Vec<Format>) -> Self {
        let spans = formats.iter().map(|format| format.span).collect();
        let samples = vec![None; points.len()];
        let splits_left = MAX_SPLITS;
        Self { device, points, formats, spans, samples, split: Vec::new(), splits_left, answered: false, failure: None }
    }

    fn learned<T>(&self, with: impl FnOnce(&mut Learned) -> T) -> T {
        with(&mut self.device.protocol.learned.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn plan(&mut self) -> Vec<Block> {
        let plan = self.learned(|learned| plan::plan(&self.spans, &self.device.protocol.config.limits, learned));
        for (index, problem) in plan.paused {
            self.put(index, Sample::bad(problem));
        }
        plan.blocks
    }

    /// Takes an answer; gives what to ask for instead when it was refused.
    fn take(&mut self, block: &Block, outcome: Outcome) -> Vec<Block> {
        match outcome {
            Ok(data) => {
                self.answered = true;
                for index in &block.points {
                    self.decode(*index, block.span, &data);
                }
                if block.points.len() == 1 {
                    self.learned(|learned| learned.healed(block.span));
                }
                Vec::new()
            }
            Err(Failure::Exception(code)) if REFUSALS.contains(&code) => {
                self.answered = true;
                self.refused(block, &Failure::Exception(code))
            }
            Err(failure) => {
                self.answered |= matches!(failure, Failure::Exception(code) if !GATEWAY.contains(&code));
                self.bad(block, &failure.to_string());
                self.failure.get_or_insert(failure);
                Vec::new()
            }
        }
    }

    fn refused(&mut self, block: &Block, failure: &Failure) -> Vec<Block> {
        let problem = failure.to_string();
        if block.points.len() > 1 && self.splits_left == 0 {
            self.bad(block, "not asked yet: the device refuses to answer for all of its neighbours together");
            return Vec::new();
        }
        match self.learned(|learned| learned.refused(block, &self.spans, &problem)) {
            None => {
                self.bad(block, &problem);
                Vec::new()
            }
            Some(halves) => {
                self.splits_left -= 1;
                self.split.push(block.span);
                halves.into()
            }
        }
    }

    fn decode(&mut self, index: usize, block: Span, data: &[u8]) {
        let (Some(format), Some(point)) = (self.formats.get(index), self.points.get(index)) else { return };
        let first = usize::from(format.span.start.saturating_sub(block.start));
        let count = usize::from(format.span.count);
        let bits;
        let own = if format.span.kind.is_bit() {
            bits = pick_bits(data, first, count);
            Some(bits.as_slice())
        } else {
            data.get(2 * first..2 * (first + count))
        };
        let value = codec::decode(format, &point.visitor, point.data_type(), own.unwrap_or_default());
        self.put(index, value.map_or_else(Sample::bad, Sample::good));
    }

    fn bad(&mut self, block: &Block, problem: &str) {
        for index in &block.points {
            self.put(*index, Sample::bad(problem));
        }
    }

    fn put(&mut self, index: usize, sample: Sample) {
        if let Some(place) = self.samples.get_mut(index) {
            *place = Some(sample);
        }
    }

    fn end(self) -> Result<Vec<Sample>, Fault> {
        if self.splits_left > 0 {
            self.learned(|learned| self.split.iter().for_each(|span| learned.settled(*span)));
        }
        match self.failure {
            Some(failure) if !self.answered => Err(fault(&failure)),
            _ => {
                let missing = || Sample::bad("not asked");
                Ok(self.samples.into_iter().map(|sample| sample.unwrap_or_else(missing)).collect())
            }
        }
    }
}

/// `count` bits from `first` on, packed from bit 0.
fn pick_bits(data: &[u8], first: usize, count: usize) -> Vec<u8> {
    let bit = |at: usize| data.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
    let mut packed = vec![0_u8; count.div_ceil(8)];
    for (place, byte) in packed.iter_mut().enumerate() {
        let own = (8 * place..count.min(8 * place + 8)).filter(|at| bit(first + at));
        *byte = own.fold(0, |byte, at| byte | 1 << (at % 8));
    }
    packed
}

fn coils_request(write: WriteFunction, span: Span, coils: Vec<bool>) -> Request {
    match *coils.as_slice() {
        [coil] if write == WriteFunction::Auto => Request::WriteCoil(span.start, coil),
        _ => Request::WriteCoils(span.start, coils),
    }
}

fn registers_request(write: WriteFunction, span: Span, words: Vec<u16>) -> Request {
    match *words.as_slice() {
        [word] if write == WriteFunction::Auto => Request::WriteRegister(span.start, word),
        _ => Request::WriteRegisters(span.start, words),
    }
}

fn format(device: &Device, point: &Point) -> Result<Format, Fault> {
    let limits = &device.protocol.config.limits;
    Format::new(&point.visitor, point.data_type(), limits)
        .map_err(|error| Fault::Config(format!("property {}: visitors.configData: {error}", point.name())))
}

fn lost(error: Lost) -> Fault {
    Fault::Lost(error.0)
}

fn fault(failure: &Failure) -> Fault {
    match failure {
        Failure::Exception(code) if !GATEWAY.contains(code) => Fault::refused(failure),
        Failure::Exception(_) | Failure::Silent(_) | Failure::Garbage(_) => Fault::silent(failure),
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = ProtocolConfig::parse(Deserialize::deserialize(deserializer)?).map_err(D::Error::custom)?;
        Ok(Self { config, learned: Mutex::default() })
    }
}

impl<'de> Deserialize<'de> for VisitorConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(Deserialize::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
