//! What the mappers do: calls and streams at a rate, each measured from the moment at which it was due, so that
//! a node that stands still for a moment is not asked less often, and not measured less often.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use skerry_proto::dmi::v1;
use skerry_proto::dmi::v1::mapper_message::Message as Up;
use skerry_proto::dmi::v1::mappers_client::MappersClient;
use skerry_proto::dmi::v1::node_message::Message as Down;
use skerry_proto::dmi::v1beta1 as beta;
use skerry_proto::dmi::v1beta1::device_manager_service_client::DeviceManagerServiceClient;
use skerry_rpc::Channel;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::mapper::Called;
use crate::objects::{NAMESPACE, PROPERTIES, Plant, name};

/// Calls of one mapper at a time.
const CALLS: u64 = 8;
/// Values in one message of a stream.
const BATCH: u64 = 200;
/// A timer is so late by itself: of what is less nobody says that the node was slow.
const TIMER: Duration = Duration::from_millis(2);

/// A load at a rate.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// dmi's socket.
    pub(crate) socket: PathBuf,
    /// Where mappers have their own.
    pub(crate) folder: PathBuf,
    pub(crate) plant: Plant,
    /// Calls or values of all mappers in a second.
    pub(crate) rate: u64,
    /// Until it counts.
    pub(crate) warm: Duration,
    /// How long it counts.
    pub(crate) lasts: Duration,
}

/// What a load has measured.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// Taken by the node.
    pub(crate) done: u64,
    pub(crate) refused: u64,
    pub(crate) seconds: f64,
    pub(crate) millis: Vec<f64>,
}

impl Measured {
    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.refused += other.refused;
        self.seconds = self.seconds.max(other.seconds);
        self.millis.extend(other.millis);
    }

    /// What was taken in a second.
    #[expect(clippy::cast_precision_loss, reason = "a count of this size is exact")]
    pub(crate) fn rate(&self) -> f64 {
        self.done as f64 / self.seconds
    }
}

/// Turns at a rate, which begin now.
struct Pace {
    begun: Instant,
    each: Duration,
    turn: u32,
    warm: Duration,
    lasts: Duration,
}

impl Pace {
    fn new(load: &Load, per_second: u64) -> Self {
        let each = Duration::from_secs(1).checked_div(u32::try_from(per_second.max(1)).unwrap_or(u32::MAX));
        Self { begun: Instant::now(), each: each.unwrap_or_default(), turn: 0, warm: load.warm, lasts: load.lasts }
    }

    /// Waits for the next turn: from when on it is measured, and whether it counts. Nothing at the end.
    async fn next(&mut self) -> Option<(Instant, bool)> {
        let due = self.begun + self.each * self.turn;
        self.turn = self.turn.saturating_add(1);
        if due >= self.begun + self.warm + self.lasts {
            return None;
        }
        tokio::time::sleep_until(due).await;
        Some((Instant::now().min(due + TIMER), due >= self.begun + self.warm))
    }

    /// Seconds that counted, as long as they took.
    fn seconds(&self) -> f64 {
        self.begun.elapsed().saturating_sub(self.warm).as_secs_f64()
    }
}

/// Reports by calls of v1beta1, one value each, of all mappers.
pub(crate) async fn calls(load: &Load) -> anyhow::Result<Measured> {
    all(load, unary).await
}

/// Reports by streams.
pub(crate) async fn streams(load: &Load) -> anyhow::Result<Measured> {
    all(load, stream).await
}

async fn all<F>(load: &Load, one: impl Fn(Load, u64) -> F) -> anyhow::Result<Measured>
where
    F: Future<Output = anyhow::Result<Measured>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for mapper in 0..load.plant.mappers {
        tasks.spawn(one(load.clone(), mapper));
    }
    let mut sum = Measured::default();
    while let Some(done) = tasks.join_next().await {
        sum.add(done??);
    }
    Ok(sum)
}

async fn unary(load: Load, mapper: u64) -> anyhow::Result<Measured> {
    let own: Arc<[u64]> = load.plant.of("beta", mapper).into();
    let address = load.folder.join(format!("m{mapper}.sock"));
    let _called = Called::listen(&address).await?;
    let mut client = register(&load.socket, &address, mapper, own.len()).await?;
    // The state of a device is what a mapper reports first.
    for device in own.iter() {
        let state = beta::ReportDeviceStatesRequest {
            device_name: name(*device),
            device_namespace: NAMESPACE.into(),
            state: "online".into(),
        };
        client.report_device_states(state).await?;
    }
    let rate = load.rate / load.plant.mappers / CALLS;
    let mut lanes = JoinSet::new();
    for lane in 0..CALLS {
        let (mut client, own, load) = (client.clone(), Arc::clone(&own), load.clone());
        lanes.spawn(async move {
            let mut measured = Measured::default();
            // Lanes of one mapper, and mappers, do not call in step.
            let shift = Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(1);
            let part = u32::try_from(lane * load.plant.mappers + mapper).unwrap_or(0);
            let parts = u32::try_from(CALLS * load.plant.mappers).unwrap_or(1);
            tokio::time::sleep(shift * part / parts).await;
            let mut pace = Pace::new(&load, rate);
            let mut sent = lane;
            while let Some((from, counts)) = pace.next().await {
                sent += CALLS;
                let at = usize::try_from(sent / PROPERTIES).unwrap_or_default() % own.len().max(1);
                let report = report(own.get(at).copied().unwrap_or_default(), sent);
                let taken = client.report_device_status(report).await.is_ok();
                if counts {
                    measured.done += u64::from(taken);
                    measured.refused += u64::from(!taken);
                    measured.millis.push(from.elapsed().as_secs_f64() * 1000.0);
                }
            }
            measured.seconds = pace.seconds();
            measured
        });
    }
    let mut sum = Measured::default();
    while let Some(lane) = lanes.join_next().await {
        sum.add(lane?);
    }
    Ok(sum)
}

