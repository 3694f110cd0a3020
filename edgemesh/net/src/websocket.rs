//! TCP inside WebSocket, for relays at port 443 of sites that let nothing else out.
//!
//! A transport around the TCP transport: it takes addresses that end in `/ws`, makes the handshake of RFC 6455, and
//! carries bytes in binary messages, as libp2p's own does; that one is not used because it brings a second TLS library
//! into every rustls of the process. Whoever connects is not known before TLS inside has proved it, so messages are
//! bounded before they are read, and the whole handshake has the deadline of every transport here.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures::{AsyncRead, AsyncWrite, FutureExt, Sink, Stream, future::BoxFuture};
use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    multiaddr::Protocol,
    tcp,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async_with_config, client_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// Largest message that is sent or taken, in bytes. Each is copied once; TLS records are smaller.
const MAX_MESSAGE: usize = 64 * 1024;

/// What is asked for. Nobody looks at it.
const REQUEST: &str = "ws://mesh.skerry/";

type Socket = WebSocketStream<Compat<tcp::tokio::TcpStream>>;

/// The transport.
pub(crate) struct Websocket(tcp::tokio::Transport);

impl Websocket {
    pub(crate) fn new(tcp: tcp::tokio::Transport) -> Self {
        Self(tcp)
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_MESSAGE)
}

fn failed(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// The TCP address inside, or `None` when it is not ours.
fn inner(mut address: Multiaddr) -> Option<Multiaddr> {
    let mut end = address.pop();
    if matches!(end, Some(Protocol::P2p(_))) {
        end = address.pop();
    }
    matches!(end, Some(Protocol::Ws(_))).then_some(address)
}

fn outer(address: Multiaddr) -> Multiaddr {
    address.with(Protocol::Ws("/".into()))
}

impl Transport for Websocket {
    type Output = Channel;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, Result<Channel, io::Error>>;
    type Dial = BoxFuture<'static, Result<Channel, io::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let tcp = inner(address.clone()).ok_or(TransportError::MultiaddrNotSupported(address))?;
        self.0.listen_on(id, tcp)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let tcp = inner(address.clone()).ok_or(TransportError::MultiaddrNotSupported(address))?;
        let dial = self.0.dial(tcp, options)?;
        Ok(async move {
            let stream = dial.await?.compat();
            let (socket, _) = client_async_with_config(REQUEST, stream, Some(config())).await.map_err(failed)?;
            Ok(Channel::new(socket))
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let event = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(match event {
            TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } => TransportEvent::Incoming {
                listener_id,
                upgrade: async move {
                    let stream = upgrade.await?.compat();
                    let socket = accept_async_with_config(stream, Some(config())).await.map_err(failed)?;
                    Ok(Channel::new(socket))
                }
                .boxed(),
                local_addr: outer(local_addr),
                send_back_addr: outer(send_back_addr),
            },
            TransportEvent::NewAddress { listener_id, listen_addr } => {
                TransportEvent::NewAddress { listener_id, listen_addr: outer(listen_addr) }
            }
            TransportEvent::AddressExpired { listener_id, listen_addr } => {
                TransportEvent::AddressExpired { listener_id, listen_addr: outer(listen_addr) }
            }
            TransportEvent::ListenerClosed { listener_id, reason } => {
                TransportEvent::ListenerClosed { listener_id, reason }
            }
            TransportEvent::ListenerError { listener_id, error } => {
                TransportEvent::ListenerError { listener_id, error }
            }
        })
    }
}

/// Bytes over one WebSocket. The borders of messages mean nothing.
pub(crate) struct Channel {
    socket: Socket,
    read: Bytes,
}

impl Channel {
    fn new(socket: Socket) -> Self {
        Self { socket, read: Bytes::new() }
    }
}

impl AsyncRead for Channel {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.read.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) => self.read = bytes,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(0)),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            }
        }
        let count = self.read.len().min(buffer.len());
        let (filled, _) = buffer.split_at_mut(count);
        self.read.copy_to_slice(filled);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Channel {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(context)).map_err(failed)?;
        let (part, _) = data.split_at(data.len().min(MAX_MESSAGE));
        Pin::new(&mut self.socket).start_send(Message::Binary(Bytes::copy_from_slice(part))).map_err(failed)?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context).map_err(failed)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context).map_err(failed)
    }
}
