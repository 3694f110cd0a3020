//! A question as it came from the network, read in place: nothing is copied but its name, in lower case.
//!
//! Called by both listeners for every packet before anything else looks at it. A question of a million a minute is
//! answered from a cache, so this reads what a cache needs and no more; whoever needs more uses hickory.
//!
//! Invariants: no packet makes it panic, allocate or loop; a packet that is itself an answer is never answered; a name
//! is at most [`MAX_NAME`] bytes and holds no pointer.

/// Longest name in its form on the wire (RFC 1035 §2.3.4).
pub(crate) const MAX_NAME: usize = 255;
/// Longest label.
const MAX_LABEL: usize = 63;
/// Bytes of a header.
pub(crate) const HEADER: usize = 12;
/// What a client without EDNS takes (RFC 1035 §4.2.1).
pub(crate) const PLAIN_UDP: usize = 512;

const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
const FLAG_CHECKING_DISABLED: u16 = 0x0010;
const FLAG_DNSSEC_OK: u16 = 0x8000;

/// Numbers of types and classes that are treated by name here.
pub(crate) mod number {
    pub(crate) const HINFO: u16 = 13;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const ANY: u16 = 255;
    pub(crate) const IN: u16 = 1;
}

/// Response codes that are said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    FormatError = 1,
    ServerFailure = 2,
    NotImplemented = 4,
    Refused = 5,
    BadVersion = 16,
}

/// A name in its form on the wire, in lower case.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    bytes: [u8; MAX_NAME],
    length: u8,
}

impl Name {
    /// Labels with their lengths, the root at the end.
    pub(crate) fn wire(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// A name from its text, which has no escapes: names of this process only.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut name = Self { bytes: [0; MAX_NAME], length: 0 };
        for label in text.trim_end_matches('.').split('.').filter(|_| !text.is_empty()) {
            if label.is_empty() || label.len() > MAX_LABEL {
                return None;
            }
            name.push(&[u8::try_from(label.len()).ok()?])?;
            name.push(label.as_bytes())?;
        }
        name.push(&[0])?;
        Some(name)
    }

    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let from = usize::from(self.length);
        let to = from.checked_add(bytes.len())?;
        let into = self.bytes.get_mut(from..to)?;
        into.copy_from_slice(bytes);
        // Lengths of labels are below 64 and stay: `A` is 65.
        into.make_ascii_lowercase();
        self.length = u8::try_from(to).ok()?;
        Some(())
    }

    /// Whether it is `zone` or lies below it.
    pub(crate) fn is_below(&self, zone: &Self) -> bool {
        let (name, zone) = (self.wire(), zone.wire());
        let Some(cut) = name.len().checked_sub(zone.len()) else {
            return false;
        };
        if name.get(cut..) != Some(zone) {
            return false;
        }
        // The same bytes may also begin within a label.
        let mut at = 0;
        while at < cut {
            at += 1 + usize::from(name.get(at).copied().unwrap_or_default());
        }
        at == cut
    }

    /// As people write it, without the last dot. What no host name has is escaped (RFC 4343 §2.1).
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(usize::from(self.length));
        let mut rest = self.wire();
        while let Some((&length, tail)) = rest.split_first()
            && length > 0
        {
            let (label, tail) = tail.split_at_checked(usize::from(length)).unwrap_or((tail, &[]));
            if !text.is_empty() {
                text.push('.');
            }
            for &byte in label {
                if byte.is_ascii_graphic() && byte != b'.' && byte != b'\\' {
                    text.push(char::from(byte));
                } else {
                    text.push_str(&format!("\\{byte:03}"));
                }
            }
            rest = tail;
        }
        text
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}

/// What the client said about extensions (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    /// Bytes of an answer that it takes over UDP.
    pub(crate) payload: u16,
    /// Whether it wants signatures.
    pub(crate) dnssec_ok: bool,
}

/// What an answer takes over from its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo {
    pub(crate) id: u16,
    pub(crate) opcode: u8,
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    pub(crate) edns: Option<Edns>,
}

/// A question. `section` is the question section as it came, with the case that the client chose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) echo: Echo,
    pub(crate) section: &'a [u8],
    pub(crate) name: Name,
    pub(crate) kind: u16,
    pub(crate) class: u16,
}

/// Why a packet is not a question that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Too short, or itself an answer: saying anything could begin a loop between two servers.
    Ignore,
    /// To be answered with a code and no question.
    Answer(Echo, Code),
}

