//! One question to one name server: over UDP, and over TCP when the answer does not fit.
//!
//! Called by [`super::forward`] and by the search for loops. Each question has a socket of its own, connected, on a port
//! that the kernel chose, and a random id (RFC 5452): nobody who is not on the path can answer in place of the server.
//! Packets that are not the answer are ignored up to a number.
//!
//! The caller sets the deadline by dropping the future, which closes the socket.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::packet::MAX_UDP;
use crate::query;

/// Longest answer over UDP that is read. More than was offered to the server, in case that it does not care.
const MAX_RECEIVE: usize = 4096;
/// Packets that are not the answer: a few may be late ones, many are somebody who guesses.
const MAX_STRAY: usize = 32;

/// A question for a name server.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) name: query::Name,
    pub(crate) kind: u16,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
}

/// Why there is no answer. Each is a reason to ask the next server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The server cannot be reached.
    #[error("the name server cannot be reached")]
    Io(#[from] io::Error),
    /// It said something, again and again, that is not the answer.
    #[error("the name server answers something else")]
    Stray,
    /// What it said is not a message.
    #[error("the answer cannot be read")]
    Malformed,
}

/// Asks one server.
pub(crate) async fn ask(server: SocketAddr, question: &Question) -> Result<Message, ExchangeError> {
    let answer = once(server, question, true).await?;
    // Some boxes in homes do not know EDNS (RFC 6891 §6.2.2).
    if matches!(answer.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp) {
        return once(server, question, false).await;
    }
    Ok(answer)
}

async fn once(server: SocketAddr, question: &Question, edns: bool) -> Result<Message, ExchangeError> {
    let (request, bytes) = request(question, edns)?;
    let answer = over_udp(server, &request, &bytes).await?;
    if answer.metadata.truncation { over_tcp(server, &request, &bytes).await } else { Ok(answer) }
}

fn request(question: &Question, edns: bool) -> Result<(Message, Vec<u8>), ExchangeError> {
    let name = Name::read(&mut BinDecoder::new(question.name.wire())).map_err(|_| ExchangeError::Malformed)?;
    let mut query = Query::query(name, RecordType::from(question.kind));
    query.set_query_class(DNSClass::IN);
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = question.checking_disabled;
    message.add_query(query);
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(u16::try_from(MAX_UDP).unwrap_or(u16::MAX)).set_dnssec_ok(question.dnssec_ok);
        message.set_edns(edns);
    }
    let bytes = message.to_vec().map_err(|_| ExchangeError::Malformed)?;
    Ok((message, bytes))
}

async fn over_udp(server: SocketAddr, request: &Message, bytes: &[u8]) -> Result<Message, ExchangeError> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; MAX_RECEIVE];
    for _ in 0..MAX_STRAY {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = buffer.get(..length).and_then(|bytes| read(request, bytes)) {
            return Ok(answer);
        }
    }
    Err(ExchangeError::Stray)
}

async fn over_tcp(server: SocketAddr, request: &Message, bytes: &[u8]) -> Result<Message, ExchangeError> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let length = u16::try_from(bytes.len()).map_err(|_| ExchangeError::Malformed)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    read(request, &buffer).ok_or(ExchangeError::Malformed)
}

/// The answer, if these bytes are it.
fn read(request: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.metadata.id == request.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.metadata.op_code == OpCode::Query;
    // A code that says that nothing was understood may come without the question.
    let refused = answer.queries.is_empty()
        && !matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
    (same && (answer.queries == request.queries || refused)).then_some(answer)
}
