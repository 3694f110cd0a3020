//! One round: writes from both sides and faults at once, then rest, then judgement.
//!
//! What is done follows from the seed. Writers of a property are two tasks, one in the cloud and one at the node,
//! that know nothing of each other; faults come one after another. Bounds: a round lasts as long as its plan says,
//! and [`crate::PATIENCE`] for the rest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use kube::Client;
use kube::api::{Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::json;
use skerry_hub_tests::Mode;
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::devices_client::DevicesClient;
use skerry_rpc::Channel;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::api::devices_api;
use crate::history::{History, Taken, Write};
use crate::rest::{Rest, desired_in};
use crate::rng::Rng;
use crate::system::{Service, System, key};

/// The properties of a device, by who writes them: the node alone, the cloud alone, both; both the same few values,
/// over and over; both, where the device refuses some.
pub const PROPERTIES: [&str; 5] = ["edge", "cloud", "both", "few", "picky"];

/// Longest pauses: between two writes of a task, and of everything between two faults, milliseconds.
const WRITE_PAUSE_MS: u64 = 600;
const FAULT_PAUSE_MS: u64 = 500;
/// Longest time that something stays broken, milliseconds.
const BROKEN_MS: u64 = 1_500;
/// How long a person waits for the answer to a desired value.
const ANSWER: Duration = Duration::from_secs(5);
/// How long nobody may write anything, at rest.
const QUIET: Duration = Duration::from_secs(2);
/// Writes of DeviceController per device and second, both objects together, that are no storm: one a second of each
/// for what is urgent and for values, twice over for faults that turn conditions.
const WRITES_PER_SECOND: u64 = 8;

/// What a round is.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// From which everything follows.
    pub seed: u64,
    /// Devices that are written to.
    pub devices: usize,
    /// How long there are writes and faults.
    pub lasts: Duration,
}

