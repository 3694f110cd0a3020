//! The byte streams under HTTP/2, for both ends: sockets that count, with or without TLS.
//!
//! Counting happens under TLS, so the numbers are what the link carries. The stamps written here are
//! all that the sweeper needs to find dead and stalled peers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use crate::connection::{ConnState, Order};

/// What a connection runs on.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Pipe(DuplexStream),
}

macro_rules! each {
    ($self:expr, $socket:ident => $do:expr) => {
        match $self {
            Socket::Tcp($socket) => $do,
            Socket::Unix($socket) => $do,
            Socket::Pipe($socket) => $do,
        }
    };
}

/// A socket whose bytes are counted in its connection's state.
pub(crate) struct Counted {
    socket: Socket,
    state: Arc<ConnState>,
    /// Whether the order to abort ends reading. A server's connection task obeys by itself.
    obeys: bool,
}

impl Counted {
    pub(crate) fn new(socket: Socket, state: Arc<ConnState>) -> Self {
        Self { socket, state, obeys: false }
    }

    pub(crate) fn obeying(socket: Socket, state: Arc<ConnState>) -> Self {
        Self { socket, state, obeys: true }
    }

    fn count(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(bytes)) => self.state.wrote(*bytes),
            Poll::Pending => self.state.write_blocked(),
            Poll::Ready(Err(_)) => {}
        }
        result
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A client's HTTP/2 cannot be told to stop from outside, but its bytes can.
        if self.obeys {
            self.state.register_task(cx);
            if self.state.order() == Order::Abort {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, self.state.reason())));
            }
        }
        let before = buf.filled().len();
        ready!(each!(&mut self.socket, socket => Pin::new(socket).poll_read(cx, buf)))?;
        let bytes = buf.filled().len().saturating_sub(before);
        if bytes > 0 {
            self.state.read(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let result = each!(&mut self.socket, socket => Pin::new(socket).poll_write(cx, data));
        self.count(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = each!(&mut self.socket, socket => Pin::new(socket).poll_write_vectored(cx, data));
        self.count(result)
    }

    fn is_write_vectored(&self) -> bool {
        each!(&self.socket, socket => socket.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.socket, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.socket, socket => Pin::new(socket).poll_shutdown(cx))
    }
}

/// A counted socket, with TLS on top where there is TLS. The TLS state is boxed, so that sockets of
/// this machine do not carry its size.
pub(crate) enum Transport {
    Plain(Counted),
    Tls(Box<TlsStream<Counted>>),
}

macro_rules! either {
    ($self:expr, $stream:ident => $do:expr) => {
        match $self {
            Transport::Plain($stream) => $do,
            Transport::Tls($stream) => {
                let $stream = &mut **$stream;
                $do
            }
        }
    };
}

impl Transport {
    fn state(&self) -> &ConnState {
        match self {
            Self::Plain(stream) => &stream.state,
            Self::Tls(stream) => &stream.get_ref().0.state,
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = either!(&mut *self, stream => Pin::new(stream).poll_read(cx, buf));
        if let Poll::Ready(Err(error)) = &result {
            self.state().failed(error);
        }
        result
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        either!(&mut *self, stream => Pin::new(stream).poll_write(cx, data))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(&mut *self, stream => Pin::new(stream).poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut *self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut *self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// Options of every TCP socket of ours, both ends. What the kernel refuses is not needed to work.
pub(crate) fn tune(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(crate::limits::TCP_KEEPALIVE)
        .with_interval(crate::limits::TCP_KEEPALIVE);
    let set = [
        socket.set_tcp_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
        socket.set_tcp_user_timeout(Some(crate::limits::TCP_USER_TIMEOUT)),
    ];
    for error in set.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "a TCP option was refused");
    }
}