impl<'a> Query<'a> {
    /// Reads a packet.
    pub(crate) fn parse(packet: &'a [u8]) -> Result<Self, Malformed> {
        let word = |at: usize| -> Option<u16> {
            let bytes = packet.get(at..at.checked_add(2)?)?;
            Some(u16::from_be_bytes(bytes.try_into().ok()?))
        };
        let (Some(id), Some(flags), true) = (word(0), word(2), packet.len() >= HEADER) else {
            return Err(Malformed::Ignore);
        };
        if flags & FLAG_RESPONSE != 0 {
            return Err(Malformed::Ignore);
        }
        let opcode = u8::try_from((flags >> 11) & 0xf).unwrap_or_default();
        let mut echo = Echo {
            id,
            opcode,
            recursion_desired: flags & FLAG_RECURSION_DESIRED != 0,
            checking_disabled: flags & FLAG_CHECKING_DISABLED != 0,
            edns: None,
        };
        if opcode != 0 {
            return Err(Malformed::Answer(echo, Code::NotImplemented));
        }
        let wrong = Malformed::Answer(echo, Code::FormatError);
        if (word(4), word(6), word(8)) != (Some(1), Some(0), Some(0)) {
            return Err(wrong);
        }
        let (name, mut at) = read_name(packet, HEADER).ok_or(wrong)?;
        let (kind, class) = (word(at).ok_or(wrong)?, word(at + 2).ok_or(wrong)?);
        at += 4;
        let section = packet.get(HEADER..at).ok_or(wrong)?;
        for _ in 0..word(10).ok_or(wrong)? {
            let owner = at;
            at = skip_name(packet, at).ok_or(wrong)?;
            let (kind, payload) = (word(at).ok_or(wrong)?, word(at + 2).ok_or(wrong)?);
            let (version, flags) = (word(at + 4).ok_or(wrong)? & 0xff, word(at + 6).ok_or(wrong)?);
            let length = usize::from(word(at + 8).ok_or(wrong)?);
            if kind == number::OPT {
                // One at most, and it belongs to the root (RFC 6891 §6.1.1).
                if echo.edns.is_some() || at != owner + 1 {
                    return Err(wrong);
                }
                echo.edns = Some(Edns { payload, dnssec_ok: flags & FLAG_DNSSEC_OK != 0 });
                if version != 0 {
                    return Err(Malformed::Answer(echo, Code::BadVersion));
                }
            }
            at += 10 + length;
            if at > packet.len() {
                return Err(wrong);
            }
        }
        Ok(Self { echo, section, name, kind, class })
    }

    /// What is the same for every client that may get the same answer.
    pub(crate) fn key(&self) -> Key {
        let dnssec_ok = self.echo.edns.is_some_and(|edns| edns.dnssec_ok);
        Key::new(&self.name, self.kind, dnssec_ok, self.echo.checking_disabled)
    }
}

/// Name, type, and the two flags that change an answer: what caches and coalescing go by.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    bytes: [u8; MAX_NAME + 3],
    length: usize,
}

impl Key {
    pub(crate) fn new(name: &Name, kind: u16, dnssec_ok: bool, checking_disabled: bool) -> Self {
        let [high, low] = kind.to_be_bytes();
        let mut key = Self { bytes: [0; MAX_NAME + 3], length: name.wire().len() + 3 };
        let tail = [high, low, u8::from(dnssec_ok) | u8::from(checking_disabled) << 1];
        for (into, from) in key.bytes.iter_mut().zip(name.wire().iter().chain(&tail)) {
            *into = *from;
        }
        key
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// A name without pointers, as a question has it; and where it ends.
fn read_name(packet: &[u8], mut at: usize) -> Option<(Name, usize)> {
    let mut name = Name { bytes: [0; MAX_NAME], length: 0 };
    loop {
        let length = usize::from(*packet.get(at)?);
        if length > MAX_LABEL {
            return None;
        }
        let end = at + 1 + length;
        name.push(packet.get(at..end)?)?;
        at = end;
        if length == 0 {
            return Some((name, at));
        }
    }
}

/// Where the name at `at` ends, also if it ends in a pointer.
pub(crate) fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*packet.get(at)?);
        match length {
            0 => return Some(at + 1),
            1..=MAX_LABEL => at += 1 + length,
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
