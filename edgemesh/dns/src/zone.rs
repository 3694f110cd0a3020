//! Names of the cluster: where their answers come from, and how they are written as a message.
//!
//! What the answers are is decided in `skerry-mesh-core`; here is only who holds the present table, and the form of
//! the wire. While the table is not known yet nothing is said about the cluster, least of all that a name does not
//! exist.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HINFO, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use skerry_mesh_core::Table;
use skerry_mesh_core::names::{self, Answer, Domain, Kind};

use crate::query;

/// Answers about the cluster. Asked for every question that could be about it; must not block.
pub trait Zone: Send + Sync + 'static {
    /// Another number whenever an answer may have changed; it only grows.
    fn generation(&self) -> u64;

    /// The answer, or nothing while the cluster is not known yet.
    fn answer(&self, question: &names::Question<'_>) -> Option<Answer>;
}

/// The zone of a table that is replaced as a whole.
#[derive(Debug)]
pub struct ClusterZone {
    domain: Domain,
    table: RwLock<Option<Arc<Table>>>,
    generation: AtomicU64,
}

impl ClusterZone {
    /// A zone that knows nothing yet.
    pub fn new(domain: Domain) -> Self {
        Self { domain, table: RwLock::new(None), generation: AtomicU64::new(0) }
    }

    /// Answers from this table from now on.
    pub fn publish(&self, table: Arc<Table>) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Some(table);
        // After the table: an answer of the new number is never from the old table.
        self.generation.fetch_add(1, Ordering::Release);
    }
}

impl Zone for ClusterZone {
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn answer(&self, question: &names::Question<'_>) -> Option<Answer> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(names::answer(question, &table, &self.domain))
    }
}

/// The kind of a number.
pub(crate) fn kind(number: u16) -> Kind {
    match RecordType::from(number) {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::CNAME => Kind::Cname,
        RecordType::PTR => Kind::Ptr,
        RecordType::SRV => Kind::Srv,
        RecordType::TXT => Kind::Txt,
        RecordType::SOA => Kind::Soa,
        RecordType::NS => Kind::Ns,
        _ => Kind::Other,
    }
}

/// An empty answer to this question.
pub(crate) fn message(name: &query::Name, kind: u16) -> Option<Message> {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    let mut query = Query::query(wire_name(name)?, RecordType::from(kind));
    query.set_query_class(DNSClass::IN);
    message.add_query(query);
    message.metadata.recursion_available = true;
    Some(message)
}

/// A question for everything there is: a record that says to ask for a type (RFC 8482).
pub(crate) fn any(name: &query::Name) -> Option<Message> {
    let mut message = message(name, query::number::ANY)?;
    let data = RData::HINFO(HINFO::new("RFC8482".into(), String::new()));
    message.add_answer(Record::from_rdata(wire_name(name)?, ANY_TTL, data));
    Some(message)
}

/// As in the example of RFC 8482.
const ANY_TTL: u32 = 3789;

/// Adds what the core decided. Nothing when a name of it cannot be written, which core does not make.
pub(crate) fn add(message: &mut Message, answer: &Answer) -> Option<()> {
    message.metadata.authoritative = true;
    match answer {
        Answer::Elsewhere => return None,
        Answer::Records { answers, additionals } => {
            message.answers.extend(records(answers)?);
            message.additionals.extend(records(additionals)?);
        }
        Answer::Alias { cname, .. } => message.answers.push(record(cname)?),
        Answer::NoData { soa } => message.authorities.push(record(soa)?),
        Answer::NxDomain { soa } => {
            message.metadata.response_code = ResponseCode::NXDomain;
            message.authorities.push(record(soa)?);
        }
    }
    Some(())
}

fn records(records: &[names::Record]) -> Option<Vec<Record>> {
    records.iter().map(record).collect()
}

fn record(record: &names::Record) -> Option<Record> {
    let data = match &record.data {
        names::Data::A(address) => RData::A(A(*address)),
        names::Data::Aaaa(address) => RData::AAAA(AAAA(*address)),
        names::Data::Cname(target) => RData::CNAME(CNAME(text_name(target)?)),
        names::Data::Ptr(target) => RData::PTR(PTR(text_name(target)?)),
        names::Data::Ns(target) => RData::NS(NS(text_name(target)?)),
        names::Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        names::Data::Srv { priority, weight, port, target } => {
            RData::SRV(SRV::new(*priority, *weight, *port, text_name(target)?))
        }
        names::Data::Soa { server, mailbox, serial, refresh, retry, expire, minimum } => {
            let (server, mailbox) = (text_name(server)?, text_name(mailbox)?);
            RData::SOA(SOA::new(server, mailbox, *serial, *refresh, *retry, *expire, *minimum))
        }
    };
    Some(Record::from_rdata(text_name(&record.name)?, record.ttl, data))
}

fn text_name(text: &str) -> Option<Name> {
    wire_name(&query::Name::from_text(text)?)
}

pub(crate) fn wire_name(name: &query::Name) -> Option<Name> {
    Name::read(&mut BinDecoder::new(name.wire())).ok()
}
