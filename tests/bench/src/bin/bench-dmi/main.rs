//! `make bench-dmi`: what one node takes from its mappers: calls of DMI v1beta1, values of the stream, memory,
//! and what of it the cloud hears.
//!
//! dmi runs as shipped, as a process of its own; in the place of edgehub there is one of this process, which
//! counts what would go up. Reports are paced above their target, so that the times are those of a busy node
//! and not of one that is flooded.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use serde_json::{Value, json};
use skerry_bench::figures::{Figures, percentile};
use skerry_bench::proc::{Process, binaries};
use skerry_bench::say;
use skerry_common::kinds;
use skerry_proto::dmi::v1;
use skerry_proto::dmi::v1::mapper_message::Message as Up;
use skerry_proto::dmi::v1::mappers_client::MappersClient;
use skerry_proto::dmi::v1::node_message::Message as Down;
use skerry_proto::dmi::v1beta1 as beta;
use skerry_proto::dmi::v1beta1::device_manager_service_client::DeviceManagerServiceClient;
use skerry_rpc::Channel;
use skerry_test_support::Hub;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// Properties of a device.
const PROPERTIES: u64 = 10;
/// How often a paced sender looks what is due.
const PACE: Duration = Duration::from_millis(2);
/// Calls of one mapper at a time.
const CALLS: usize = 8;
/// Values in one message of a stream.
const BATCH: u64 = 200;
/// The coalescing time of statuses, dmi's default, in seconds.
const STATUS_SECONDS: f64 = 10.0;
/// How long the node may take to know its devices.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Args {
    /// The program to measure; beside this one when not given
    #[arg(long)]
    program: Option<PathBuf>,
    /// Devices of the node
    #[arg(long, default_value_t = 1000)]
    devices: u64,
    /// Mappers of each interface
    #[arg(long, default_value_t = 10)]
    mappers: u64,
    /// Seconds of each part
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Calls of v1beta1 in a second
    #[arg(long, default_value_t = 12_000)]
    calls: u64,
    /// Values of streams in a second
    #[arg(long, default_value_t = 120_000)]
    values: u64,
}

/// What a part has measured.
#[derive(Debug, Default)]
struct Part {
    done: u64,
    refused: u64,
    seconds: f64,
    millis: Vec<f64>,
}

impl Part {
    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.refused += other.refused;
        self.seconds = self.seconds.max(other.seconds);
        self.millis.extend(other.millis);
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of this size is exact")]
    fn rate(&self) -> f64 {
        self.done as f64 / self.seconds
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let hub_socket = dir.path().join("edgehub.sock");
    let (hub, _trigger) = Hub::start_at(&hub_socket).await;
    hub.put(kinds::LINK, "", "link", json!({ "connected": true }));
    for device in 0..args.devices {
        let protocol = protocol(device, &args);
        hub.put(kinds::DEVICE, "plant", &name(device), object(device, &protocol));
    }
    hub.put(kinds::DEVICE_MODEL, "plant", "gauge", model());
    let socket = dir.path().join("dmi.sock");
    let config = dir.path().join("dmi.yaml");
    let settings = json!({
        "nodeName": "bench", "store": dir.path().join("store"), "edgehub": hub_socket,
        "dmi": { "socket": socket, "mapperSocketDirs": [dir.path()] },
    });
    std::fs::write(&config, settings.to_string())?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => binaries()?.join("skerry-dmi"),
    };
    let config = config.to_str().context("a path is text")?;
    let process = Process::start(&program, &["--config", config, "--admin", "127.0.0.1:0"], dir.path())?;
    let mut figures = Figures::default();
    known(&socket, &args).await?;
    figures.info("resident memory, devices known", process.resident_kib()? / 1024.0, "MiB");

    let cpu = process.cpu_seconds()?;
    let mut calls =
        every(&args, |mapper| unary(socket.clone(), dir.path().join(format!("m{mapper}.sock")), mapper, &args)).await?;
    say(&format!("{} calls, {} refused", calls.done, calls.refused));
    figures.at_least("v1beta1 reports", calls.rate(), "/s", 10_000.0);
    figures.info("v1beta1 reports p50", percentile(&mut calls.millis, 0.5), "ms");
    figures.at_most("v1beta1 reports p99", percentile(&mut calls.millis, 0.99), "ms", 5.0);
    figures.info("processor time of v1beta1 reports", (process.cpu_seconds()? - cpu) / calls.seconds, "cores");

