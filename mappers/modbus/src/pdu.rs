//! Requests and their answers, the same on every line. No IO.

use crate::plan::{Kind, Span};

/// Set in the function of an answer that is an exception.
pub(crate) const EXCEPTION: u8 = 0x80;

/// A request to a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Functions 1 to 4.
    Read(Span),
    /// Function 5.
    WriteCoil(u16, bool),
    /// Function 6.
    WriteRegister(u16, u16),
    /// Function 15.
    WriteCoils(u16, Vec<bool>),
    /// Function 16.
    WriteRegisters(u16, Vec<u16>),
}

/// Why an answer has no data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The unit answered that it does not do it.
    #[error("exception {code} ({})", exception(*.0), code = .0)]
    Exception(u8),
    /// Nothing came in time.
    #[error("nothing came within {0} ms")]
    Silent(u128),
    /// What came is no answer to the request.
    #[error("{0}")]
    Garbage(String),
}

impl Request {
    /// The function's number.
    pub(crate) fn function(&self) -> u8 {
        match self {
            Self::Read(Span { kind: Kind::Coil, .. }) => 1,
            Self::Read(Span { kind: Kind::DiscreteInput, .. }) => 2,
            Self::Read(Span { kind: Kind::Holding, .. }) => 3,
            Self::Read(Span { kind: Kind::Input, .. }) => 4,
            Self::WriteCoil(..) => 5,
            Self::WriteRegister(..) => 6,
            Self::WriteCoils(..) => 15,
            Self::WriteRegisters(..) => 16,
        }
    }

    /// Its bytes, from the function on.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut pdu = vec![self.function()];
        let mut word = |word: u16| pdu.extend(word.to_be_bytes());
        match self {
            Self::Read(span) => {
                word(span.start);
                word(span.count);
            }
            Self::WriteCoil(address, on) => {
                word(*address);
                word(if *on { 0xFF00 } else { 0 });
            }
            Self::WriteRegister(address, value) => {
                word(*address);
                word(*value);
            }
            Self::WriteCoils(address, bits) => {
                word(*address);
                word(length(bits.len()));
                let packed: Vec<u8> = bits.chunks(8).map(pack).collect();
                pdu.push(small(packed.len()));
                pdu.extend(packed);
            }
            Self::WriteRegisters(address, words) => {
                word(*address);
                word(length(words.len()));
                pdu.push(small(words.len() * 2));
                pdu.extend(words.iter().flat_map(|word| word.to_be_bytes()));
            }
        }
        pdu
    }

    /// Length of an answer that is no exception, from the function on.
    pub(crate) fn answer_length(&self) -> usize {
        match self {
            Self::Read(span) => 2 + data_length(*span),
            _ => 5,
        }
    }

    /// The data of an answer, which begins with the function.
    ///
    /// # Errors
    /// The device's exception, or why this is no answer to the request.
    pub(crate) fn accept(&self, pdu: &[u8]) -> Result<Vec<u8>, Failure> {
        match (self, pdu) {
            (_, [function, code]) if *function == self.function() | EXCEPTION => Err(Failure::Exception(*code)),
            (_, [function, ..]) if *function != self.function() => Err(Failure::Garbage(format!(
                "the answer is of function {function}, and {} was asked",
                self.function()
            ))),
            (Self::Read(span), [_, count, data @ ..]) => {
                let wanted = data_length(*span);
                if usize::from(*count) != wanted || data.len() != wanted {
                    let came = data.len();
                    return Err(Failure::Garbage(format!("{wanted} bytes were asked, {count} announced, {came} came")));
                }
                Ok(data.to_vec())
            }
            // Functions 5, 6, 15 and 16 say again what they did: address, then value or count.
            (_, echo) if echo.len() == 5 && self.encode().starts_with(echo) => Ok(Vec::new()),
            _ => Err(Failure::Garbage("the answer says that something else was written".to_owned())),
        }
    }
}

fn data_length(span: Span) -> usize {
    if span.kind.is_bit() { usize::from(span.count).div_ceil(8) } else { usize::from(span.count) * 2 }
}

fn pack(bits: &[bool]) -> u8 {
    bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit))
}

fn length(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

fn small(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

/// The specification's name of an exception.
fn exception(code: u8) -> &'static str {
    match code {
        1 => "illegal function: the device does not know this kind of registers",
        2 => "illegal data address: the device has no such register",
        3 => "illegal data value",
        4 => "server device failure",
        5 => "acknowledge: the device is still at it",
        6 => "server device busy",
        7 => "negative acknowledge",
        8 => "memory parity error",
        10 => "gateway path unavailable",
        11 => "gateway target device failed to respond",
        _ => "not in the specification",
    }
}

#[cfg(test)]
#[path = "pdu_tests.rs"]
mod tests;
