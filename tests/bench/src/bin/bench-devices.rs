//! `make bench-devices`: how long a desired value takes from the API to a register, and a register to the DeviceStatus.
//!
//! Everything is real but the device: the cloud's services as processes, `skerry edge` on a containerd, the Modbus
//! mapper. The device is a Modbus server of this program, because the instants at which it was written and read are
//! what counts. From a register the time runs from the answer that had the new value, so the cycle is not in it; and
//! changes are further apart than values wait for each other ([`COALESCED`]), so that is not in it either.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use futures::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use skerry_bench::cluster::{Cluster, Ports};
use skerry_bench::figures::{Figures, percentile};
use skerry_bench::machine::Machine;
use skerry_bench::proc::{Process, binaries};
use skerry_bench::say;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// First port of the processes of this benchmark.
const PORTS: u16 = 22_600;
/// Admin port of the node's first service.
const NODE_PORT: u16 = 22_650;
/// Seconds that values wait for each other; see [`Machine`].
const COALESCED: u64 = 1;
/// Milliseconds between two reads of the device.
const CYCLE_MS: u64 = 100;
/// The registers: what is wanted, and what is measured.
const SETPOINT: usize = 0;
const LEVEL: usize = 1;
/// How long a value may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Targets, milliseconds.
const P50: f64 = 100.0;
const P99: f64 = 500.0;

/// Measures devices from end to end.
#[derive(Parser)]
struct Args {
    /// The node's program; the one beside this benchmark when not given
    #[arg(long)]
    program: Option<PathBuf>,
    /// Desired values that are patched
    #[arg(long, default_value_t = 300)]
    patches: u16,
    /// Changes of a register
    #[arg(long, default_value_t = 150)]
    changes: u16,
}

fn main() -> ExitCode {
    skerry_bench::exit(skerry_bench::run(bench(Args::parse())))
}

async fn bench(args: Args) -> anyhow::Result<()> {
    let program = args.program.clone().map_or_else(Machine::shipped, Ok)?;
    say("starting the cloud and a node");
    let cluster = Cluster::with_devices(Ports(PORTS), COALESCED).await?;
    let machine = Machine::start(&cluster, "bench-node", NODE_PORT, &program).await?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let device = Arc::new(Device::default());
    tokio::spawn(serve(listener, Arc::clone(&device)));
    let folder = tempfile::tempdir()?;
    let _mapper = mapper(&machine.dmi_socket(), folder.path())?;
    objects(&cluster, machine.name.as_str(), port).await?;

    let mut figures = Figures::default();
    let measured = async {
        down(&cluster, &device, args.patches, &mut figures).await?;
        up(&cluster, &device, args.changes, &mut figures).await
    };
    if let Err(error) = measured.await {
        say(&format!("the node's log ends with:\n{}", machine.log()));
        return Err(error);
    }
    figures.verdict()
}

fn mapper(socket: &Path, folder: &Path) -> anyhow::Result<Process> {
    let config = folder.join("config.yaml");
    let (socket, own) = (socket.to_str().context("a path of letters")?, folder.join("own.sock"));
    let text = format!(
        "grpc_server:\n  socket_path: {}\ncommon:\n  edgecore_sock: {socket}\nrest:\n  enabled: false\n",
        own.display()
    );
    std::fs::write(&config, text)?;
    let config = config.to_str().context("a path of letters")?;
    Process::start(&binaries()?.join("skerry-mapper-modbus"), &["--config-file", config], folder)
}

fn api(cluster: &Cluster, kind: &str, plural: &str) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "devices.kubeedge.io".to_owned(),
        version: "v1beta1".to_owned(),
        api_version: "devices.kubeedge.io/v1beta1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    Api::namespaced_with(cluster.client.clone(), "default", &resource)
}

async fn objects(cluster: &Cluster, node: &str, port: u16) -> anyhow::Result<()> {
    let model = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "tank"}, "spec": {"protocol": "modbus", "properties": [
            {"name": "setpoint", "type": "INT", "accessMode": "ReadWrite"},
            {"name": "level", "type": "INT", "accessMode": "ReadOnly"}]}});
    let property = |name: &str, register: usize| {
        json!({"name": name, "collectCycle": CYCLE_MS, "reportCycle": 60_000, "reportToCloud": true, "visitors": {
            "protocolName": "modbus", "configData": {"register": "HoldingRegister", "offset": register, "limit": 1}}})
    };
    let device = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": {"name": "tank"},
        "spec": {"nodeName": node, "deviceModelRef": {"name": "tank"},
            "protocol": {"protocolName": "modbus", "configData":
                {"communicateMode": "TCP", "ip": "127.0.0.1", "port": port, "slaveID": 1}},
            "properties": [property("setpoint", SETPOINT), property("level", LEVEL)]}});
    let create = PostParams::default();
    api(cluster, "DeviceModel", "devicemodels").create(&create, &serde_json::from_value(model)?).await?;
    api(cluster, "Device", "devices").create(&create, &serde_json::from_value(device)?).await?;
    Ok(())
}