type Key = (String, &'static str);

/// What is written down while writers run.
#[derive(Debug, Default)]
struct Journal {
    histories: BTreeMap<Key, History>,
    /// Writes in the cloud that were begun, by property.
    begun: BTreeMap<Key, usize>,
}

type Shared = Arc<Mutex<Journal>>;

fn locked(journal: &Shared) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Plays a round on devices that it makes, judges, and takes them away.
///
/// # Errors
/// What is not as it must be.
pub async fn round(system: &mut System, plan: Plan) -> anyhow::Result<()> {
    let mut rng = Rng::new(plan.seed);
    let names: Vec<String> = (0..plan.devices).map(|n| format!("d{}-{n}", plan.seed)).collect();
    for name in &names {
        system.device(name, &PROPERTIES).await?;
    }
    at_rest(system, &names).await.context("before anything was written")?;

    let journal = Shared::default();
    for name in &names {
        for property in PROPERTIES {
            let unique = property != "few";
            let history = History { versions: vec![Some(0)], unique, ..History::default() };
            locked(&journal).histories.insert((name.clone(), property), history);
        }
    }
    let watching = tokio::spawn(watch(system.client.clone(), Arc::clone(&journal)));
    let before = system.kubernetes.writes("devicecontroller");
    let (begun, ends) = (Instant::now(), Instant::now() + plan.lasts);
    let values = Arc::new(AtomicI64::new(1_000));
    let mut writers = JoinSet::new();
    for name in &names {
        for property in PROPERTIES {
            let writer = |rng: &mut Rng| Writer {
                at: (name.clone(), property),
                journal: Arc::clone(&journal),
                values: Arc::clone(&values),
                rng: rng.fork(),
                ends,
            };
            if property != "edge" {
                writers.spawn(writer(&mut rng).cloud(system.client.clone()));
            }
            if property != "cloud" {
                writers.spawn(writer(&mut rng).edge(system.devices()));
            }
        }
    }
    let broken = faults(system, &mut rng, ends).await;
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    let faults = broken?;
    let lasted = begun.elapsed();

    let rested = at_rest(system, &names).await;
    let judged = {
        let journal = locked(&journal);
        journal.histories.iter().try_for_each(|((name, property), history)| {
            history.judge().map_err(|why| anyhow::anyhow!("{name}/{property}: {why}\n{history:#?}"))
        })
    };
    watching.abort();
    // What was done to the values says more than that something is not at rest.
    judged?;
    let rest = rested.with_context(|| format!("after the faults {faults:?}"))?;
    for (name, rest) in names.iter().zip(&rest) {
        for property in PROPERTIES {
            let journal = locked(&journal);
            let seen = journal.histories.get(&(name.clone(), property)).and_then(|h| h.versions.last().copied());
            anyhow::ensure!(seen == Some(rest.desired(property)), "{name}/{property}: the watch missed a change");
        }
    }
    let writes = system.kubernetes.writes("devicecontroller") - before;
    let taken = locked(&journal).histories.values().map(|history| history.versions.len() as u64).sum::<u64>();
    let seconds = (lasted + begun.elapsed()).as_secs() / 2 + 1;
    let most = names.len() as u64 * WRITES_PER_SECOND * seconds + 4 * taken;
    anyhow::ensure!(writes <= most, "{writes} writes of devicecontroller in {seconds} s, and {most} are enough");
    quiet(system, &names, &rest).await?;
    // Each fault turns conditions of all that are there: those of this round alone are to be counted in the next.
    for name in &names {
        system.remove(name).await?;
    }
    Ok(())
}

/// Waits until everybody says the same of all devices.
async fn at_rest(system: &System, names: &[String]) -> anyhow::Result<Vec<Rest>> {
    let mut rest = Vec::new();
    crate::eventually(async || {
        rest.clear();
        let ended = system.ended();
        if !ended.is_empty() {
            return Err(format!("{ended:?} ended"));
        }
        for name in names {
            rest.push(Rest::look(system, name, &PROPERTIES).await?);
        }
        Ok(())
    })
    .await?;
    Ok(rest)
}

/// Nobody writes what is written already.
async fn quiet(system: &System, names: &[String], rest: &[Rest]) -> anyhow::Result<()> {
    // A last value may still be on its way when all is well: it is the same, and only its time is new.
    let mut versions: Vec<_> = rest.iter().map(Rest::versions).collect();
    let mut since = Instant::now();
    let deadline = Instant::now() + crate::PATIENCE;
    while since.elapsed() < QUIET {
        sleep(Duration::from_millis(100)).await;
        let mut now = Vec::new();
        for name in names {
            now.push(Rest::look(system, name, &PROPERTIES).await.map_err(anyhow::Error::msg)?.versions());
        }
        if now != versions {
            anyhow::ensure!(Instant::now() < deadline, "somebody goes on writing: {versions:?} {now:?}");
            (versions, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// Breaks one thing after another. Everything is whole when it returns.
async fn faults(system: &mut System, rng: &mut Rng, ends: Instant) -> anyhow::Result<Vec<String>> {
    let mut done = Vec::new();
    while Instant::now() < ends {
        sleep(Duration::from_millis(rng.below(FAULT_PAUSE_MS))).await;
        let broken = Duration::from_millis(rng.below(BROKEN_MS));
        let kind = rng.below(100);
        let is_kill = rng.below(3) > 0;
        let service = match kind {
            0..40 => {
                let mode = if kind < 30 { Mode::Cut } else { Mode::Blackhole };
                done.push(format!("{mode:?} {broken:?}"));
                system.link.set(mode);
                sleep(broken).await;
                system.link.set(Mode::Pass);
                continue;
            }
            40..46 => {
                done.push(format!("line of the devices {broken:?}"));
                system.plant.cut(true);
                sleep(broken).await;
                system.plant.cut(false);
                continue;
            }
            46..60 => Service::Dmi,
            60..72 => Service::EdgeHub,
            72..82 => Service::DeviceController,
            82..88 => Service::CloudHub,
            88..92 => Service::EdgeController,
            _ => Service::Mapper,
        };
        done.push(format!("{} {service:?} {broken:?}", if is_kill { "kill" } else { "stop" }));
        if is_kill {
            system.kill(service).await?
        } else {
            system.stop(service).await?
        }
        sleep(broken).await;
        system.run(service).await?;
    }
    Ok(done)
}

/// Somebody who writes to one property.
struct Writer {
    at: Key,
    journal: Shared,
    values: Arc<AtomicI64>,
    rng: Rng,
    ends: Instant,
}

impl Writer {
    /// Waits for the next write; `None`: the round is over.
    async fn next(&mut self, of_cloud: bool) -> Option<Option<i64>> {
        sleep(Duration::from_millis(self.rng.below(WRITE_PAUSE_MS))).await;
        if Instant::now() >= self.ends {
            return None;
        }
        if self.at.1 == "few" {
            let value = self.rng.below(4);
            // Nothing can be wanted in the cloud only.
            return Some(if of_cloud && value == 0 { None } else { i64::try_from(value).ok() });
        }
        Some(Some(self.values.fetch_add(1, Ordering::Relaxed)))
    }

    async fn cloud(mut self, client: Client) -> anyhow::Result<()> {
        let devices = devices_api(&client, "Device");
        let index = PROPERTIES.iter().position(|property| *property == self.at.1).context("a property")?;
        while let Some(value) = self.next(true).await {
            *locked(&self.journal).begun.entry(self.at.clone()).or_default() += 1;
            let begun = std::time::Instant::now();
            let path = format!("/spec/properties/{index}/desired");
            // As `kubectl patch --type=json`; to take away what is not there would be refused.
            let patch = match value {
                Some(value) => json!([{"op": "add", "path": path, "value": {"value": value.to_string()}}]),
                None => json!([{"op": "add", "path": path, "value": {"value": ""}}, {"op": "remove", "path": path}]),
            };
            let patch: Patch<()> = Patch::Json(serde_json::from_value(patch)?);
            devices.patch(&self.at.0, &PatchParams::default(), &patch).await?;
            let ended = std::time::Instant::now();
            let write = Write { value, begun, ended, taken: Taken::Yes, knew: None };
            let mut journal = locked(&self.journal);
            if let Some(history) = journal.histories.get_mut(&self.at) {
                history.cloud.push(write);
            }
        }
        Ok(())
    }

    async fn edge(mut self, mut devices: DevicesClient<Channel>) -> anyhow::Result<()> {
        while let Some(value) = self.next(false).await {
            let knew = self.knows(&mut devices).await;
            let begun = std::time::Instant::now();
            let request = pb::SetDesiredRequest {
                device: Some(key(&self.at.0)),
                property: self.at.1.to_owned(),
                value: value.unwrap_or_default().to_string(),
            };
            let answer = tokio::time::timeout(ANSWER, devices.set_desired(request)).await;
            let taken = match answer {
                Ok(Ok(_)) => Taken::Yes,
                Ok(Err(status)) if matches!(status.code(), Code::Aborted | Code::NotFound | Code::InvalidArgument) => {
                    Taken::No
                }
                _ => Taken::Unknown,
            };
            let value = Some(value.unwrap_or_default());
            let write = Write { value, begun, ended: std::time::Instant::now(), taken, knew };
            let mut journal = locked(&self.journal);
            if let Some(history) = journal.histories.get_mut(&self.at) {
                history.edge.push(write);
            }
        }
        Ok(())
    }

    /// How many writes of the cloud the node knows, if it is certain that these are all.
    async fn knows(&self, devices: &mut DevicesClient<Channel>) -> Option<usize> {
        let all = |journal: &Journal| {
            let begun = journal.begun.get(&self.at).copied().unwrap_or_default();
            let history = journal.histories.get(&self.at)?;
            (history.cloud.len() == begun).then_some((begun, history.cloud.last().map(|write| write.value)))
        };
        let (count, last) = all(&locked(&self.journal))?;
        let Some(last) = last else { return Some(0) };
        {
            let journal = locked(&self.journal);
            let mine = journal.histories.get(&self.at).and_then(|history| history.edge.last());
            if mine.is_some_and(|mine| mine.knew == Some(count)) {
                return Some(count);
            }
        }
        if !journal_is_unique(self.at.1) {
            return None;
        }
        let request = pb::GetDeviceRequest { device: Some(key(&self.at.0)) };
        let view = tokio::time::timeout(ANSWER, devices.get_device(request)).await.ok()?.ok()?.into_inner();
        let twin = view.twins.into_iter().find(|twin| twin.property == self.at.1)?;
        let knows = twin.desired_origin() == pb::DesiredOrigin::Cloud
            && twin.desired.as_deref().and_then(|value| value.parse().ok()) == last;
        knows.then_some(count)
    }
}

/// Whether values of the property tell writes apart.
fn journal_is_unique(property: &str) -> bool {
    property != "few"
}

/// Writes down every value that the API had.
async fn watch(client: Client, journal: Shared) -> anyhow::Result<()> {
    let devices = devices_api(&client, "Device");
    let list = devices.list(&Default::default()).await?;
    let mut version = list.metadata.resource_version.context("a list has a version")?;
    loop {
        let mut events = devices.watch(&WatchParams::default(), &version).await?.boxed();
        while let Some(event) = events.next().await {
            let (WatchEvent::Added(device) | WatchEvent::Modified(device)) = event? else { continue };
            version = device.metadata.resource_version.clone().context("an object has a version")?;
            let name = device.metadata.name.clone().unwrap_or_default();
            let mut journal = locked(&journal);
            for property in PROPERTIES {
                let value = desired_in(&device, property);
                if let Some(history) = journal.histories.get_mut(&(name.clone(), property))
                    && history.versions.last() != Some(&value)
                {
                    history.versions.push(value);
                }
            }
        }
    }
}