    let cpu = process.cpu_seconds()?;
    let mut values = every(&args, |mapper| stream(socket.clone(), mapper, &args)).await?;
    say(&format!("{} values, {} refused", values.done, values.refused));
    figures.at_least("stream values", values.rate(), "/s", 100_000.0);
    figures.info("stream ack p50", percentile(&mut values.millis, 0.5), "ms");
    figures.at_most("stream ack p99", percentile(&mut values.millis, 0.99), "ms", 5.0);
    figures.info("processor time of stream values", (process.cpu_seconds()? - cpu) / values.seconds, "cores");
    figures.at_most("refused", (calls.refused + values.refused) as f64, "values", 0.0);

    figures.at_most("resident memory", process.resident_kib()? / 1024.0, "MiB", 60.0);
    // At once: the start, a first value, a state or condition of each of the two mappers; then the pace.
    let paced = (calls.seconds + values.seconds) / STATUS_SECONDS + 12.0;
    let told = hub.received(kinds::DEVICE_STATUS).len() as f64 / args.devices as f64;
    figures.at_most("statuses of a device", told, "", paced);
    figures.verdict()
}

fn name(device: u64) -> String {
    format!("gauge-{device}")
}

/// The first half of the devices is of mappers of v1beta1, the other of streams.
fn protocol(device: u64, args: &Args) -> String {
    let kind = if device < args.devices / 2 { "beta" } else { "stream" };
    format!("{kind}-{}", device % args.mappers)
}

fn devices(kind: &str, mapper: u64, args: &Args) -> Vec<u64> {
    (0..args.devices).filter(|device| protocol(*device, args) == format!("{kind}-{mapper}")).collect()
}

fn model() -> Value {
    let property = |n| json!({ "name": format!("p{n}"), "type": "DOUBLE", "accessMode": "ReadOnly" });
    json!({ "metadata": { "uid": "model" }, "spec": { "properties": (0..PROPERTIES).map(property).collect::<Vec<_>>() } })
}

fn object(device: u64, protocol: &str) -> Value {
    let property = |n| {
        json!({ "name": format!("p{n}"), "reportToCloud": true, "collectCycle": 1000, "reportCycle": 1000,
            "visitors": { "protocolName": protocol, "configData": { "register": "HoldingRegister", "offset": n, "scale": 0.1 } } })
    };
    json!({
        "metadata": { "uid": format!("uid-{device}"), "generation": 1 },
        "spec": {
            "deviceModelRef": { "name": "gauge" }, "nodeName": "bench",
            "protocol": { "protocolName": protocol, "configData": { "address": "10.0.0.1:502", "unit": device % 250 } },
            "properties": (0..PROPERTIES).map(property).collect::<Vec<_>>(),
        },
    })
}

/// Waits until the node knows all its devices.
async fn known(socket: &Path, args: &Args) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let channel = Channel::unix(socket);
        let mut client = v1::devices_client::DevicesClient::new(channel).max_decoding_message_size(64 << 20);
        let request = v1::GetDeviceRequest {
            device: Some(v1::DeviceKey { namespace: "plant".into(), name: name(args.devices.saturating_sub(1)) }),
        };
        match client.get_device(request).await {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() > PATIENCE => {
                return Err(error).context("the node does not know its devices");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Runs a part with all its mappers.
async fn every<F>(args: &Args, part: impl Fn(u64) -> F) -> anyhow::Result<Part>
where
    F: Future<Output = anyhow::Result<Part>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for mapper in 0..args.mappers {
        tasks.spawn(part(mapper));
    }
    let mut sum = Part::default();
    while let Some(done) = tasks.join_next().await {
        sum.add(done??);
    }
    Ok(sum)
}

/// What is due after a time, at a rate.
fn due(started: Instant, per_second: u64) -> u64 {
    let passed = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    passed.saturating_mul(per_second) / 1_000_000
}

fn unary(
    socket: PathBuf,
    address: PathBuf,
    mapper: u64,
    args: &Args,
) -> impl Future<Output = anyhow::Result<Part>> + Send + 'static {
    let own: Arc<[u64]> = devices("beta", mapper, args).into();
    let (rate, lasts) = (args.calls / args.mappers / CALLS as u64, Duration::from_secs(args.seconds));
    async move {
        let channel = Channel::unix(&socket);
        let info = beta::MapperInfo {
            name: format!("beta-{mapper}"),
            protocol: format!("beta-{mapper}"),
            address: address.to_str().context("a path is text")?.as_bytes().to_vec(),
            ..Default::default()
        };
        // Nobody calls back: the mapper is heard, which is enough.
        let request = beta::MapperRegisterRequest { with_data: true, mapper: Some(info) };
        let mut client = DeviceManagerServiceClient::new(channel).max_decoding_message_size(4 << 20);
        let answer = client.mapper_register(request).await?.into_inner();
        anyhow::ensure!(answer.device_list.len() == own.len(), "{} devices came", answer.device_list.len());
        let mut lanes = JoinSet::new();
        for lane in 0..CALLS as u64 {
            let (mut client, own) = (client.clone(), Arc::clone(&own));
            lanes.spawn(async move {
                let (mut part, started) = (Part::default(), Instant::now());
                let mut sent = lane;
                while started.elapsed() < lasts {
                    if part.done + part.refused >= due(started, rate) {
                        tokio::time::sleep(PACE).await;
                        continue;
                    }
                    sent += CALLS as u64;
                    let at = usize::try_from(sent / PROPERTIES).unwrap_or_default() % own.len().max(1);
                    let device = own.get(at).copied().unwrap_or_default();
                    let before = Instant::now();
                    match client.report_device_status(report(device, sent)).await {
                        Ok(_) => part.done += 1,
                        Err(_) => part.refused += 1,
                    }
                    part.millis.push(before.elapsed().as_secs_f64() * 1000.0);
                }
                part.seconds = started.elapsed().as_secs_f64();
                part
            });
        }
        let mut sum = Part::default();
        while let Some(part) = lanes.join_next().await {
            sum.add(part?);
        }
        Ok(sum)
    }
}

