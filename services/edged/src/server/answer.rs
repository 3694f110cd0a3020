//! Answers: text, JSON, and bodies that are made while they are sent.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

/// The body of every answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub(super) type Answer = Response<Body>;

pub(super) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

fn of(status: StatusCode, kind: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// Plain text: what errors are.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    of(status, "text/plain; charset=utf-8", body(text.into()))
}

/// JSON that is known to be such.
pub(super) fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => of(StatusCode::OK, "application/json", body(bytes)),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Whatever comes out of the channel, as it comes.
pub(super) fn streamed(chunks: mpsc::Receiver<Bytes>) -> Answer {
    let frames = ReceiverStream::new(chunks).map(|bytes| Ok(Frame::data(bytes)));
    of(StatusCode::OK, "text/plain; charset=utf-8", StreamBody::new(frames).boxed_unsync())
}
