//! Redirected connections: who serves one, then bytes both ways.
//!
//! Each is served by a task of its own, which holds nothing that another waits for: a client that says nothing
//! and a backend that says nothing cost a descriptor or two until their deadline. When the task is cancelled or
//! panics, both connections are reset, so neither end takes what it has for the whole.

use std::net::SocketAddr;

use skerry_common::drain::Watch;
use skerry_mesh_core::{Protocol, ProxyInfo};
use skerry_telemetry::emit;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

use crate::accept;
use crate::connect::{Backend, Connected, connect};
use crate::dial::{Dial, DialError};
use crate::duplex::{End, Silence, duplex};
use crate::error::BindError;
use crate::events::{Ended, Refused};
use crate::flow::{Choice, Choose, Destination, Flow, Plan, Seen, Unserved};
use crate::half::{Coding, Half, PREFIX};
use crate::limits::{MAX_PEEK, PEEK_DEADLINE};
use crate::pool::{Buffer, Pool};
use crate::proxy::{Proxy, Shared};
use crate::socket::{self, Interception};

/// A listener for redirected connections.
#[derive(Debug)]
pub struct TcpListen {
    listener: TcpListener,
    address: SocketAddr,
    interception: Interception,
}

impl TcpListen {
    /// Listens on an address. Port 0 takes a free port.
    ///
    /// # Errors
    /// When the address is taken, or the process may not divert packets.
    pub fn bind(address: SocketAddr, interception: Interception) -> Result<Self, BindError> {
        let listener = socket::listen(address, Some(interception));
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (local, listener) = bound.map_err(|source| BindError::Listen { address, source })?;
        Ok(Self { listener, address: local, interception })
    }

    /// Its address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl<C: Choose, D: Dial> Proxy<C, D> {
    /// Serves redirected connections until the drain begins. Those that are open go on until they end, or are
    /// reset at the drain's deadline.
    pub async fn serve_tcp(&self, listen: TcpListen, stop: Watch) {
        let TcpListen { listener, address, interception } = listen;
        accept::run(&self.0, listener, stop, |stream, client, stop| {
            let shared = self.0.clone();
            async move {
                let destination = socket::original_destination(&stream, interception, address);
                // Who connects to the listener itself gets a reset: there is nobody to pass it on to.
                if let Some(destination) = destination {
                    let destination = Destination::Address(destination);
                    serve(&shared, stream, Flow { protocol: Protocol::Tcp, client, destination }, stop).await;
                }
            }
        })
        .await;
    }
}

async fn serve<C: Choose, D: Dial>(shared: &Shared<C, D>, mut stream: TcpStream, flow: Flow, stop: Watch) {
    let mut forced = stop.clone();
    let served = async {
        let (mut plan, mut first) = plan(shared, &flow, &mut stream).await.map_err(Unserved::name)?;
        let told = match flow.destination {
            Destination::Address(destination) => plan.policy.proxy_protocol.zip(Some(destination)),
            Destination::Node(..) => None,
        };
        let told = told.map(|(version, destination)| ProxyInfo { version, source: flow.client, destination });
        let local = |address| socket::connect(address, shared.limits.mark, told);
        loop {
            let (policy, silence) = (plan.policy.clone(), Silence::from(&plan.policy));
            let mut connected = connect(shared, &flow, plan, local).await.map_err(DialError::name)?;
            let candidates = std::mem::take(&mut connected.left);
            let copied = copy(shared, &mut stream, &flow, connected, first.take(), silence, stop.clone()).await;
            // An endpoint that broke off before anybody said anything has cost nothing: the next one may serve.
            if copied != (Copied { end: End::Backend, silent: true }) || candidates.is_empty() {
                return Ok(());
            }
            plan = Plan { candidates, policy };
        }
    };
    // Copying sees the stop itself, and says how it ended.
    let served = tokio::select! {
        biased;
        served = served => served,
        () = forced.forced() => Err(End::Stopped.name()),
    };
    if let Err(reason) = served {
        emit(Refused { flow: &flow, reason }, &shared.metrics);
    }
}

