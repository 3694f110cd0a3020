//! The devices of a mapper: which there are, and which line each is on.
//!
//! Called by the link to the node and by the REST server; nothing here waits for a device. A device whose version
//! did not change is left alone; one that changed only in what is desired of it is not set up anew. One task runs
//! per line; it ends with its last device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus::{Answer, Ask, Bus, Question, Roster, Unit};
use crate::definition::{Definition, Desired, Wishes};
use crate::error::CommandError;
use crate::metrics::Metrics;
use crate::plane::Plane;
use crate::report::{Applied, Outbox};
use crate::{Device, DeviceKey, Driver};

/// Devices of one mapper; more are refused with a word to the user.
const MAX_DEVICES: usize = 10_000;
/// Longest name of a line that is worth a log line.
const MAX_BUS_NAME: usize = 512;

/// A device as it came from the node.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    /// Opaque: equal or not equal.
    pub(crate) version: String,
    pub(crate) definition: Definition,
    pub(crate) desired: Wishes,
    /// Why it cannot be served, as far as is known already.
    pub(crate) problem: Option<String>,
}

/// What the node and people do with the devices of a mapper, whatever its driver is.
pub(crate) trait Plant: Send + Sync {
    /// Adds a device or changes it.
    fn apply(&self, incoming: Incoming);
    /// Removes a device.
    fn remove(&self, key: &DeviceKey);
    /// Removes all other devices.
    fn retain(&self, keys: &BTreeSet<DeviceKey>);
    /// What somebody wants of a property now.
    fn desire(&self, key: &DeviceKey, property: &str, desired: Desired);
    /// The device as it was described.
    fn definition(&self, key: &DeviceKey) -> Option<Arc<Definition>>;
    /// Asks a device; the answer comes by itself.
    fn ask(&self, key: &DeviceKey, ask: Ask, timeout: Duration) -> Result<oneshot::Receiver<Answer>, CommandError>;
}

/// See the module documentation.
pub(crate) struct Engine<D: Driver> {
    driver: Arc<D>,
    outbox: Arc<Outbox>,
    metrics: Metrics,
    plane: OnceLock<Plane>,
    tasks: TaskTracker,
    stop: CancellationToken,
    inner: Mutex<Inner<D>>,
}

struct Inner<D: Driver> {
    devices: BTreeMap<DeviceKey, Served>,
    buses: BTreeMap<String, Line<D>>,
}

struct Served {
    version: String,
    /// Why it could not be served as it came.
    problem: Option<String>,
    definition: Arc<Definition>,
    /// Nothing for a device that cannot be served.
    bus: Option<String>,
    /// Why it cannot be served; empty: it is.
    error: String,
}

struct Line<D: Driver> {
    roster: Arc<Roster<D>>,
    stop: CancellationToken,
}

impl<D: Driver> Engine<D> {
    pub(crate) fn new(driver: D, outbox: Arc<Outbox>, metrics: Metrics) -> Self {
        Self {
            driver: Arc::new(driver),
            outbox,
            metrics,
            plane: OnceLock::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            inner: Mutex::new(Inner { devices: BTreeMap::new(), buses: BTreeMap::new() }),
        }
    }

    /// Where values go beside the node; set once, before there are devices.
    pub(crate) fn set_plane(&self, plane: Plane) {
        let _ = self.plane.set(plane);
    }

    /// Closes all lines.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// After [`Engine::stop`].
    pub(crate) async fn close_plane(&self) {
        if let Some(plane) = self.plane.get() {
            plane.close().await;
        }
    }

    /// Reads the definition with the driver's types and finds the device's line.
    fn set_up(&self, definition: &Arc<Definition>) -> Result<(String, Arc<Unit<D>>), String> {
        let device = Device::new(definition).map_err(|fault| fault.to_string())?;
        let bus = self.driver.bus(&device).map_err(|fault| fault.to_string())?;
        Ok((bus, Arc::new(Unit { device, definition: Arc::clone(definition) })))
    }

    fn join(&self, inner: &mut Inner<D>, bus: &str, unit: Arc<Unit<D>>, desired: Wishes) {
        let line = inner.buses.entry(bus.to_owned()).or_insert_with(|| {
            let line = Line { roster: Arc::new(Roster::new()), stop: self.stop.child_token() };
            let task = Bus {
                name: bus.chars().take(MAX_BUS_NAME).collect(),
                driver: Arc::clone(&self.driver),
                roster: Arc::clone(&line.roster),
                outbox: Arc::clone(&self.outbox),
                metrics: self.metrics.clone(),
                plane: self.plane.get().cloned(),
            };
            self.tasks.spawn(task.run(line.stop.clone()));
            line
        });
        line.roster.set(unit, desired);
    }