/// From the call of the API to the register.
async fn down(cluster: &Cluster, device: &Device, patches: u16, figures: &mut Figures) -> anyhow::Result<()> {
    let devices = api(cluster, "Device", "devices");
    let mut took = Vec::new();
    say(&format!("{patches} desired values"));
    // The first one waits for the mapper, and is not counted.
    for turn in 0..=patches {
        let value = turn + 1;
        let mut written = device.written.subscribe();
        let begun = Instant::now();
        let patch = json!([{"op": "add", "path": "/spec/properties/0/desired", "value": {"value": value.to_string()}}]);
        let patch: Patch<()> = Patch::Json(serde_json::from_value(patch)?);
        devices.patch("tank", &PatchParams::default(), &patch).await?;
        let at = timeout(PATIENCE, written.wait_for(|written| written.is_some_and(|(last, _)| last == value))).await;
        let at = at.with_context(|| format!("{value} is not written"))??.context("it was")?.1;
        if turn > 0 {
            took.push(at.duration_since(begun).as_secs_f64() * 1e3);
        }
        // At any time of a cycle.
        sleep(Duration::from_millis(100 + u64::from(turn) * 37 % 250)).await;
    }
    figures.at_most("devices: patch to register written, p50", percentile(&mut took, 0.5), "ms", P50);
    figures.at_most("devices: patch to register written, p99", percentile(&mut took, 0.99), "ms", P99);
    figures.info("devices: patch to register written, longest", percentile(&mut took, 1.0), "ms");
    Ok(())
}

/// From the answer that had the new value to the event of a watch.
async fn up(cluster: &Cluster, device: &Device, changes: u16, figures: &mut Figures) -> anyhow::Result<()> {
    let statuses = api(cluster, "DeviceStatus", "devicestatuses");
    let version = statuses.list(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
    let mut events = statuses.watch(&WatchParams::default(), &version).await?.boxed();
    let mut took = Vec::new();
    say(&format!("{changes} changes of a register, each {COALESCED}.5 s"));
    for turn in 0..changes {
        sleep(Duration::from_millis(COALESCED * 1_000 + 500 + u64::from(turn) * 37 % 100)).await;
        let value = 10_000 + turn;
        device.change(value);
        let seen = async {
            while let Some(event) = events.next().await {
                let (WatchEvent::Added(status) | WatchEvent::Modified(status)) = event? else { continue };
                let twins = status.data.pointer("/status/twins").and_then(|twins| twins.as_array());
                let text = |twin: &serde_json::Value, path: &str| twin.pointer(path)?.as_str().map(str::to_owned);
                let level = twins.into_iter().flatten().find(|t| text(t, "/propertyName").as_deref() == Some("level"));
                if level.and_then(|twin| text(twin, "/reported/value")) == Some(value.to_string()) {
                    return anyhow::Ok(Instant::now());
                }
            }
            anyhow::bail!("the watch ended")
        };
        let seen = timeout(PATIENCE, seen).await.with_context(|| format!("{value} does not arrive"))??;
        let read = device.read_at().context("it was read")?;
        took.push(seen.duration_since(read).as_secs_f64() * 1e3);
    }
    figures.at_most("devices: register read to DeviceStatus, p50", percentile(&mut took, 0.5), "ms", P50);
    figures.at_most("devices: register read to DeviceStatus, p99", percentile(&mut took, 0.99), "ms", P99);
    figures.info("devices: register read to DeviceStatus, longest", percentile(&mut took, 1.0), "ms");
    Ok(())
}

/// Two holding registers that know when they were touched.
struct Device {
    registers: Mutex<[u16; 2]>,
    /// The last value that was written to the first, and when.
    written: watch::Sender<Option<(u16, Instant)>>,
    /// When the second was read first since it changed.
    read: Mutex<Option<Instant>>,
}

impl Default for Device {
    fn default() -> Self {
        Self { registers: Mutex::default(), written: watch::Sender::new(None), read: Mutex::default() }
    }
}

impl Device {
    fn change(&self, value: u16) {
        let mut registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        let [_, level] = &mut *registers;
        *level = value;
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn read_at(&self) -> Option<Instant> {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request; `None` for one that a device like this does not know.
    fn answer(&self, function: u8, first: u16, rest: u16) -> Option<Vec<u8>> {
        let mut registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        match function {
            3 => {
                let wanted = usize::from(first)..usize::from(first.checked_add(rest)?);
                let includes_level = wanted.contains(&LEVEL);
                let values = registers.get(wanted)?;
                let mut answer = vec![3, u8::try_from(2 * values.len()).ok()?];
                answer.extend(values.iter().flat_map(|value| value.to_be_bytes()));
                if includes_level {
                    self.read.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
                }
                Some(answer)
            }
            6 => {
                *registers.get_mut(usize::from(first))? = rest;
                self.written.send_replace(Some((rest, Instant::now())));
                let ([a, b], [c, d]) = (first.to_be_bytes(), rest.to_be_bytes());
                Some(vec![6, a, b, c, d])
            }
            _ => None,
        }
    }
}

async fn serve(listener: TcpListener, device: Arc<Device>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, Arc::clone(&device)));
    }
}

async fn connection(mut stream: TcpStream, device: Arc<Device>) -> Option<()> {
    let _ = stream.set_nodelay(true);
    loop {
        // Transaction, protocol, length, unit, function, address, and a count or a value.
        let mut frame = [0_u8; 12];
        stream.read_exact(&mut frame).await.ok()?;
        let [t1, t2, _, _, _, _, unit, function, a1, a2, c1, c2] = frame;
        let body = device.answer(function, u16::from_be_bytes([a1, a2]), u16::from_be_bytes([c1, c2]));
        // Illegal function: also what writes of several registers are answered with, which the mapper can do without.
        let body = body.unwrap_or_else(|| vec![function | 0x80, 1]);
        let mut answer = vec![t1, t2, 0, 0];
        answer.extend((u16::try_from(body.len()).ok()? + 1).to_be_bytes());
        answer.push(unit);
        answer.extend(body);
        stream.write_all(&answer).await.ok()?;
    }
}
