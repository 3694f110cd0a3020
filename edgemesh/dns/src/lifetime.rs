//! For how long an upstream's answer may be believed.
//!
//! Pure. Records say it themselves; that there is nothing is believed as long as the zone's SOA says (RFC 2308), and
//! not at all without one. That no server could help is kept for a moment only (RFC 9520 §3.2 asks for at least one
//! second and at most five minutes), so that the node recovers as soon as its link does.

use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

/// Longest time for records: a mistake in a zone shall be over after a day.
const MAX_POSITIVE: u32 = 24 * 3600;
/// Longest time for nothing (RFC 2308 §5 says one to three hours).
const MAX_NEGATIVE: u32 = 3600;
/// After a failure, with nothing to give in its place.
pub(crate) const FAILURE: Duration = Duration::from_secs(1);
/// After a failure that something stale can stand in for (RFC 8767 §5: "no more frequently than every 30 seconds").
pub(crate) const FAILURE_WITH_STALE: Duration = Duration::from_secs(30);

/// What an answer is to a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// It has records of the type that was asked for.
    pub(crate) positive: bool,
    /// Zero: it is for who asked, and nobody else.
    pub(crate) ttl: Duration,
}

/// Of an answer that is NOERROR or NXDOMAIN.
pub(crate) fn of(message: &Message, kind: u16) -> Lifetime {
    let kind = RecordType::from(kind);
    let positive = message.metadata.response_code == ResponseCode::NoError
        && message.answers.iter().any(|record| record.record_type() == kind);
    let answers = message.answers.iter().map(|record| seconds(record.ttl)).min();
    let ttl = if positive {
        answers.unwrap_or(0).min(MAX_POSITIVE)
    } else {
        let soa = message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(seconds(record.ttl).min(seconds(soa.minimum))),
            _ => None,
        });
        // An alias whose target has nothing ends with whichever ends first.
        soa.unwrap_or(0).min(answers.unwrap_or(u32::MAX)).min(MAX_NEGATIVE)
    };
    Lifetime { positive, ttl: Duration::from_secs(ttl.into()) }
}

/// The highest bit means none (RFC 2181 §8).
fn seconds(ttl: u32) -> u32 {
    if i32::try_from(ttl).is_ok() { ttl } else { 0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::rdata::{A, CNAME, SOA};
    use hickory_proto::rr::{Name, Record};

    use super::*;

    const A_RECORD: u16 = 1;

    fn name() -> Name {
        Name::from_ascii("www.example.").unwrap()
    }

    fn a(ttl: u32) -> Record {
        Record::from_rdata(name(), ttl, RData::A(A([192, 0, 2, 1].into())))
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        Record::from_rdata(name(), ttl, RData::SOA(SOA::new(name(), name(), 1, 2, 3, 4, minimum)))
    }

    fn message(code: ResponseCode, answers: &[Record], authorities: &[Record]) -> Message {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message.add_answers(answers.to_vec());
        message.add_authorities(authorities.to_vec());
        message
    }

    #[test]
    fn records_live_as_long_as_the_shortest_and_nothing_as_long_as_its_soa() {
        let cname = Record::from_rdata(name(), 5, RData::CNAME(CNAME(name())));
        let cases = [
            (message(ResponseCode::NoError, &[a(30), a(20)], &[]), true, 20),
            (message(ResponseCode::NoError, &[a(0)], &[]), true, 0),
            (message(ResponseCode::NoError, &[a(u32::MAX)], &[]), true, 0),
            (message(ResponseCode::NoError, &[a(1 << 30)], &[]), true, MAX_POSITIVE),
            (message(ResponseCode::NoError, &[], &[]), false, 0),
            (message(ResponseCode::NoError, &[], &[soa(60, 30)]), false, 30),
            (message(ResponseCode::NXDomain, &[], &[soa(10, 30)]), false, 10),
            (message(ResponseCode::NXDomain, &[], &[soa(1 << 30, 1 << 30)]), false, MAX_NEGATIVE),
            (message(ResponseCode::NoError, &[cname], &[soa(60, 30)]), false, 5),
        ];
        for (message, positive, ttl) in cases {
            let expected = Lifetime { positive, ttl: Duration::from_secs(ttl.into()) };
            assert_eq!(of(&message, A_RECORD), expected, "{message}");
        }
    }
}
