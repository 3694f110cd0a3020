//! Modbus RTU: one request at a time on a serial line, frames told apart by silence and a checksum.
//!
//! The line has no transaction ids. So what came before a request is thrown away, an answer must be of the right
//! unit, function and length, and after anything else the line is left until it is silent. What nobody can tell
//! is the answer to an earlier request of the same unit, function and length that comes later than the timeout:
//! a timeout should be longer than the slowest answer.

use std::time::Duration;

use serial2_tokio::{CharSize, SerialPort, Settings, StopBits};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::config::{Parity, SerialConfig};
use crate::line::{Ask, Lost, Outcome};
use crate::pdu::{EXCEPTION, Failure, Request};

const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS);

/// Bytes of the checksum.
const CHECKSUM: usize = 2;

/// Longest frame by the specification.
const FRAME: usize = 256;

/// Silence between frames, in characters, and what it is at least: above 19200 baud the specification fixes it.
const GAP_CHARACTERS: f64 = 3.5;
const MIN_GAP: Duration = Duration::from_micros(1750);

/// Silence after which a frame that is not understood has ended. Longer than the gap, because serial adapters
/// deliver in portions.
const RESYNCHRONISE: Duration = Duration::from_millis(30);

/// An open serial line.
#[derive(Debug)]
pub(crate) struct Rtu {
    port: SerialPort,
    /// Time of one character on the line.
    character: Duration,
    gap: Duration,
    /// When the line was last busy.
    busy: Instant,
}

/// What the bytes that came so far are.
enum Seen {
    /// Not yet an answer.
    More,
    /// The answer, from its function on.
    Answer(Vec<u8>),
    /// Somebody else's.
    Foreign(String),
    /// Nothing that can be understood.
    Broken(String),
}

impl Rtu {
    /// Opens the port. This does not wait for anything.
    pub(crate) fn open(config: &SerialConfig) -> Result<Self, Lost> {
        let settings = |mut settings: Settings| {
            settings.set_raw();
            settings.set_baud_rate(config.baud_rate)?;
            settings.set_char_size(CharSize::Bits8);
            settings.set_parity(match config.parity {
                Parity::None => serial2_tokio::Parity::None,
                Parity::Even => serial2_tokio::Parity::Even,
                Parity::Odd => serial2_tokio::Parity::Odd,
            });
            settings.set_stop_bits(if config.stop_bits == 2 { StopBits::Two } else { StopBits::One });
            Ok(settings)
        };
        let port = SerialPort::open(&config.path, settings)
            .map_err(|error| Lost::io(&format!("cannot open {}", config.path), &error))?;
        if config.rs485 {
            let mode = serial2_tokio::rs4xx::Rs485Config::new();
            port.set_rs4xx_mode(mode).map_err(|error| {
                let what = "the port has no RS-485 mode that can be switched on; remove rs485Enabled or serialType";
                Lost::io(what, &error)
            })?;
        }
        let parity = u8::from(config.parity != Parity::None);
        let bits = f64::from(1 + config.data_bits + parity + config.stop_bits);
        let character = Duration::from_secs_f64(bits / f64::from(config.baud_rate));
        let gap = character.mul_f64(GAP_CHARACTERS).max(MIN_GAP);
        Ok(Self { port, character, gap, busy: Instant::now() })
    }

    /// Sends requests one after another. When one is not answered in time, those after it are not sent.
    pub(crate) async fn exchange(&mut self, ask: &Ask<'_>) -> Result<Vec<Outcome>, Lost> {
        let mut outcomes = Vec::with_capacity(ask.requests.len());
        for request in ask.requests {
            let outcome = self.one(ask.unit, request, ask.timeout).await?;
            let silent = matches!(outcome, Err(Failure::Silent(_)));
            outcomes.push(outcome);
            if silent {
                break;
            }
        }
        outcomes.resize(ask.requests.len(), Err(Failure::Silent(ask.timeout.as_millis())));
        Ok(outcomes)
    }

