//! `make bench-dmi`: what one node takes from its mappers, and what of it the cloud hears.
//!
//! Two parts. `alone`: dmi as a process, with an edgehub of the benchmark's own; calls of v1beta1 and values of
//! streams a second, how long each takes, processor time. `node`: the program that is shipped to nodes, on a real
//! runtime, with the whole cloud beside it, under the same load; its memory, and every write that arrives in the
//! API. The times are of `alone`, because in `node` API server, controllers and mappers of the same machine take
//! the processors from the node; they are printed there too. Loads are paced a fifth above their targets: times
//! of a flooded node say nothing.

mod load;
mod mapper;
mod objects;
mod writes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{Api, DynamicObject, PostParams};
use serde_json::json;
use skerry_bench::cluster::{Cluster, Ports, VALUE_SECONDS};
use skerry_bench::figures::{Figures, percentile};
use skerry_bench::machine::Machine;
use skerry_bench::proc::{Process, binaries};
use skerry_bench::say;
use skerry_common::kinds;
use skerry_proto::dmi::v1;
use skerry_rpc::Channel;
use skerry_test_support::Hub;
use tokio::time::Instant;

use load::{Load, Measured};
use objects::{MODEL, NAMESPACE, Plant, name};
use writes::Writes;

/// First port of the cloud, and of the node.
const PORTS: u16 = 22_600;
const NODE_PORT: u16 = 22_650;
/// Name of the node.
const NODE: &str = "bench-node";
/// The least that is reported in a second.
const CALLS: f64 = 10_000.0;
const VALUES: f64 = 100_000.0;
/// The most that one may take, milliseconds.
const P99: f64 = 5.0;
/// What the node may have, megabytes.
const MEMORY: f64 = 60.0;
/// Writes of the values of one device are ten seconds apart; the time of a write varies a little.
const GAP: Duration = Duration::from_millis(9_500);
/// What is new at the start goes up at once, and so does what becomes of the devices of mappers that ended: two
/// writes for each of a thousand devices, of which DeviceController makes 200 in a second at most. Then it is settled.
const WARM: Duration = Duration::from_secs(40);
/// How long the node may take to know its devices.
const PATIENCE: Duration = Duration::from_secs(120);
/// Objects that are created at a time.
const AT_A_TIME: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Alone,
    Node,
}

/// Measures devices on one node.
#[derive(Parser)]
struct Args {
    /// Parts to run; all without
    #[arg(long, value_enum)]
    part: Vec<Part>,
    /// The program of nodes; the one beside this benchmark without
    #[arg(long)]
    program: Option<PathBuf>,
    /// dmi as a program of its own; the one beside this benchmark without
    #[arg(long)]
    dmi: Option<PathBuf>,
    /// Devices of the node
    #[arg(long, default_value_t = 1000)]
    devices: u64,
    /// Mappers of each interface
    #[arg(long, default_value_t = 10)]
    mappers: u64,
    /// Seconds over which each load is measured
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Calls of v1beta1 in a second
    #[arg(long, default_value_t = 12_000)]
    calls: u64,
    /// Values of streams in a second
    #[arg(long, default_value_t = 120_000)]
    values: u64,
}

impl Args {
    fn plant(&self) -> Plant {
        Plant { devices: self.devices, mappers: self.mappers.max(1) }
    }

    fn load(&self, socket: &Path, folder: &Path, rate: u64, warm: Duration) -> Load {
        let (socket, folder) = (socket.to_owned(), folder.to_owned());
        Load { socket, folder, plant: self.plant(), rate, warm, lasts: Duration::from_secs(self.seconds) }
    }
}

fn main() -> ExitCode {
    skerry_bench::exit(skerry_bench::run(bench(Args::parse())))
}

async fn bench(args: Args) -> anyhow::Result<()> {
    let mut figures = Figures::default();
    let wanted = |part| args.part.is_empty() || args.part.contains(&part);
    if wanted(Part::Alone) {
        alone(&args, &mut figures).await?;
    }
    if wanted(Part::Node) {
        node(&args, &mut figures).await?;
    }
    figures.verdict()
}

async fn alone(args: &Args, figures: &mut Figures) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let hub_socket = dir.path().join("edgehub.sock");
    let (hub, _trigger) = Hub::start_at(&hub_socket).await;
    hub.put(kinds::LINK, "", "link", json!({ "connected": true }));
    for device in 0..args.devices {
        hub.put(kinds::DEVICE, NAMESPACE, &name(device), args.plant().device(device, NODE));
    }
    hub.put(kinds::DEVICE_MODEL, NAMESPACE, MODEL, objects::model());
    let (socket, config) = (dir.path().join("dmi.sock"), dir.path().join("dmi.yaml"));
    let settings = json!({
        "nodeName": NODE, "store": dir.path().join("store"), "edgehub": hub_socket,
        "dmi": { "socket": socket, "mapperSocketDirs": [dir.path()] },
    });
    std::fs::write(&config, settings.to_string())?;
    let program = match &args.dmi {
        Some(program) => program.clone(),
        None => binaries()?.join("skerry-dmi"),
    };
    let config = config.to_str().context("a path is text")?;
    let dmi = Process::start(&program, &["--config", config, "--admin", "127.0.0.1:0"], dir.path())?;
    say(&format!("dmi alone: {} devices", args.devices));
    known(&socket, args.devices).await?;
    figures.info("dmi alone: memory with its devices", dmi.resident_kib()? * 1.024e-3, "MB");
    for calls in [true, false] {
        say(&format!("dmi alone: {} for {} s", if calls { "calls" } else { "streams" }, args.seconds));
        let warm = Duration::from_secs(3);
        let load = args.load(&socket, dir.path(), if calls { args.calls } else { args.values }, warm);
        let (cpu, begun) = (dmi.cpu_seconds()?, Instant::now());
        let measured = if calls { load::calls(&load).await? } else { load::streams(&load).await? };
        let cores = (dmi.cpu_seconds()? - cpu) / begun.elapsed().as_secs_f64();
        show(figures, "dmi alone", calls, measured, true);
        figures.info(&format!("dmi alone: processor of {}", kind(calls)), cores, "cores");
    }
    figures.info("dmi alone: memory under load", dmi.resident_kib()? * 1.024e-3, "MB");
    Ok(())
}

