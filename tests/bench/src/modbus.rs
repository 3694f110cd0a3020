//! What the Modbus mapper stands between: devices that answer at once, and a node that counts.
//!
//! The devices and the mapper are in network namespaces of their own, joined by a virtual cable that can be pulled.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};
use skerry_common::drain;
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::mapper_message::Message as FromMapper;
use skerry_proto::dmi::v1::mappers_server::{Mappers, MappersServer};
use skerry_proto::dmi::v1::node_message::Message as ToMapper;
use skerry_rpc::{Caller, Listen, Policy, Server, ServerConfig, ServerLimits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Address of the devices, and of the mapper's end of the cable.
pub const DEVICES: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const MAPPER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Messages to the mapper that wait.
const QUEUE: usize = 64;

/// Two namespaces and the cable between them; removed when dropped.
#[derive(Debug)]
pub struct Cable {
    devices: String,
    mapper: String,
}

impl Cable {
    /// Lays the cable.
    ///
    /// # Errors
    /// Without root, or without iproute2.
    pub fn new() -> anyhow::Result<Self> {
        let id = std::process::id();
        let cable = Self { devices: format!("skerry-md-{id}"), mapper: format!("skerry-mm-{id}") };
        for namespace in [&cable.devices, &cable.mapper] {
            ip(&["netns", "add", namespace])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        }
        let link = ["link", "add", "cable", "netns", &cable.devices, "type", "veth", "peer", "name", "cable"];
        ip(&[&link[..], &["netns", &cable.mapper]].concat())?;
        for (namespace, address) in [(&cable.devices, DEVICES), (&cable.mapper, MAPPER)] {
            ip(&["-n", namespace, "address", "add", &format!("{address}/30"), "dev", "cable"])?;
            ip(&["-n", namespace, "link", "set", "cable", "up"])?;
        }
        Ok(cable)
    }

    /// Pulls the cable at the devices' end.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn pull(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.devices, "link", "set", "cable", "down"])
    }

    /// Puts it back.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn plug(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.devices, "link", "set", "cable", "up"])
    }

    /// The arguments of `ip` that run a program at the mapper's end.
    pub fn run<'a>(&'a self, program: &'a [&'a str]) -> Vec<&'a str> {
        [&["netns", "exec", &self.mapper], program].concat()
    }

    /// A listener at the devices' end.
    ///
    /// # Errors
    /// When the namespace is gone or the port is taken.
    pub fn listen(&self, port: u16) -> anyhow::Result<TcpListener> {
        let path = Path::new("/run/netns").join(&self.devices);
        // A thread of its own, which ends with its namespace.
        let bind = std::thread::spawn(move || -> anyhow::Result<std::net::TcpListener> {
            setns(std::fs::File::open(path)?, CloneFlags::CLONE_NEWNET)?;
            Ok(std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?)
        });
        let listener = bind.join().map_err(|_| anyhow::anyhow!("the thread of a namespace failed"))??;
        listener.set_nonblocking(true)?;
        Ok(TcpListener::from_std(listener)?)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [&self.devices, &self.mapper] {
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().context("iproute2 is needed")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), errors.trim());
    Ok(())
}

/// What the devices were asked.
#[derive(Debug, Default)]
pub struct Asked {
    rounds: AtomicU64,
    most: AtomicU64,
}

impl Asked {
    /// Reads of a whole unit that have ended, and the most requests that one of them had. A read begins at the
    /// first register and ends with the next one.
    pub fn so_far(&self) -> (u64, u64) {
        (self.rounds.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed))
    }

    fn take(&self, running: &mut u64, first: u16) {
        if first == 0 && *running > 0 {
            self.rounds.fetch_add(1, Ordering::Relaxed);
            self.most.fetch_max(*running, Ordering::Relaxed);
            *running = 0;
        }
        *running += 1;
    }
}

/// Answers reads of holding registers, of any unit, with values that are others each time.
pub fn serve(listener: TcpListener, asked: Arc<Asked>) {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(device(stream, Arc::clone(&asked)));
        }
    });
}

async fn device(mut stream: TcpStream, asked: Arc<Asked>) -> Option<()> {
    let _ = stream.set_nodelay(true);
    let mut turn = 0_u16;
    // Requests of the read that each unit is in.
    let mut running = [0_u64; 256];
    loop {
        // Transaction, protocol, length, unit, function, address, count.
        let mut frame = [0_u8; 12];
        stream.read_exact(&mut frame).await.ok()?;
        let [t1, t2, _, _, _, _, unit, function, a1, a2, c1, c2] = frame;
        let (first, count) = (u16::from_be_bytes([a1, a2]), u16::from_be_bytes([c1, c2]));
        if function != 3 || count > 125 {
            return None;
        }
        asked.take(running.get_mut(usize::from(unit))?, first);
        turn = turn.wrapping_add(1);
        let bytes = u8::try_from(2 * count).ok()?;
        let mut answer = vec![t1, t2, 0, 0];
        answer.extend((u16::from(bytes) + 3).to_be_bytes());
        answer.extend([unit, function, bytes]);
        answer.extend((0..count).flat_map(|at| first.wrapping_add(at).wrapping_add(turn).to_be_bytes()));
        stream.write_all(&answer).await.ok()?;
    }
}

