//! One UDP flow: its datagrams to a backend of this node, or in frames through the tunnel; and at the other end
//! of the tunnel from frames to the backend.
//!
//! Run by the task of the flow. Both directions go on side by side and the flow ends with the first that ends,
//! with silence, or with the proxy. A backend that is not there ends it: the kernel hears of that by ICMP and says
//! so on the connected socket. A datagram that a socket does not take is dropped and counted.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skerry_common::drain::Watch;
use skerry_mesh_core::Protocol;
use skerry_telemetry::emit;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::frames::{self, Frames};
use super::socket;
use super::table::Stamp;
use super::{Datagram, Key, Listener};
use crate::connect::{Backend, Connected, connect};
use crate::dial::Dial;
use crate::duplex::End;
use crate::events::{Ended, Refused};
use crate::flow::{Choice, Choose, Destination, Flow, Plan, Seen, Unserved};
use crate::limits::UNSERVED_HOLD;
use crate::proxy::Shared;

/// Bytes that are gathered for one write into the tunnel.
const BATCH: usize = 64 * 1024;
/// Datagrams that are received in a row before others have their turn.
const TURNS: usize = 32;

/// What a flow has done so far.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) stamp: Stamp,
    up: AtomicU64,
    down: AtomicU64,
}

impl Meter {
    pub(crate) fn new(now: u64) -> Self {
        let stamp = Stamp::default();
        stamp.touch(now);
        Self { stamp, up: AtomicU64::new(0), down: AtomicU64::new(0) }
    }

    fn up<C, D>(&self, shared: &Shared<C, D>, bytes: usize) {
        self.stamp.touch(shared.now());
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
        shared.metrics.datagrams_up.inc();
    }

    fn down<C, D>(&self, shared: &Shared<C, D>, bytes: usize) {
        self.stamp.touch(shared.now());
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
        shared.metrics.datagrams_down.inc();
    }

    /// Resolves after so long a silence.
    async fn idle<C, D>(&self, shared: &Shared<C, D>, limit: Duration) {
        loop {
            let silence = Duration::from_millis(shared.now().saturating_sub(self.stamp.last()));
            match limit.checked_sub(silence) {
                Some(left) if !left.is_zero() => sleep(left).await,
                _ => return,
            }
        }
    }
}

impl<C: Choose, D: Dial> Listener<C, D> {
    /// Serves a flow from its first datagram to its end.
    pub(super) async fn flow(
        &self,
        (client, local): Key,
        destination: SocketAddr,
        first: Datagram,
        mut queue: mpsc::Receiver<Datagram>,
        meter: Meter,
        mut stop: Watch,
    ) {
        let shared = &*self.shared;
        let flow = Flow { protocol: Protocol::Udp, client, destination: Destination::Address(destination) };
        let begun = async {
            let plan = plan(shared, &flow, &first.bytes).map_err(Unserved::name)?;
            let reply = self.reply(local, destination).map_err(|_| "reply_socket")?;
            let idle = plan.policy.idle;
            let to = |address| socket::connect(address, shared.limits.mark);
            let connected = connect(shared, &flow, plan, to).await.map_err(|error| error.name())?;
            Ok((connected, reply, idle))
        };
        let begun = tokio::select! {
            begun = begun => begun,
            _guard = stop.stopped() => return,
        };
        let (connected, reply, idle) = match begun {
            Ok(begun) => begun,
            Err(reason) => {
                emit(Refused { flow: &flow, reason }, &shared.metrics);
                shared.metrics.dropped("unserved");
                let drop_all = async {
                    while queue.recv().await.is_some() {
                        shared.metrics.dropped("unserved");
                    }
                };
                let _ = timeout(UNSERVED_HOLD, drop_all).await;
                return;
            }
        };
        let Connected { backend, target, mut in_flight, .. } = connected;
        let copy = async {
            let back = |bytes: &[u8]| match reply.send(bytes, client) {
                Ok(()) => meter.down(shared, bytes.len()),
                Err(_) => shared.metrics.dropped("reply"),
            };
            match backend {
                Backend::Local(backend) => tokio::select! {
                    end = queue_to_socket(shared, first, &mut queue, &backend, &meter) => end,
                    end = socket_to(shared, &backend, back) => end,
                },
                Backend::Tunnel(stream) => {
                    let (reader, writer) = tokio::io::split(stream);
                    tokio::select! {
                        end = queue_to_stream(shared, first, &mut queue, writer, &meter) => end,
                        end = stream_to(reader, back) => end,
                    }
                }
            }
        };
        let end = tokio::select! {
            end = copy => end,
            () = meter.idle(shared, idle) => End::Idle,
            _guard = stop.stopped() => End::Stopped,
        };
        in_flight.broken = end == End::Backend;
        let (up, down) = (meter.up.load(Ordering::Relaxed), meter.down.load(Ordering::Relaxed));
        let (took, access_log) = (in_flight.age(), shared.limits.access_log);
        emit(Ended { flow: &flow, target: &target, end, up, down, took, access_log }, &shared.metrics);
    }
}

