//! An answer as it is kept: the bytes of a message, and where in them are the fields that differ each time it is sent.
//!
//! Made once per answer with hickory, which checks what an upstream sent and brings it into one form: no EDNS, names
//! compressed. Sent often: a copy, then the id, the flags, the question in the client's own case, the time to live that
//! is left, a turn of the addresses so that not everybody takes the first, and a cut at what the client can take.
//!
//! Invariants: the marks are in order and within the message; what is sent is never longer than asked for; what does
//! not fit is cut between two records and marked as truncated, unless only additional records are missing.

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::RecordType;

use crate::query::{Code, Echo, HEADER, PLAIN_UDP, Query, number, skip_name};

/// Longest answer over UDP, whatever the client takes: fits into one packet of every path (DNS flag day 2020).
pub(crate) const MAX_UDP: usize = 1232;
/// Longest answer over TCP.
pub(crate) const MAX_TCP: usize = 65_535;
/// Bytes of an empty OPT record.
const OPT_BYTES: usize = 11;
/// What may be known of a stale record's end: nothing; clients shall ask again soon (RFC 8767 §4).
const STALE_TTL: u32 = 30;

pub(crate) const NO_ERROR: u16 = 0;
pub(crate) const NX_DOMAIN: u16 = 3;

const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_AUTHORITATIVE: u16 = 0x0400;
const FLAG_TRUNCATED: u16 = 0x0200;
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;
const FLAG_CHECKING_DISABLED: u16 = 0x0010;
const FLAG_DNSSEC_OK: u16 = 0x8000;

/// Why an answer is what it is, for people (RFC 8914).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Explanation(pub(crate) u16, pub(crate) &'static str);

impl Explanation {
    pub(crate) const STALE: Self = Self(3, "the name servers of this node do not answer");
    pub(crate) const STALE_NX: Self = Self(19, "the name servers of this node do not answer");
    pub(crate) const NOT_READY: Self = Self(14, "the services of the cluster are not known yet");
    pub(crate) const UNREACHABLE: Self = Self(22, "no name server of this node answers");
    pub(crate) const NO_SERVER: Self = Self(22, "this node has no name server");
    pub(crate) const BUSY: Self = Self(0, "too many questions at once");
    pub(crate) const LOOP: Self = Self(0, "this is the node's own question: a loop");
    pub(crate) const ALIASES: Self = Self(0, "too many aliases one after the other");
    pub(crate) const ANY: Self = Self(21, "ask for a type");

    fn bytes(self) -> usize {
        6 + self.1.len()
    }
}

/// How much of an answer's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// So many seconds.
    Seconds(u32),
    /// All of it; it is better than nothing.
    Stale,
}

/// Where a record keeps its time to live, and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    ttl: u16,
    end: u16,
}

/// Addresses one after the other, each as long as the others: they can be turned in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    from: usize,
    each: usize,
    count: usize,
}

/// See the module documentation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    wire: Box<[u8]>,
    marks: Box<[Mark]>,
    /// Records of the answer, the authority and the additional section.
    counts: [usize; 3],
    run: Option<Run>,
    code: u16,
    authoritative: bool,
    truncated: bool,
}

impl Packet {
    /// Keeps a message with one question.
    ///
    /// None when it cannot be written as a message, which a message that was read always can.
    pub(crate) fn new(mut message: Message) -> Option<Self> {
        message.metadata.id = 0;
        message.metadata.message_type = MessageType::Response;
        message.edns = None;
        message.signature = None;
        let code = u16::from(message.metadata.response_code);
        // The upper bits belong into OPT, which is made anew for each client.
        message.metadata.response_code = ResponseCode::NoError;
        let authoritative = message.metadata.authoritative;
        // More records than a message can hold are left out here, and said to be.
        let mut wire = message.to_vec().ok()?;
        let word = |at: usize| Some(u16::from_be_bytes(wire.get(at..at + 2)?.try_into().ok()?));
        let truncated = word(2)? & FLAG_TRUNCATED != 0;
        let counts = [word(6)?.into(), word(8)?.into(), word(10)?.into()];
        let (marks, run, end) = mark(&wire, counts)?;
        // Behind it may be the beginning of a record that did not fit.
        wire.truncate(end);
        Some(Self { wire: wire.into(), marks: marks.into(), counts, run, code, authoritative, truncated })
    }