/// What the node has seen.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Good values.
    pub good: u64,
    /// When the last one came.
    pub last: Instant,
}

/// A node that gives its devices to the mapper and counts what it reports.
#[derive(Debug)]
pub struct Node {
    socket: PathBuf,
    seen: watch::Receiver<Seen>,
    _stop: drain::Trigger,
}

struct Service {
    devices: Vec<pb::Device>,
    seen: Arc<watch::Sender<Seen>>,
}

impl Node {
    /// Serves `skerry.dmi.v1` on a socket in `folder`.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub async fn start(folder: &Path, devices: Vec<pb::Device>) -> anyhow::Result<Self> {
        let socket = folder.join("dmi.sock");
        let (sender, seen) = watch::channel(Seen { good: 0, last: Instant::now() });
        let listen = Listen::Unix { path: socket.clone(), mode: 0o600 };
        let policy = Policy::new().allow("skerry.dmi.v1.Mappers", &[Caller::Local]);
        let config = ServerConfig::new("dmi", listen, policy).limits(ServerLimits::local());
        let bound = Server::bind(config).await?;
        let (stop, watch) = drain::channel(Duration::from_secs(1));
        let service = MappersServer::new(Service { devices, seen: Arc::new(sender) });
        tokio::spawn(bound.serve(tonic::service::Routes::new(service), watch));
        Ok(Self { socket, seen, _stop: stop })
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has seen until now.
    pub fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    /// Waits for the next good value, and says when it came.
    ///
    /// # Errors
    /// When none comes within `patience`.
    pub async fn next(&mut self, patience: Duration) -> anyhow::Result<Instant> {
        let before = self.seen().good;
        let seen = tokio::time::timeout(patience, self.seen.wait_for(|seen| seen.good > before)).await;
        Ok(seen.context("no values come")??.last)
    }
}

#[tonic::async_trait]
impl Mappers for Service {
    type ConnectStream = ReceiverStream<Result<pb::NodeMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::MapperMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let welcome = pb::Welcome {
            node: "bench".to_owned(),
            max_values_per_message: 1000,
            max_unacknowledged: 8,
            ..Default::default()
        };
        let mut first = vec![ToMapper::Welcome(welcome)];
        first.extend(self.devices.iter().cloned().map(ToMapper::Device));
        first.push(ToMapper::AllSent(pb::AllSent {}));
        tokio::spawn(session(request.into_inner(), sender, first, Arc::clone(&self.seen)));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn session(
    mut stream: Streaming<pb::MapperMessage>,
    sender: mpsc::Sender<Result<pb::NodeMessage, Status>>,
    first: Vec<ToMapper>,
    seen: Arc<watch::Sender<Seen>>,
) -> Option<()> {
    let message = |message| Ok(pb::NodeMessage { message: Some(message) });
    for one in first {
        sender.send(message(one)).await.ok()?;
    }
    while let Some(came) = stream.message().await.ok()? {
        match came.message {
            Some(FromMapper::Reports(reports)) => {
                let values = reports.devices.iter().flat_map(|device| &device.values);
                let good = values.filter(|value| value.quality == i32::from(pb::Quality::Good)).count();
                if good > 0 {
                    seen.send_modify(|seen| {
                        seen.good += u64::try_from(good).unwrap_or(0);
                        seen.last = Instant::now();
                    });
                }
                let ack = pb::ReportsAck { sequence: reports.sequence, refused: Vec::new() };
                sender.send(message(ToMapper::Ack(ack))).await.ok()?;
            }
            Some(FromMapper::Applied(applied)) if !applied.error.is_empty() => {
                crate::say(&format!("a device is not served: {}", applied.error));
            }
            _ => {}
        }
    }
    Some(())
}

/// A device of `points` holding registers, read each `cycle`, at a port of the devices' end.
pub fn device_of(name: &str, port: u16, unit: u8, points: u16, cycle: Duration) -> pb::Device {
    let cycle = i64::try_from(cycle.as_millis()).unwrap_or(i64::MAX);
    let config = serde_json::json!({ "ip": DEVICES.to_string(), "port": port, "slaveID": unit });
    let property = |at: u16| {
        let name = format!("register-{at}");
        let visitor = serde_json::json!({ "register": "HoldingRegister", "offset": at, "limit": 1 });
        pb::Property {
            name: name.clone(),
            model: Some(pb::ModelProperty { name, r#type: "INT".to_owned(), ..pb::ModelProperty::default() }),
            visitor_config: visitor.to_string().into_bytes(),
            collect_cycle_ms: cycle,
            report_cycle_ms: cycle,
            report_to_cloud: true,
            ..pb::Property::default()
        }
    };
    pb::Device {
        key: Some(pb::DeviceKey { namespace: "default".to_owned(), name: name.to_owned() }),
        version: "1".to_owned(),
        protocol_config: config.to_string().into_bytes(),
        properties: (0..points).map(property).collect(),
        ..pb::Device::default()
    }
}