fn plan<C: Choose, D>(shared: &Shared<C, D>, flow: &Flow, first: &[u8]) -> Result<Plan<C::Endpoint>, Unserved> {
    match shared.choose.choose(flow, Seen { bytes: first, more: false }) {
        Choice::Serve(plan) if plan.candidates.is_empty() => Err(Unserved::NoEndpoint),
        Choice::Serve(plan) => Ok(plan),
        Choice::Peek => Err(Unserved::Denied),
        Choice::Refuse(unserved) => Err(unserved),
    }
}

/// The receiving end of the tunnel: frames to a backend and back, until the end.
pub(crate) async fn receive<C, D, S>(
    shared: &Shared<C, D>,
    stream: S,
    backend: UdpSocket,
    idle: Duration,
    mut stop: Watch,
) -> End
where
    S: AsyncRead + AsyncWrite,
{
    let meter = Meter::new(shared.now());
    let (mut reader, writer) = {
        let (reader, writer) = tokio::io::split(stream);
        (Frames::new(reader), writer)
    };
    let up = async {
        loop {
            match reader.next().await {
                Ok(Some(datagram)) => {
                    if let Some(end) = send(shared, &backend, &datagram, &meter).await {
                        return end;
                    }
                }
                Ok(None) => return End::Closed,
                Err(_) => return End::Client,
            }
        }
    };
    tokio::select! {
        end = up => end,
        end = socket_to_stream(shared, &backend, writer, &meter) => end,
        () = meter.idle(shared, idle) => End::Idle,
        _guard = stop.stopped() => End::Stopped,
    }
}

/// Whether an error of a connected socket says that nobody is there.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionRefused | K::HostUnreachable | K::NetworkUnreachable)
}

/// Sends to a backend. An end when it is not there.
async fn send<C, D>(shared: &Shared<C, D>, backend: &UdpSocket, bytes: &[u8], meter: &Meter) -> Option<End> {
    match backend.send(bytes).await {
        Ok(_) => meter.up(shared, bytes.len()),
        Err(error) if is_gone(&error) => return Some(End::Backend),
        // Too long for the way, or no room.
        Err(_) => shared.metrics.dropped("backend"),
    }
    None
}

async fn queue_to_socket<C, D>(
    shared: &Shared<C, D>,
    first: Datagram,
    queue: &mut mpsc::Receiver<Datagram>,
    backend: &UdpSocket,
    meter: &Meter,
) -> End {
    let mut next = Some(first);
    while let Some(datagram) = next {
        if let Some(end) = send(shared, backend, &datagram.bytes, meter).await {
            return end;
        }
        next = queue.recv().await;
    }
    End::Evicted
}

async fn queue_to_stream<C, D, W: AsyncWrite + Unpin>(
    shared: &Shared<C, D>,
    first: Datagram,
    queue: &mut mpsc::Receiver<Datagram>,
    mut writer: W,
    meter: &Meter,
) -> End {
    let mut next = Some(first);
    while let Some(datagram) = next {
        let mut batch = Vec::new();
        let mut more = Some(datagram);
        while let Some(datagram) = more {
            meter.up(shared, datagram.bytes.len());
            frames::put(&mut batch, &datagram.bytes);
            more = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
        }
        if write(&mut writer, &batch).await.is_err() {
            return End::Backend;
        }
        next = queue.recv().await;
    }
    End::Evicted
}

async fn write<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

async fn stream_to<R: AsyncRead + Unpin>(reader: R, mut each: impl FnMut(&[u8])) -> End {
    let mut frames = Frames::new(reader);
    loop {
        match frames.next().await {
            Ok(Some(datagram)) => each(&datagram),
            // The other end has ended it: idle, or its backend is not there.
            Ok(None) | Err(_) => return End::Backend,
        }
    }
}

/// Waits for datagrams, and receives what there is as long as `each` wants more. An error when the backend is
/// not there: the kernel then says that the socket has an error, not that it can be read.
async fn drain<C, D>(
    shared: &Shared<C, D>,
    backend: &UdpSocket,
    mut each: impl FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let ready = backend.ready(Interest::READABLE | Interest::ERROR).await?;
    if ready.is_error() {
        if let Some(error) = backend.take_error()? {
            return Err(error);
        }
        // It was taken by a send, which has told of it: wait for the next.
        let _ = backend.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
    let mut buffer = shared.pool.scratch();
    for _ in 0..TURNS {
        match backend.try_recv(&mut buffer) {
            Ok(read) => {
                if !each(buffer.get(..read).unwrap_or_default()) {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn socket_to<C, D>(shared: &Shared<C, D>, backend: &UdpSocket, mut each: impl FnMut(&[u8])) -> End {
    loop {
        let received = drain(shared, backend, |bytes| {
            each(bytes);
            true
        });
        if received.await.is_err() {
            return End::Backend;
        }
    }
}

async fn socket_to_stream<C, D, W: AsyncWrite + Unpin>(
    shared: &Shared<C, D>,
    backend: &UdpSocket,
    mut writer: W,
    meter: &Meter,
) -> End {
    loop {
        let mut batch = Vec::new();
        let received = drain(shared, backend, |bytes| {
            meter.down(shared, bytes.len());
            frames::put(&mut batch, bytes);
            batch.len() < BATCH
        });
        if received.await.is_err() {
            return End::Backend;
        }
        if write(&mut writer, &batch).await.is_err() {
            return End::Client;
        }
    }
}
