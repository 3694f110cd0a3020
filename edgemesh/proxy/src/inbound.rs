//! The receiving end of the tunnel: what another node asks for, checked against what is here.
//!
//! Called by whoever accepts streams, on a task for each. A caller says in a bounded header, within a deadline,
//! where it wants to go; [`Admit`] allows only endpoints of this node, so no node is a way into a network. The
//! answer is sent before the first byte, and says why not, so that the caller can try another endpoint. After it
//! everything is as for a connection: frames out of the tunnel, bytes to the backend, and back.

use std::net::SocketAddr;

use skerry_common::NodeName;
use skerry_common::drain::Watch;
use skerry_mesh_core::{Header, Protocol, Refusal, Reply};
use skerry_telemetry::emit;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::accept::Counted;
use crate::dial::DialError;
use crate::duplex::{End, Silence};
use crate::events::{StreamEnded, StreamRefused};
use crate::flow::Policy;
use crate::half::{Coding, Half};
use crate::limits::{HEADER_DEADLINE, REPLY_DEADLINE};
use crate::proxy::{Proxy, Shared};
use crate::tcp::until;
use crate::{socket, udp, wire};

/// What a caller may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// An endpoint on this node.
    pub target: SocketAddr,
    /// How it is treated. Whether it is told who its client is, is in the header.
    pub policy: Policy,
}

/// Decides what other nodes may have. It decides from what is in memory: it must not block or wait.
pub trait Admit: Send + Sync + 'static {
    /// Where a stream shall lead.
    ///
    /// # Errors
    /// [`Refusal::Forbidden`] for anything that is no endpoint on this node.
    fn admit(&self, peer: &NodeName, header: &Header) -> Result<Admitted, Refusal>;
}

/// A connected backend.
enum Backend {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl<C: Send + Sync, D: Send + Sync> Proxy<C, D> {
    /// Serves a stream of another node, whose name the transport has proved, until it ends.
    pub async fn receive<A, S>(&self, admit: &A, peer: &NodeName, mut stream: S, stop: Watch)
    where
        A: Admit,
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let shared = &*self.0;
        let _guard = stop.guard();
        let mut forced = stop.clone();
        let Ok(_place) = shared.streams.try_acquire() else {
            refuse(shared, peer, &mut stream, Refusal::Overloaded).await;
            return;
        };
        let _counted = Counted::new(&shared.metrics.streams);
        let begun = tokio::select! {
            begun = begin(shared, admit, peer, &mut stream) => begun,
            () = forced.forced() => return,
        };
        let end = match begun {
            Ok((Backend::Tcp(mut backend), policy)) => {
                let (mut up, mut down) = (Half::new(Coding::Decode), Half::new(Coding::Encode));
                let silence = Silence::from(&policy);
                let end = until(&mut stream, &mut backend, (&mut up, &mut down), &shared.pool, silence, stop).await;
                if end == End::Closed {
                    socket::orderly(&backend);
                }
                end
            }
            Ok((Backend::Udp(backend), policy)) => udp::flow::receive(shared, stream, backend, policy.idle, stop).await,
            Err(refusal) => {
                refuse(shared, peer, &mut stream, refusal).await;
                return;
            }
        };
        emit(StreamEnded { peer, end }, &shared.metrics);
    }
}

/// From the header to the reply.
async fn begin<C, D, A: Admit, S>(
    shared: &Shared<C, D>,
    admit: &A,
    peer: &NodeName,
    stream: &mut S,
) -> Result<(Backend, Policy), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let header = timeout(HEADER_DEADLINE, wire::header(stream)).await;
    let Ok(Ok(Ok(header))) = header else { return Err(Refusal::Header) };
    let Admitted { target, policy } = admit.admit(peer, &header)?;
    let mark = shared.limits.mark;
    let connect = async {
        match header.protocol {
            Protocol::Tcp => socket::connect(target, mark, header.proxy).await.map(Backend::Tcp),
            Protocol::Udp => udp::socket::connect(target, mark).await.map(Backend::Udp),
        }
    };
    // The caller has the same deadline and began sooner: it shall hear of ours before its own.
    let connected = timeout(policy.connect / 2, connect).await.map_err(|_| Refusal::TimedOut)?;
    let backend = connected.map_err(|error| DialError::of(&error))?;
    let replied = timeout(REPLY_DEADLINE, wire::reply(stream, Reply::Connected)).await;
    match replied {
        Ok(Ok(())) => Ok((backend, policy)),
        _ => Err(Refusal::Failed),
    }
}

async fn refuse<C, D, S>(shared: &Shared<C, D>, peer: &NodeName, stream: &mut S, refusal: Refusal)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let audit = matches!(refusal, Refusal::Forbidden | Refusal::Header);
    emit(StreamRefused { peer, reason: DialError::from(refusal).name(), audit }, &shared.metrics);
    let say = async {
        wire::reply(stream, Reply::Refused(refusal)).await?;
        stream.shutdown().await
    };
    // A caller that does not read it finds out by its own deadline.
    let _ = timeout(REPLY_DEADLINE, say).await;
}
