//! A log over a WebSocket: the bytes in messages, until the log or the client ends.
//!
//! For clients that cannot read an HTTP body as it comes, such as browsers. Sub-protocols are Kubernetes':
//! `binary.k8s.io` (also when none is named) and `base64.binary.k8s.io`. What the client sends is read and
//! dropped. Limits: one message of the kubelet's chunk at a time; the client's are at most [`MAX_READ`].

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use skerry_apimachinery::ApiError;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::OpenStream;
use crate::state::Api;

/// Bytes of a message from the client: nothing is expected from it.
const MAX_READ: usize = 4_096;

/// How bytes are put into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// As they are, without a name for it.
    Unnamed,
    Binary,
    Base64,
}

impl Protocol {
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Unnamed => None,
            Self::Binary => Some("binary.k8s.io"),
            Self::Base64 => Some("base64.binary.k8s.io"),
        }
    }

    fn message(self, bytes: Bytes) -> Message {
        match self {
            Self::Base64 => Message::text(BASE64.encode(bytes)),
            Self::Unnamed | Self::Binary => Message::binary(bytes),
        }
    }
}

/// What a request asks for. `None`: it is no WebSocket.
pub(super) fn negotiate(headers: &HeaderMap) -> Result<Option<Protocol>, ApiError> {
    let has = |name: header::HeaderName, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(wanted))
    };
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return Ok(None);
    }
    if !headers.contains_key(header::SEC_WEBSOCKET_KEY) || !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(ApiError::BadRequest("the WebSocket handshake is not complete".into()));
    }
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Ok(Some(Protocol::Unnamed));
    }
    let known = [Protocol::Binary, Protocol::Base64];
    let found = known.into_iter().find(|p| p.name().is_some_and(|name| has(header::SEC_WEBSOCKET_PROTOCOL, name)));
    found.map(Some).ok_or_else(|| ApiError::BadRequest("none of the WebSocket protocols is known here".into()))
}

/// Answers the handshake and sends the body in messages from then on.
pub(super) fn serve(
    api: &Api,
    protocol: Protocol,
    mut request: Request,
    mut body: Incoming,
    open: OpenStream,
) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key)) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(name) = protocol.name() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let stopping = api.stopping.clone();
    tokio::spawn(async move {
        let stream = async {
            let Ok(upgraded) = upgrade.await else { return };
            let config = WebSocketConfig::default().max_message_size(Some(MAX_READ)).max_frame_size(Some(MAX_READ));
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
            let (mut to, mut from) = socket.split();
            // Reading answers pings, and tells when the client goes.
            let listen = async { while let Some(Ok(_)) = from.next().await {} };
            let speak = async {
                while let Some(Ok(frame)) = body.frame().await {
                    if let Ok(bytes) = frame.into_data()
                        && to.send(protocol.message(bytes)).await.is_err()
                    {
                        return;
                    }
                }
                let _ = to.close().await;
            };
            tokio::select! {
                () = listen => {}
                () = speak => {}
            }
        };
        tokio::select! {
            () = stream => {}
            () = stopping.cancelled() => {}
            () = tokio::time::sleep(skerry_common::relay::TOTAL) => {}
        }
        drop(open);
    });
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn protocols() {
        let ask = |protocols: Option<&str>, key: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, "keep-alive, Upgrade".parse().unwrap());
            headers.insert(header::UPGRADE, "WebSocket".parse().unwrap());
            headers.insert(header::SEC_WEBSOCKET_VERSION, "13".parse().unwrap());
            if key {
                headers.insert(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
            }
            if let Some(protocols) = protocols {
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
            }
            negotiate(&headers)
        };
        assert_eq!(ask(None, true).unwrap(), Some(Protocol::Unnamed));
        assert_eq!(ask(Some("x, base64.binary.k8s.io"), true).unwrap(), Some(Protocol::Base64));
        assert_eq!(ask(Some("binary.k8s.io, base64.binary.k8s.io"), true).unwrap(), Some(Protocol::Binary));
        assert!(ask(Some("channel.k8s.io"), true).is_err());
        assert!(ask(None, false).is_err());
        assert_eq!(negotiate(&HeaderMap::new()).unwrap(), None);
    }
}