    /// Memory that it takes, nearly.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.wire.len() + self.marks.len() * size_of::<Mark>()
    }

    pub(crate) fn code(&self) -> u16 {
        self.code
    }

    /// The message again, with what is left of its time.
    pub(crate) fn message(&self, age: Age) -> Option<Message> {
        let mut wire = self.wire.to_vec();
        self.age(&mut wire, age);
        let mut message = Message::from_vec(&wire).ok()?;
        message.metadata.response_code = self.code.into();
        message.metadata.authoritative = self.authoritative;
        Some(message)
    }

    /// Writes the answer to `query` into `out`, at most `limit` bytes.
    pub(crate) fn write(
        &self,
        query: &Query<'_>,
        age: Age,
        turn: usize,
        explanation: Option<Explanation>,
        limit: usize,
        out: &mut Vec<u8>,
    ) {
        out.clear();
        out.extend_from_slice(&self.wire);
        put(out, HEADER, query.section);
        self.age(out, age);
        if let Some(run) = self.run
            && let Some(bytes) = out.get_mut(run.from..run.from + run.each * run.count)
        {
            bytes.rotate_left(turn % run.count * run.each);
        }
        let (counts, truncated) = self.cut(limit.saturating_sub(opt_bytes(&query.echo, None)), out);
        let mut flags = self.code & 0xf;
        if truncated || self.truncated {
            flags |= FLAG_TRUNCATED;
        }
        if self.authoritative {
            flags |= FLAG_AUTHORITATIVE;
        }
        finish(&query.echo, flags, self.code >> 4, counts, explanation, limit, out);
    }

    fn age(&self, wire: &mut [u8], age: Age) {
        for mark in &self.marks {
            let at = usize::from(mark.ttl);
            let Some(field) = wire.get_mut(at..at + 4) else {
                continue;
            };
            let ttl = match age {
                Age::Stale => STALE_TTL,
                Age::Seconds(seconds) => {
                    field.iter().fold(0, |ttl: u32, byte| ttl << 8 | u32::from(*byte)).saturating_sub(seconds)
                }
            };
            field.copy_from_slice(&ttl.to_be_bytes());
        }
    }

    /// Cuts off what is above the limit; how many records are left, and whether one that matters is missing.
    fn cut(&self, limit: usize, out: &mut Vec<u8>) -> ([usize; 3], bool) {
        if out.len() <= limit {
            return (self.counts, false);
        }
        let kept = self.marks.partition_point(|mark| usize::from(mark.end) <= limit);
        let end = match kept.checked_sub(1).and_then(|last| self.marks.get(last)) {
            Some(mark) => usize::from(mark.end),
            None => self.question_end(),
        };
        out.truncate(end);
        let mut left = kept;
        let counts = self.counts.map(|count| {
            let here = count.min(left);
            left -= here;
            here
        });
        (counts, kept < self.counts[0] + self.counts[1])
    }

    fn question_end(&self) -> usize {
        skip_name(&self.wire, HEADER).map_or(HEADER, |end| end + 4)
    }
}

/// Writes an answer without records into `out`: a code, and why.
pub(crate) fn write_error(
    echo: &Echo,
    section: Option<&[u8]>,
    code: Code,
    explanation: Option<Explanation>,
    out: &mut Vec<u8>,
) {
    out.clear();
    out.resize(HEADER, 0);
    out.extend_from_slice(section.unwrap_or_default());
    if section.is_some() {
        put(out, 4, &1u16.to_be_bytes());
    }
    let code = code as u16;
    finish(echo, code & 0xf, code >> 4, [0; 3], explanation, MAX_UDP, out);
}

