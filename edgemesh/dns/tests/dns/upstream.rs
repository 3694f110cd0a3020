//! A name server that does what a test says, and counts what it was asked.

use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// What the server does with a question.
pub(crate) enum Reply {
    /// Sends these, one after the other.
    Send(Vec<Message>),
    /// Sends it after a time.
    After(Duration, Message),
    /// Says nothing.
    Silence,
}

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    Tcp,
}

/// A server that runs until it is dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// How many questions came.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A server with this behaviour on a port of its own. Questions for loops are not counted, and refused.
pub(crate) async fn upstream(behave: impl Fn(&Message, Over) -> Reply + Send + Sync + 'static) -> Upstream {
    let (udp, tcp) = sockets().await;
    serve(udp, tcp, behave)
}

async fn sockets() -> (UdpSocket, TcpListener) {
    for _ in 0..16 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both protocols")
}

/// The same on sockets that are there.
pub(crate) fn serve(
    udp: UdpSocket,
    tcp: TcpListener,
    behave: impl Fn(&Message, Over) -> Reply + Send + Sync + 'static,
) -> Upstream {
    let address = udp.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let behave = Arc::new(move |bytes: &[u8], over| {
        let question = Message::from_vec(bytes).unwrap();
        if question.queries[0].query_type() == hickory_proto::rr::RecordType::HINFO {
            return Reply::Send(vec![code(&question, ResponseCode::NXDomain)]);
        }
        counter.fetch_add(1, Ordering::SeqCst);
        behave(&question, over)
    });
    let mut tasks = JoinSet::new();
    let over_tcp = behave.clone();
    tasks.spawn(async move {
        let udp = Arc::new(udp);
        let mut replies = JoinSet::new();
        let mut buffer = vec![0; 4096];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
            let (reply, udp) = (behave(&buffer[..length], Over::Udp), udp.clone());
            replies.spawn(async move {
                for message in messages(reply).await {
                    let _ = udp.send_to(&message.to_vec().unwrap(), client).await;
                }
            });
        }
    });
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut bytes).await.unwrap();
            for message in messages(over_tcp(&bytes, Over::Tcp)).await {
                let bytes = message.to_vec().unwrap();
                let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length[..], &bytes].concat()).await.unwrap();
            }
        }
    });
    Upstream { address, asked, _tasks: tasks }
}

async fn messages(reply: Reply) -> Vec<Message> {
    match reply {
        Reply::Send(messages) => messages,
        Reply::After(time, message) => {
            tokio::time::sleep(time).await;
            vec![message]
        }
        Reply::Silence => pending().await,
    }
}

/// An empty answer with a code.
pub(crate) fn code(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.add_queries(question.queries.clone());
    answer
}

/// An address for the name that was asked for.
pub(crate) fn address(question: &Message, ttl: u32, last: u8) -> Message {
    let mut answer = code(question, ResponseCode::NoError);
    answer.add_answer(Record::from_rdata(owner(question), ttl, RData::A(A([192, 0, 2, last].into()))));
    answer
}

/// Much text.
pub(crate) fn text(question: &Message, parts: usize) -> Message {
    let mut answer = code(question, ResponseCode::NoError);
    let data = RData::TXT(TXT::new(vec!["x".repeat(200); parts]));
    answer.add_answer(Record::from_rdata(owner(question), 60, data));
    answer
}

/// That there is no such name; for how long, if the server says so.
pub(crate) fn nothing(question: &Message, seconds: Option<u32>) -> Message {
    let mut answer = code(question, ResponseCode::NXDomain);
    if let Some(seconds) = seconds {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let soa = SOA::new(name("ns.example."), name("mail.example."), 1, 2, 3, 4, seconds);
        answer.add_authority(Record::from_rdata(Name::root(), seconds, RData::SOA(soa)));
    }
    answer
}

fn owner(question: &Message) -> Name {
    question.queries[0].name().clone()
}