fn report(device: u64, sent: u64) -> beta::ReportDeviceStatusRequest {
    let value = beta::TwinProperty { value: format!("{}.5", sent % 1000), ..Default::default() };
    let twin = beta::Twin {
        property_name: format!("p{}", sent % PROPERTIES),
        observed_desired: Some(beta::TwinProperty::default()),
        reported: Some(value),
    };
    beta::ReportDeviceStatusRequest {
        device_name: name(device),
        device_namespace: "plant".into(),
        reported_device: Some(beta::DeviceStatus { twins: vec![twin], ..Default::default() }),
    }
}

fn stream(socket: PathBuf, mapper: u64, args: &Args) -> impl Future<Output = anyhow::Result<Part>> + Send + 'static {
    let own = devices("stream", mapper, args);
    let (rate, lasts) = (args.values / args.mappers, Duration::from_secs(args.seconds));
    async move {
        let (send, queue) = mpsc::channel(64);
        let who = format!("stream-{mapper}");
        let hello = v1::Hello { name: who.clone(), protocol: who, ..Default::default() };
        send.send(v1::MapperMessage { message: Some(Up::Hello(hello)) }).await?;
        let mut client = MappersClient::new(Channel::unix(&socket)).max_decoding_message_size(4 << 20);
        let mut incoming = client.connect(ReceiverStream::new(queue)).await?.into_inner();
        loop {
            match incoming.message().await?.and_then(|message| message.message) {
                Some(Down::AllSent(_)) => break,
                Some(Down::Device(device)) => {
                    let applied = v1::Applied { device: device.key, version: device.version, error: String::new() };
                    send.send(v1::MapperMessage { message: Some(Up::Applied(applied)) }).await?;
                }
                Some(_) => {}
                None => anyhow::bail!("the stream ended"),
            }
        }
        let (mut part, started) = (Part::default(), Instant::now());
        let mut sequence = 0;
        while started.elapsed() < lasts {
            if part.done + part.refused >= due(started, rate) {
                tokio::time::sleep(PACE).await;
                continue;
            }
            sequence += 1;
            let before = Instant::now();
            let reports = batch(&own, sequence);
            send.send(v1::MapperMessage { message: Some(Up::Reports(reports)) }).await?;
            loop {
                match incoming.message().await?.and_then(|message| message.message) {
                    Some(Down::Ack(ack)) => {
                        let refused = ack.refused.len() as u64;
                        part.refused += refused;
                        part.done += BATCH - refused.min(BATCH);
                        break;
                    }
                    Some(_) => {}
                    None => anyhow::bail!("the stream ended"),
                }
            }
            part.millis.push(before.elapsed().as_secs_f64() * 1000.0);
        }
        part.seconds = started.elapsed().as_secs_f64();
        Ok(part)
    }
}

fn batch(own: &[u64], sequence: u64) -> v1::Reports {
    let per_batch = BATCH / PROPERTIES;
    let devices = (0..per_batch).map(|n| {
        let at = usize::try_from(sequence * per_batch + n).unwrap_or_default() % own.len().max(1);
        let value = |property| v1::Value {
            property: format!("p{property}"),
            value: Some(v1::value::Value::Number((sequence % 1000) as f64 + 0.25)),
            quality: v1::Quality::Good.into(),
            ..Default::default()
        };
        v1::DeviceValues {
            device: Some(v1::DeviceKey {
                namespace: "plant".into(),
                name: name(own.get(at).copied().unwrap_or_default()),
            }),
            values: (0..PROPERTIES).map(value).collect(),
        }
    });
    v1::Reports { sequence, devices: devices.collect() }
}