/// How copying ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copied {
    end: End,
    /// Whether no byte went either way.
    silent: bool,
}

/// Asks who serves a flow, with as many of its first bytes as this needs. They come back, to be passed on.
async fn plan<C: Choose, D>(
    shared: &Shared<C, D>,
    flow: &Flow,
    stream: &mut TcpStream,
) -> Result<(Plan<C::Endpoint>, Option<(Buffer, usize)>), Unserved> {
    let deadline = Instant::now() + PEEK_DEADLINE;
    let (mut buffer, mut read, mut more) = (None::<Buffer>, 0, true);
    loop {
        let bytes = buffer.as_deref().and_then(|buffer| buffer.get(PREFIX..PREFIX + read)).unwrap_or_default();
        match shared.choose.choose(flow, Seen { bytes, more }) {
            Choice::Serve(plan) if plan.candidates.is_empty() => return Err(Unserved::NoEndpoint),
            Choice::Serve(plan) => return Ok((plan, buffer.map(|buffer| (buffer, read)))),
            Choice::Refuse(refusal) => return Err(refusal),
            Choice::Peek if !more => return Err(Unserved::Denied),
            Choice::Peek => {
                let space = buffer.get_or_insert_with(|| shared.pool.take(false));
                let space = space.get_mut(PREFIX + read..PREFIX + MAX_PEEK).unwrap_or_default();
                match timeout_at(deadline, stream.read(space)).await {
                    Ok(Ok(n)) if n > 0 => read += n,
                    // The end, an error, or the deadline: what there is decides. An error comes again.
                    _ => more = false,
                }
                more &= read < MAX_PEEK;
            }
        }
    }
}

/// Bytes both ways until the end, which is told to everybody.
pub(crate) async fn copy<C: Choose, D: Dial>(
    shared: &Shared<C, D>,
    client: &mut TcpStream,
    flow: &Flow,
    connected: Connected<C, TcpStream, D::Stream>,
    first: Option<(Buffer, usize)>,
    silence: Silence,
    forced: Watch,
) -> Copied {
    let Connected { backend, target, mut in_flight, .. } = connected;
    let pool = &shared.pool;
    let begin = |coding| match first {
        Some((buffer, read)) => Half::begun(coding, buffer, read),
        None => Half::new(coding),
    };
    let (mut up, mut down);
    let end = match backend {
        Backend::Local(mut backend) => {
            (up, down) = (begin(Coding::Raw), Half::new(Coding::Raw));
            let end = until(client, &mut backend, (&mut up, &mut down), pool, silence, forced).await;
            if end == End::Closed {
                socket::orderly(&backend);
            }
            end
        }
        Backend::Tunnel(mut backend) => {
            (up, down) = (begin(Coding::Encode), Half::new(Coding::Decode));
            until(client, &mut backend, (&mut up, &mut down), pool, silence, forced).await
        }
    };
    if end == End::Closed {
        socket::orderly(client);
    }
    in_flight.broken = end == End::Backend;
    let (up, down, took, access_log) = (up.bytes(), down.bytes(), in_flight.age(), shared.limits.access_log);
    emit(Ended { flow, target: &target, end, up, down, took, access_log }, &shared.metrics);
    Copied { end, silent: up == 0 && down == 0 }
}

/// Copies until the end, or until the proxy must stop at once.
pub(crate) async fn until<A, B>(
    client: &mut A,
    backend: &mut B,
    (up, down): (&mut Half, &mut Half),
    pool: &Pool,
    silence: Silence,
    mut forced: Watch,
) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    tokio::select! {
        end = duplex(client, backend, up, down, pool, silence) => end,
        () = forced.forced() => End::Stopped,
    }
}
