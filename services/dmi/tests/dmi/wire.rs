//! Protobuf and gRPC by hand: what goes over the sockets is written and read here byte by byte, so that a
//! number that is wrong in the generated code is wrong in a test.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};

/// A message in the making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message(pub(crate) Vec<u8>);

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

impl Message {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        varint(&mut self.0, field << 3 | 2);
        varint(&mut self.0, value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub(crate) fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    pub(crate) fn int(mut self, field: u64, value: u64) -> Self {
        varint(&mut self.0, field << 3);
        varint(&mut self.0, value);
        self
    }
}

/// A field as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Field {
    Int(u64),
    Fixed32(u32),
    Bytes(Vec<u8>),
}

/// The fields of a message in their order.
pub(crate) fn read(mut data: &[u8]) -> Vec<(u64, Field)> {
    fn number(data: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = data[0];
            *data = &data[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    let mut fields = Vec::new();
    while !data.is_empty() {
        let tag = number(&mut data);
        let field = match tag & 7 {
            0 => Field::Int(number(&mut data)),
            5 => {
                let (value, rest) = data.split_at(4);
                data = rest;
                Field::Fixed32(u32::from_le_bytes(value.try_into().unwrap()))
            }
            2 => {
                let length = number(&mut data) as usize;
                let (value, rest) = data.split_at(length);
                data = rest;
                Field::Bytes(value.to_vec())
            }
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, field));
    }
    fields
}

/// All values of a field that holds text or messages.
pub(crate) fn all(data: &[u8], number: u64) -> Vec<Vec<u8>> {
    let take = |(found, field)| match field {
        Field::Bytes(value) if found == number => Some(value),
        _ => None,
    };
    read(data).into_iter().filter_map(take).collect()
}

/// The one message of a field; empty where there is none.
pub(crate) fn one(data: &[u8], number: u64) -> Vec<u8> {
    let mut found = all(data, number);
    assert!(found.len() <= 1, "field {number} is there {} times", found.len());
    found.pop().unwrap_or_default()
}

/// The text of a field.
pub(crate) fn text(data: &[u8], number: u64) -> String {
    String::from_utf8(one(data, number)).unwrap()
}

/// The number of a field; 0 where there is none.
pub(crate) fn int(data: &[u8], number: u64) -> u64 {
    read(data)
        .into_iter()
        .find_map(|(n, f)| matches!(f, Field::Int(_)).then_some((n, f)).filter(|(n, _)| *n == number))
        .map_or(0, |(_, f)| match f {
            Field::Int(value) => value,
            _ => 0,
        })
}

/// A map of text to messages or text.
pub(crate) fn map(data: &[u8], number: u64) -> std::collections::BTreeMap<String, Vec<u8>> {
    all(data, number).into_iter().map(|entry| (text(&entry, 1), one(&entry, 2))).collect()
}

/// A message as it is sent.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

/// A unary call with the bytes of a message. Answers the code, its message, and the bytes of the reply.
pub(crate) async fn call(socket: &Path, path: &str, message: &Message) -> (i32, String, Vec<u8>) {
    try_call(socket, path, message).await.expect("nobody answers")
}

/// As [`call`]; nothing when nobody answers.
pub(crate) async fn try_call(socket: &Path, path: &str, message: &Message) -> Option<(i32, String, Vec<u8>)> {
    send(socket, path, framed(&message.0)).await
}

/// As [`try_call`], with a body that need not be a message.
pub(crate) async fn send(socket: &Path, path: &str, body: Bytes) -> Option<(i32, String, Vec<u8>)> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body))
        .unwrap();
    let response = sender.send_request(request).await.ok()?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.ok()?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let header = |name: &str| {
        let value = parts.headers.get(name).or_else(|| trailers.get(name));
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let (code, words) =
        (header("grpc-status")?, header("grpc-message").unwrap_or_default().replace("%20", " ").replace("%22", "\""));
    let bytes = body.to_bytes();
    driver.abort();
    Some((code.parse().unwrap(), words, bytes.get(5..).unwrap_or_default().to_vec()))
}

/// A call that a mapper got.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    /// The last part of the path.
    pub(crate) method: String,
    pub(crate) body: Vec<u8>,
}

/// What a mapper's server answers to a method.
pub(crate) type Answers = Arc<dyn Fn(&str) -> Option<(i32, &'static str)> + Send + Sync>;

/// A mapper's server that knows no generated code: it notes what it gets.
pub(crate) struct MapperServer {
    got: Arc<Mutex<Vec<Got>>>,
    accept: tokio::task::AbortHandle,
}

impl Drop for MapperServer {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl MapperServer {
    /// Serves at a path, in place of what is there. `answers` gives an error, or nothing for a good answer;
    /// a code of -1 hangs.
    pub(crate) fn start(path: &Path, answers: Answers) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let noted = Arc::clone(&got);
        let accept = tokio::spawn(async move {
            // Its connections end with it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (noted, answers) = (Arc::clone(&noted), Arc::clone(&answers));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (noted, answers) = (Arc::clone(&noted), Arc::clone(&answers));
                    async move { Ok::<_, std::convert::Infallible>(answer(request, &noted, &answers).await) }
                });
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                connections.spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { got, accept: accept.abort_handle() }
    }

    /// One that takes everything.
    pub(crate) fn willing(path: &Path) -> Self {
        Self::start(path, Arc::new(|_| None))
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// The methods that were called, in order.
    pub(crate) fn methods(&self) -> Vec<String> {
        self.got().into_iter().map(|got| got.method).collect()
    }

    /// Bodies of the calls of a method.
    pub(crate) fn bodies(&self, method: &str) -> Vec<Vec<u8>> {
        self.got().into_iter().filter(|got| got.method == method).map(|got| got.body).collect()
    }
}

type Body = StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, std::convert::Infallible>>>>;

async fn answer(request: Request<Incoming>, noted: &Mutex<Vec<Got>>, answers: &Answers) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let method = path.strip_prefix("/v1beta1.DeviceMapperService/").unwrap_or(&path).to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    noted.lock().unwrap().push(Got { method: method.clone(), body: body.get(5..).unwrap_or_default().to_vec() });
    let (code, words) = answers(&method).unwrap_or((0, ""));
    if code < 0 {
        std::future::pending::<()>().await;
    }
    let mut trailers = hyper::HeaderMap::new();
    trailers.insert("grpc-status", code.to_string().parse().unwrap());
    trailers.insert("grpc-message", words.parse().unwrap());
    let mut frames = Vec::new();
    if code == 0 {
        frames.push(Ok(Frame::data(framed(&[]))));
    }
    frames.push(Ok(Frame::trailers(trailers)));
    let body = StreamBody::new(futures::stream::iter(frames));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}
