//! The receiving end of the tunnel: what another node asks for, checked against what is here.
//!
//! Called by whoever accepts streams, on a task for each. A caller says in a bounded header, within a deadline,
//! where it wants to go; [`Admit`] allows only endpoints of this node, so no node is a way into a network. The
//! answer is sent before the first byte, and says why not, so that the caller can try another endpoint. After it
//! everything is as for a connection: frames out of the tunnel, bytes to the backend, and back.

use std::net::SocketAddr;
use std::time::Duration;

use skerry_common::NodeName;
use skerry_common::drain::Watch;
use skerry_telemetry::emit;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::accept::Counted;
use crate::dial::DialError;
use crate::duplex::{End, Silence};
use crate::events::{StreamEnded, StreamRefused};
use crate::flow::{Policy, Protocol};
use crate::half::{Coding, Half};
use crate::limits::{ANSWER_DEADLINE, HEADER_DEADLINE};
use crate::proxy::{Proxy, Shared};
use crate::socket;
use crate::tcp::until;
use crate::wire;

/// What a caller may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// An endpoint on this node.
    pub target: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// How it is treated.
    pub policy: Policy,
    /// Source and destination of the client's connection, for the PROXY protocol.
    pub client: Option<(SocketAddr, SocketAddr)>,
}

/// Decides what other nodes may have. It decides from what is in memory: it must not block or wait.
pub trait Admit: Send + Sync + 'static {
    /// Reads a header, which is not to be trusted.
    ///
    /// # Errors
    /// [`DialError::Malformed`], or [`DialError::NotHere`] for anything that is no endpoint on this node.
    fn admit(&self, peer: &NodeName, header: &[u8]) -> Result<Admitted, DialError>;
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
            refuse(shared, peer, &mut stream, DialError::Busy).await;
            return;
        };
        let _counted = Counted::new(&shared.metrics.streams);
        let begun = tokio::select! {
            begun = begin(shared, admit, peer, &mut stream) => begun,
            () = forced.forced() => return,
        };
        let Some((mut backend, policy)) = begun else { return };
        let (mut up, mut down) = (Half::new(Coding::Decode), Half::new(Coding::Encode));
        let silence = Silence::from(&policy);
        let end = until(&mut stream, &mut backend, (&mut up, &mut down), &shared.pool, silence, stop).await;
        if end == End::Closed {
            socket::orderly(&backend);
        }
        emit(StreamEnded { peer, end }, &shared.metrics);
    }
}

/// From the header to the answer.
async fn begin<C, D, A: Admit, S>(
    shared: &Shared<C, D>,
    admit: &A,
    peer: &NodeName,
    stream: &mut S,
) -> Option<(TcpStream, Policy)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ok(Ok(header)) = timeout(HEADER_DEADLINE, wire::header(stream)).await else {
        refuse(shared, peer, stream, DialError::Malformed).await;
        return None;
    };
    let admitted = match admit.admit(peer, &header) {
        Ok(admitted) => admitted,
        Err(error) => {
            refuse(shared, peer, stream, error).await;
            return None;
        }
    };
    match dial(shared, &admitted).await {
        Ok(backend) => {
            let answered = timeout(ANSWER_DEADLINE, wire::answer(stream, Ok(()))).await;
            answered.is_ok_and(|sent| sent.is_ok()).then_some((backend, admitted.policy))
        }
        Err(error) => {
            refuse(shared, peer, stream, error).await;
            None
        }
    }
}

async fn dial<C, D>(shared: &Shared<C, D>, admitted: &Admitted) -> Result<TcpStream, DialError> {
    let Admitted { target, policy, client, .. } = admitted;
    let connect = async {
        let mut backend = socket::connect(*target, shared.limits.mark).await?;
        if let (Some(version), Some((source, destination))) = (policy.proxy_protocol, *client) {
            backend.write_all(&socket::proxy_header(version, source, destination)?).await?;
        }
        Ok(backend)
    };
    match timeout(limit(policy.connect), connect).await {
        Ok(connected) => connected.map_err(|error| DialError::of(&error)),
        Err(_) => Err(DialError::TimedOut),
    }
}

/// The caller has the same deadline and began sooner: it shall hear of ours before its own.
fn limit(connect: Duration) -> Duration {
    connect / 2
}

async fn refuse<C, D, S>(shared: &Shared<C, D>, peer: &NodeName, stream: &mut S, error: DialError)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let audit = matches!(error, DialError::NotHere | DialError::Malformed);
    emit(StreamRefused { peer, reason: error.name(), audit }, &shared.metrics);
    let say = async {
        wire::answer(stream, Err(error)).await?;
        stream.shutdown().await
    };
    // A caller that does not read it finds out by its own deadline.
    let _ = timeout(ANSWER_DEADLINE, say).await;
}