async fn register(
    socket: &Path,
    address: &Path,
    mapper: u64,
    devices: usize,
) -> anyhow::Result<DeviceManagerServiceClient<Channel>> {
    let info = beta::MapperInfo {
        name: format!("beta-{mapper}"),
        protocol: format!("beta-{mapper}"),
        address: address.to_str().context("a path is text")?.as_bytes().to_vec(),
        ..Default::default()
    };
    let request = beta::MapperRegisterRequest { with_data: true, mapper: Some(info) };
    let mut client = DeviceManagerServiceClient::new(Channel::unix(socket)).max_decoding_message_size(4 << 20);
    let answer = client.mapper_register(request).await?.into_inner();
    anyhow::ensure!(answer.device_list.len() == devices, "{} devices came, not {devices}", answer.device_list.len());
    Ok(client)
}

/// As KubeEdge's mappers report: one property in a call, with what is believed to be desired.
fn report(device: u64, sent: u64) -> beta::ReportDeviceStatusRequest {
    let metadata = [("timestamp".to_owned(), "1700000000000".to_owned()), ("type".to_owned(), "double".to_owned())];
    let value = beta::TwinProperty { value: format!("{}.5", sent % 1000), metadata: metadata.into() };
    let twin = beta::Twin {
        property_name: format!("p{}", sent % PROPERTIES),
        observed_desired: Some(beta::TwinProperty::default()),
        reported: Some(value),
    };
    beta::ReportDeviceStatusRequest {
        device_name: name(device),
        device_namespace: NAMESPACE.into(),
        reported_device: Some(beta::DeviceStatus { twins: vec![twin], ..Default::default() }),
    }
}

async fn stream(load: Load, mapper: u64) -> anyhow::Result<Measured> {
    let own = load.plant.of("stream", mapper);
    let (send, queue) = mpsc::channel(64);
    let say = async |message| send.send(v1::MapperMessage { message: Some(message) }).await;
    let who = format!("stream-{mapper}");
    say(Up::Hello(v1::Hello { name: who.clone(), protocol: who, ..Default::default() })).await?;
    let mut client = MappersClient::new(Channel::unix(&load.socket)).max_decoding_message_size(4 << 20);
    let mut incoming = client.connect(ReceiverStream::new(queue)).await?.into_inner();
    let mut came = Vec::new();
    loop {
        match incoming.message().await?.and_then(|message| message.message) {
            Some(Down::AllSent(_)) => break,
            Some(Down::Device(device)) => {
                came.extend(device.key.clone());
                let applied = v1::Applied { device: device.key, version: device.version, error: String::new() };
                say(Up::Applied(applied)).await?;
            }
            Some(_) => {}
            None => anyhow::bail!("the stream ended"),
        }
    }
    anyhow::ensure!(came.len() == own.len(), "{} devices came, not {}", came.len(), own.len());
    let online =
        |device| v1::StateReport { device: Some(device), state: v1::DeviceState::Online.into(), reason: String::new() };
    say(Up::States(v1::StateReports { states: came.into_iter().map(online).collect() })).await?;
    let rate = load.rate / load.plant.mappers / BATCH;
    tokio::time::sleep(
        Duration::from_secs(1) / u32::try_from(rate.max(1) * load.plant.mappers)? * u32::try_from(mapper)?,
    )
    .await;
    let mut measured = Measured::default();
    let (mut pace, mut sequence) = (Pace::new(&load, rate), 0);
    while let Some((from, counts)) = pace.next().await {
        sequence += 1;
        say(Up::Reports(batch(&own, sequence))).await?;
        let refused = loop {
            match incoming.message().await?.and_then(|message| message.message) {
                Some(Down::Ack(ack)) if ack.sequence == sequence => break ack.refused.len() as u64,
                Some(_) => {}
                None => anyhow::bail!("the stream ended"),
            }
        };
        if counts {
            measured.refused += refused;
            measured.done += BATCH.saturating_sub(refused);
            measured.millis.push(from.elapsed().as_secs_f64() * 1000.0);
        }
    }
    measured.seconds = pace.seconds();
    Ok(measured)
}

fn batch(own: &[u64], sequence: u64) -> v1::Reports {
    let per_batch = BATCH / PROPERTIES;
    let devices = (0..per_batch).map(|n| {
        let at = usize::try_from(sequence * per_batch + n).unwrap_or_default() % own.len().max(1);
        let value = |property| v1::Value {
            property: format!("p{property}"),
            value: Some(v1::value::Value::Number((sequence % 1000) as f64 + 0.25)),
            quality: v1::Quality::Good.into(),
            source_unix_ms: 1_700_000_000_000,
            ..Default::default()
        };
        v1::DeviceValues {
            device: Some(v1::DeviceKey {
                namespace: NAMESPACE.into(),
                name: name(own.get(at).copied().unwrap_or_default()),
            }),
            values: (0..PROPERTIES).map(value).collect(),
        }
    });
    v1::Reports { sequence, devices: devices.collect() }
}