    fn leave(inner: &mut Inner<D>, bus: Option<&String>, key: &DeviceKey) {
        let Some(bus) = bus else { return };
        if let Some(line) = inner.buses.get(bus)
            && line.roster.remove(key)
        {
            line.stop.cancel();
            inner.buses.remove(bus);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<D>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Driver> Plant for Engine<D> {
    fn apply(&self, incoming: Incoming) {
        let Incoming { version, definition, desired, problem } = incoming;
        let key = definition.key.clone();
        let mut inner = self.lock();
        let Inner { devices, buses } = &mut *inner;
        if let Some(served) = devices.get_mut(&key).filter(|served| served.problem == problem) {
            if *served.definition == definition {
                // Only what is desired changed, or nothing that a mapper sees.
                if let Some(line) = served.bus.as_ref().and_then(|bus| buses.get(bus)) {
                    line.roster.desire_all(&key, desired);
                }
                let applied = Applied { version: version.clone(), error: served.error.clone() };
                self.outbox.define(&served.definition, applied);
                served.version = version;
                return;
            }
            if served.version == version {
                self.outbox.applied_again(&key);
                return;
            }
        }
        let definition = Arc::new(definition);
        let full = inner.devices.len() >= MAX_DEVICES && !inner.devices.contains_key(&key);
        let found = match &problem {
            Some(problem) => Err(problem.clone()),
            None if full => Err(format!("a mapper serves at most {MAX_DEVICES} devices")),
            None => self.set_up(&definition),
        };
        if full {
            // Not even kept: a list without an end would be memory without an end.
            tracing::warn!(device = %key, MAX_DEVICES, "the device is refused, the mapper is full");
            return;
        }
        let old = inner.devices.remove(&key).and_then(|served| served.bus);
        let mut bus = None;
        let mut error = String::new();
        match found {
            Ok((name, unit)) => {
                self.outbox.define(&definition, Applied { version: version.clone(), error: String::new() });
                if let Some(plane) = self.plane.get() {
                    self.outbox.online_because(&key, &plane.define(&definition));
                }
                if old.as_ref() != Some(&name) {
                    Self::leave(&mut inner, old.as_ref(), &key);
                }
                self.join(&mut inner, &name, unit, desired);
                bus = Some(name);
            }
            Err(words) => {
                tracing::warn!(device = %key, error = words, "the device cannot be served");
                Self::leave(&mut inner, old.as_ref(), &key);
                if let Some(plane) = self.plane.get() {
                    plane.remove(&key);
                }
                self.outbox.define(&definition, Applied { version: version.clone(), error: words.clone() });
                self.outbox.broken(&definition, &words);
                error = words;
            }
        }
        inner.devices.insert(key, Served { version, problem, definition, bus, error });
        self.metrics.devices.set(i64::try_from(inner.devices.len()).unwrap_or(i64::MAX));
    }

    fn remove(&self, key: &DeviceKey) {
        let mut inner = self.lock();
        if let Some(served) = inner.devices.remove(key) {
            Self::leave(&mut inner, served.bus.as_ref(), key);
            self.outbox.remove(key);
            if let Some(plane) = self.plane.get() {
                plane.remove(key);
            }
        }
        self.metrics.devices.set(i64::try_from(inner.devices.len()).unwrap_or(i64::MAX));
    }

    fn retain(&self, keys: &BTreeSet<DeviceKey>) {
        let gone: Vec<_> = self.lock().devices.keys().filter(|key| !keys.contains(key)).cloned().collect();
        for key in gone {
            tracing::info!(device = %key, "the device is no longer ours");
            self.remove(&key);
        }
    }

    fn desire(&self, key: &DeviceKey, property: &str, desired: Desired) {
        let inner = self.lock();
        let Some(served) = inner.devices.get(key) else { return };
        let Some(index) = served.definition.position(property) else { return };
        if let Some(line) = served.bus.as_ref().and_then(|bus| inner.buses.get(bus)) {
            line.roster.desire(key, index, desired);
        }
    }

    fn definition(&self, key: &DeviceKey) -> Option<Arc<Definition>> {
        self.lock().devices.get(key).map(|served| Arc::clone(&served.definition))
    }

    fn ask(&self, key: &DeviceKey, ask: Ask, timeout: Duration) -> Result<oneshot::Receiver<Answer>, CommandError> {
        let inner = self.lock();
        let served = inner.devices.get(key).ok_or_else(|| CommandError::UnknownDevice(key.clone()))?;
        let line = served.bus.as_ref().and_then(|bus| inner.buses.get(bus));
        let Some(line) = line else {
            return Err(CommandError::Offline(served.error.clone()));
        };
        let (answer, receiver) = oneshot::channel();
        line.roster.ask(Question { key: key.clone(), ask, deadline: Instant::now() + timeout, answer })?;
        Ok(receiver)
    }
}

/// Reads properties of a device now, all without names.
pub(crate) async fn read_now(
    plant: &dyn Plant,
    key: &DeviceKey,
    properties: &[String],
    timeout: Duration,
) -> Result<(Arc<Definition>, Vec<(usize, crate::Sample)>), CommandError> {
    let definition = plant.definition(key).ok_or_else(|| CommandError::UnknownDevice(key.clone()))?;
    let position = |name: &String| definition.position(name).ok_or_else(|| CommandError::UnknownProperty(name.clone()));
    let indexes: Vec<usize> = if properties.is_empty() {
        (0..definition.properties.len()).collect()
    } else {
        properties.iter().map(position).collect::<Result<_, _>>()?
    };
    let answer = plant.ask(key, Ask::Read(indexes), timeout)?;
    Ok((definition, wait(answer, timeout).await?))
}

/// Writes a property of a device now.
pub(crate) async fn write_now(
    plant: &dyn Plant,
    key: &DeviceKey,
    property: &str,
    text: &str,
    timeout: Duration,
) -> Result<(), CommandError> {
    let definition = plant.definition(key).ok_or_else(|| CommandError::UnknownDevice(key.clone()))?;
    let found = definition.position(property).and_then(|index| Some((index, definition.properties.get(index)?)));
    let (index, found) = found.ok_or_else(|| CommandError::UnknownProperty(property.to_owned()))?;
    let value = found.accept(text)?;
    wait(plant.ask(key, Ask::Write(index, value), timeout)?, timeout).await.map(|_| ())
}

async fn wait(answer: oneshot::Receiver<Answer>, timeout: Duration) -> Answer {
    match tokio::time::timeout(timeout, answer).await {
        Ok(Ok(answer)) => answer,
        // The line ended meanwhile.
        Ok(Err(_)) | Err(_) => Err(CommandError::Late),
    }
}