    async fn one(&mut self, unit: u8, request: &Request, wait: Duration) -> Result<Outcome, Lost> {
        let mut frame = vec![unit];
        frame.extend(request.encode());
        frame.extend(CRC.checksum(&frame).to_le_bytes());
        let characters = u32::try_from(frame.len() + request.answer_length() + 1 + CHECKSUM).unwrap_or(u32::MAX);
        let wait = wait + self.character * characters;
        sleep_until(self.busy + self.gap).await;
        self.port.discard_input_buffer().map_err(|error| Lost::io("cannot read", &error))?;
        match timeout(wait, self.port.write_all(&frame)).await {
            Ok(sent) => sent.map_err(|error| Lost::io("cannot send", &error))?,
            Err(_) => return Err(Lost("the port takes nothing any more".to_owned())),
        }
        let deadline = Instant::now() + wait;
        let mut came = Vec::with_capacity(FRAME);
        let mut foreign = None;
        loop {
            let read = timeout_at(deadline, self.read(&mut came)).await;
            self.busy = Instant::now();
            let Ok(read) = read else {
                return Ok(Err(foreign.map_or(Failure::Silent(wait.as_millis()), Failure::Garbage)));
            };
            read?;
            match seen(unit, request, &came) {
                Seen::More => {}
                Seen::Answer(pdu) => return Ok(request.accept(&pdu)),
                Seen::Foreign(problem) => {
                    self.silence(&mut came).await?;
                    foreign = Some(problem);
                }
                Seen::Broken(problem) => {
                    self.silence(&mut came).await?;
                    return Ok(Err(Failure::Garbage(problem)));
                }
            }
        }
    }

    /// May be dropped while it waits: nothing is lost.
    async fn read(&mut self, came: &mut Vec<u8>) -> Result<(), Lost> {
        let mut some = [0; FRAME];
        let count = self.port.read(&mut some).await.map_err(|error| Lost::io("cannot read", &error))?;
        if count == 0 {
            return Err(Lost("the port is gone".to_owned()));
        }
        came.extend(some.iter().take(count));
        Ok(())
    }

    /// Throws away what comes until the line is silent; at most the longest frame, because a line that is never
    /// silent would be waited for for ever.
    async fn silence(&mut self, came: &mut Vec<u8>) -> Result<(), Lost> {
        let quiet = RESYNCHRONISE.max(self.gap);
        while came.len() < 2 * FRAME {
            match timeout(quiet, self.read(came)).await {
                Ok(read) => read?,
                Err(_) => break,
            }
        }
        came.clear();
        self.busy = Instant::now();
        Ok(())
    }
}

fn seen(unit: u8, request: &Request, came: &[u8]) -> Seen {
    let [who, function, rest @ ..] = came else { return Seen::More };
    if *who != unit {
        return Seen::Foreign(format!("unit {who} answered for unit {unit}"));
    }
    let length = if *function == request.function() | EXCEPTION {
        3 + CHECKSUM
    } else if *function == request.function() {
        // A read says how much it is; if that is not what was asked, nobody knows where the frame ends.
        match (request, rest.first()) {
            (Request::Read(_), Some(count)) if usize::from(*count) + 2 != request.answer_length() => {
                let wanted = request.answer_length() - 2;
                return Seen::Broken(format!("{wanted} bytes were asked, and {count} are announced"));
            }
            _ => 1 + request.answer_length() + CHECKSUM,
        }
    } else {
        return Seen::Broken(format!("the answer is of function {function}, and {} was asked", request.function()));
    };
    let (Some(frame), Some(checksum)) = (came.get(..length - CHECKSUM), came.get(length - CHECKSUM..length)) else {
        return Seen::More;
    };
    if CRC.checksum(frame).to_le_bytes() != checksum {
        return Seen::Broken("the checksum of the answer is wrong".to_owned());
    }
    Seen::Answer(frame.get(1..).unwrap_or_default().to_vec())
}