async fn node(args: &Args, figures: &mut Figures) -> anyhow::Result<()> {
    say("node: starting the cloud and a node");
    let cluster = Cluster::with_devices(Ports(PORTS), VALUE_SECONDS).await?;
    let program = args.program.clone().map_or_else(Machine::shipped, Ok)?;
    let machine = Machine::start(&cluster, NODE, NODE_PORT, &program).await?;
    let measured = on(args, &cluster, &machine, figures).await;
    if measured.is_err() {
        say(&format!("the node's log ends with:\n{}", machine.log()));
    }
    measured
}

async fn on(args: &Args, cluster: &Cluster, machine: &Machine, figures: &mut Figures) -> anyhow::Result<()> {
    say(&format!("node: creating {} devices", args.devices));
    create(args, &cluster.client).await?;
    let socket = machine.dmi_socket();
    known(&socket, args.devices).await?;
    let agent = machine.agent()?;
    figures.info("node: memory with its devices", agent.resident_kib()? * 1.024e-3, "MB");
    let mut most: f64 = 0.0;
    for calls in [true, false] {
        say(&format!("node: {} for {} s, after {} s", kind(calls), args.seconds, WARM.as_secs()));
        let load = args.load(&socket, machine.containerd.dir(), if calls { args.calls } else { args.values }, WARM);
        let statuses = Writes::watch(&cluster.client, "DeviceStatus", "devicestatuses").await?;
        let devices = Writes::watch(&cluster.client, "Device", "devices").await?;
        let settled = async {
            tokio::time::sleep(WARM).await;
            statuses.begin();
            devices.begin();
        };
        let cpu = async {
            tokio::time::sleep(WARM).await;
            agent.cpu_share(Duration::from_secs(args.seconds)).await
        };
        let work = async { if calls { load::calls(&load).await } else { load::streams(&load).await } };
        let (measured, (), cores) = tokio::join!(work, settled, cpu);
        most = most.max(agent.resident_kib()? * 1.024e-3);
        let measured = measured?;
        show(figures, "node", calls, measured, false);
        figures.info(&format!("node: processor of {}", kind(calls)), cores?, "cores");
        let (written, soon) = statuses.count(GAP).await?;
        figures.info(&format!("node: statuses written during {}", kind(calls)), written as f64, "writes");
        let name = format!("node: statuses written sooner than the pace during {}", kind(calls));
        figures.at_most(&name, soon as f64, "writes", 0.0);
        let (written, _) = devices.count(GAP).await?;
        figures.at_most(&format!("node: Devices written during {}", kind(calls)), written as f64, "writes", 0.0);
    }
    figures.at_most("node: memory under load", most, "MB", MEMORY);
    Ok(())
}

fn kind(calls: bool) -> &'static str {
    if calls { "v1beta1 calls" } else { "stream values" }
}

fn show(figures: &mut Figures, of: &str, calls: bool, mut measured: Measured, timed: bool) {
    let target = if calls { CALLS } else { VALUES };
    figures.at_least(&format!("{of}: {}", kind(calls)), measured.rate(), "/s", target);
    figures.at_most(&format!("{of}: {} refused", kind(calls)), measured.refused as f64, "", 0.0);
    let what = if calls { "v1beta1 call" } else { "stream ack" };
    figures.info(&format!("{of}: {what} p50"), percentile(&mut measured.millis, 0.5), "ms");
    let (name, p99) = (format!("{of}: {what} p99"), percentile(&mut measured.millis, 0.99));
    if timed {
        figures.at_most(&name, p99, "ms", P99);
    } else {
        figures.info(&name, p99, "ms");
    }
    figures.info(&format!("{of}: {what} longest"), percentile(&mut measured.millis, 1.0), "ms");
}

async fn create(args: &Args, client: &kube::Client) -> anyhow::Result<()> {
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
    let models = writes::resource("DeviceModel", "devicemodels");
    let models: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &models);
    models.create(&PostParams::default(), &serde_json::from_value(objects::model())?).await?;
    let devices = writes::resource("Device", "devices");
    let devices: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &devices);
    let create = |device| {
        let (devices, object) = (devices.clone(), args.plant().device(device, NODE));
        async move {
            devices.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
            anyhow::Ok(())
        }
    };
    stream::iter(0..args.devices).map(create).buffer_unordered(AT_A_TIME).try_collect::<()>().await
}

/// Waits until the node knows all its devices.
async fn known(socket: &Path, devices: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    for device in (0..devices).rev() {
        let key = v1::DeviceKey { namespace: NAMESPACE.into(), name: name(device) };
        loop {
            let mut client = v1::devices_client::DevicesClient::new(Channel::unix(socket));
            match client.get_device(v1::GetDeviceRequest { device: Some(key.clone()) }).await {
                Ok(_) => break,
                Err(error) if begun.elapsed() > PATIENCE => {
                    return Err(error).context("the node does not know its devices");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
    Ok(())
}