/// Bytes that this client takes over UDP.
pub(crate) fn udp_limit(echo: &Echo) -> usize {
    let payload = echo.edns.map_or(PLAIN_UDP, |edns| usize::from(edns.payload));
    payload.clamp(PLAIN_UDP, MAX_UDP)
}

fn opt_bytes(echo: &Echo, explanation: Option<Explanation>) -> usize {
    if echo.edns.is_some() { OPT_BYTES + explanation.map_or(0, Explanation::bytes) } else { 0 }
}

/// Id, flags, counts and OPT. The explanation goes where there is room for it.
fn finish(
    echo: &Echo,
    flags: u16,
    upper_code: u16,
    counts: [usize; 3],
    explanation: Option<Explanation>,
    limit: usize,
    out: &mut Vec<u8>,
) {
    let mut flags = flags | FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | u16::from(echo.opcode) << 11;
    if echo.recursion_desired {
        flags |= FLAG_RECURSION_DESIRED;
    }
    if echo.checking_disabled {
        flags |= FLAG_CHECKING_DISABLED;
    }
    put(out, 0, &echo.id.to_be_bytes());
    put(out, 2, &flags.to_be_bytes());
    let [answers, authorities, mut additionals] = counts;
    if let Some(edns) = echo.edns {
        additionals += 1;
        let explanation = explanation.filter(|_| out.len() + opt_bytes(echo, explanation) <= limit);
        out.push(0);
        out.extend_from_slice(&number::OPT.to_be_bytes());
        out.extend_from_slice(&word(MAX_UDP).to_be_bytes());
        out.extend_from_slice(&[upper_code.to_be_bytes()[1], 0]);
        out.extend_from_slice(&if edns.dnssec_ok { FLAG_DNSSEC_OK } else { 0 }.to_be_bytes());
        out.extend_from_slice(&word(opt_bytes(echo, explanation) - OPT_BYTES).to_be_bytes());
        if let Some(Explanation(code, text)) = explanation {
            // Extended DNS Error.
            out.extend_from_slice(&15u16.to_be_bytes());
            out.extend_from_slice(&word(2 + text.len()).to_be_bytes());
            out.extend_from_slice(&code.to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
    for (at, count) in [(6, answers), (8, authorities), (10, additionals)] {
        put(out, at, &word(count).to_be_bytes());
    }
}

fn word(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(into) = out.get_mut(at..at + bytes.len()) {
        into.copy_from_slice(bytes);
    }
}

/// Finds the records of a message that hickory wrote, and where they end.
fn mark(wire: &[u8], counts: [usize; 3]) -> Option<(Vec<Mark>, Option<Run>, usize)> {
    let word = |at: usize| Some(u16::from_be_bytes(wire.get(at..at + 2)?.try_into().ok()?));
    let mut at = skip_name(wire, HEADER)? + 4;
    let mut marks = Vec::with_capacity(counts.iter().sum());
    let mut run: Option<Run> = None;
    for record in 0..counts.iter().sum() {
        let from = at;
        let fields = skip_name(wire, at)?;
        let kind = RecordType::from(word(fields)?);
        at = fields + 10 + usize::from(word(fields + 8)?);
        marks.push(Mark { ttl: u16::try_from(fields + 4).ok()?, end: u16::try_from(at).ok()? });
        if record < counts[0] && matches!(kind, RecordType::A | RecordType::AAAA) {
            let each = at - from;
            match &mut run {
                Some(run) if run.each == each && run.from + run.each * run.count == from => run.count += 1,
                Some(_) => {}
                // Its owner is a pointer, so that it may stand at another place.
                None if fields == from + 2 => run = Some(Run { from, each, count: 1 }),
                None => {}
            }
        }
    }
    (at <= wire.len()).then_some((marks, run.filter(|run| run.count > 1), at))
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
