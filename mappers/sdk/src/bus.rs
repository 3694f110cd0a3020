//! One line: does what its schedule decides, with the driver's connection.
//!
//! The engine starts one task per bus and changes its [`Roster`]; the task compares. Nothing that the engine or
//! the node does waits for a bus, and a bus waits for nobody but its line: each call has the device's deadline,
//! and a driver that panics loses its connection, not the mapper.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt as _;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::definition::{Definition, Desired, Wishes};
use crate::error::CommandError;
use crate::metrics::Metrics;
use crate::plane::Plane;
use crate::report::Outbox;
use crate::schedule::{Effects, Job, Moment, Next, Outcome, Schedule};
use crate::{Connection, Device, DeviceKey, Driver, Fault, Pending, Sample, Updates, Value};

/// Questions of people and programs that may wait for one line.
const MAX_QUESTIONS: usize = 64;
/// How long a line may take to close politely.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// A device that a bus serves.
pub(crate) struct Unit<D: Driver> {
    pub(crate) device: Device<D>,
    pub(crate) definition: Arc<Definition>,
}

/// A question to a device, outside of its cycles.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) key: DeviceKey,
    pub(crate) ask: Ask,
    /// Nobody waits longer.
    pub(crate) deadline: Instant,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// What is asked, by the index of properties.
#[derive(Debug)]
pub(crate) enum Ask {
    Read(Vec<usize>),
    Write(usize, Value),
}

/// The samples that were read, by index, or why there are none.
pub(crate) type Answer = Result<Vec<(usize, Sample)>, CommandError>;

/// What a bus shall serve, set by the engine.
pub(crate) struct Roster<D: Driver> {
    inner: Mutex<Inner<D>>,
    wake: Notify,
}

struct Inner<D: Driver> {
    units: BTreeMap<DeviceKey, (Arc<Unit<D>>, Wishes)>,
    questions: VecDeque<Question>,
    changed: bool,
}

impl<D: Driver> Roster<D> {
    pub(crate) fn new() -> Self {
        let inner = Inner { units: BTreeMap::new(), questions: VecDeque::new(), changed: false };
        Self { inner: Mutex::new(inner), wake: Notify::new() }
    }

    /// Adds or replaces a device.
    pub(crate) fn set(&self, unit: Arc<Unit<D>>, desired: Wishes) {
        self.change(|inner| {
            inner.units.insert(unit.definition.key.clone(), (unit, desired));
        });
    }

    /// Removes a device; true when it was the last one.
    pub(crate) fn remove(&self, key: &DeviceKey) -> bool {
        self.change(|inner| {
            inner.units.remove(key);
            inner.units.is_empty()
        })
    }

    /// What somebody wants of a property.
    pub(crate) fn desire(&self, key: &DeviceKey, index: usize, desired: Desired) {
        self.change(|inner| {
            if let Some((_, all)) = inner.units.get_mut(key) {
                all.insert(index, desired);
            }
        });
    }

    /// What is wanted of a device, and nothing else.
    pub(crate) fn desire_all(&self, key: &DeviceKey, desired: Wishes) {
        self.change(|inner| {
            if let Some((_, all)) = inner.units.get_mut(key) {
                *all = desired;
            }
        });
    }

    /// Asks a device.
    pub(crate) fn ask(&self, question: Question) -> Result<(), CommandError> {
        self.change(|inner| {
            if inner.questions.len() >= MAX_QUESTIONS {
                return Err(CommandError::Busy);
            }
            inner.questions.push_back(question);
            Ok(())
        })
    }

    fn change<T>(&self, with: impl FnOnce(&mut Inner<D>) -> T) -> T {
        let mut inner = self.lock();
        inner.changed = true;
        let result = with(&mut inner);
        drop(inner);
        self.wake.notify_one();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner<D>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of a line.
pub(crate) struct Bus<D: Driver> {
    pub(crate) name: String,
    pub(crate) driver: Arc<D>,
    pub(crate) roster: Arc<Roster<D>>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) metrics: Metrics,
    pub(crate) plane: Option<Plane>,
}

/// What the task holds while it runs.
struct Running<D: Driver> {
    schedule: Schedule,
    units: BTreeMap<DeviceKey, Arc<Unit<D>>>,
    connection: Option<D::Connection>,
    pending: Arc<Pending>,
    begun: Instant,
}

impl<D: Driver> Bus<D> {
    /// Serves the roster until `stop`, then closes the line.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut running = Running {
            schedule: Schedule::new(rand::random()),
            units: BTreeMap::new(),
            connection: None,
            pending: Arc::default(),
            begun: Instant::now(),
        };
        while !stop.is_cancelled() {
            self.compare(&mut running).await;
            self.take_updates(&mut running);
            let question = self.roster.lock().questions.pop_front();
            if let Some(question) = question {
                self.answer(&mut running, question).await;
            }
            let mut effects = Effects::default();
            let next = running.schedule.next(running.begun.elapsed(), &mut effects);
            self.tell(effects);
            match next {
                Next::Run(job) => self.work(&mut running, job).await,
                Next::Wait(at) => {
                    let until = at.map(|at| running.begun + at);
                    self.wait(until, Arc::clone(&running.pending), &stop).await;
                }
            }
        }
        if let Some(connection) = running.connection.take() {
            let close = AssertUnwindSafe(connection.close()).catch_unwind();
            if !matches!(tokio::time::timeout(CLOSE_DEADLINE, close).await, Ok(Ok(()))) {
                tracing::warn!(bus = self.name, "the line did not close in time");
            }
        }
    }

    async fn wait(&self, at: Option<Instant>, pending: Arc<Pending>, stop: &CancellationToken) {
        let until = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = until => {}
            () = self.roster.wake.notified() => {}
            () = pending.changed() => {}
            () = stop.cancelled() => {}
        }
    }

    /// Brings the schedule in line with the roster.
    async fn compare(&self, running: &mut Running<D>) {
        let now = running.begun.elapsed();
        let mut released = Vec::new();
        {
            let mut roster = self.roster.lock();
            if !std::mem::take(&mut roster.changed) {
                return;
            }
            let gone: Vec<_> = running.units.keys().filter(|key| !roster.units.contains_key(*key)).cloned().collect();
            for key in gone {
                running.schedule.remove(&key);
                released.extend(running.units.remove(&key));
            }
            for (key, (unit, desired)) in &roster.units {
                if running.units.get(key).is_some_and(|known| Arc::ptr_eq(known, unit)) {
                    for index in 0..unit.definition.properties.len() {
                        running.schedule.want(now, key, index, desired.get(&index));
                    }
                } else {
                    released.extend(running.units.insert(key.clone(), Arc::clone(unit)));
                    running.schedule.set(now, Arc::clone(&unit.definition), desired);
                    self.metrics.devices_set.inc();
                }
            }
        }
        for unit in released {
            if let Some(connection) = &mut running.connection {
                let release = AssertUnwindSafe(connection.release(&unit.device)).catch_unwind();
                if !matches!(tokio::time::timeout(CLOSE_DEADLINE, release).await, Ok(Ok(()))) {
                    tracing::warn!(bus = self.name, device = %unit.definition.key, "the device was not released in time");
                }
            }
        }
    }

    fn take_updates(&self, running: &mut Running<D>) {
        let mut by_device: BTreeMap<DeviceKey, Vec<(usize, Sample)>> = BTreeMap::new();
        for ((key, name), sample) in running.pending.take() {
            let unit = running.units.get(&key);
            let index = unit.and_then(|unit| unit.definition.position(&name));
            if let Some(index) = index {
                by_device.entry(key).or_default().push((index, sample));
            }
        }
        for (key, samples) in by_device {
            let mut effects = Effects::default();
            running.schedule.told(running.now(), &key, samples, &mut effects);
            self.tell(effects);
        }
        // What the device told before counts; a line that was opened anew has another `pending`.
        if let Some((key, words)) = running.pending.take_lost() {
            let mut effects = Effects::default();
            let outcome = Outcome::Done(Err(Fault::Lost(words)));
            running.schedule.done(running.now(), &Job::Check(key), outcome, &mut effects);
            running.connection = None;
            self.tell(effects);
        }
    }

    async fn work(&self, running: &mut Running<D>, job: Job) {
        let outcome = self.perform(running, &job).await;
        self.metrics.count(&job, &outcome);
        let mut effects = Effects::default();
        running.schedule.done(running.now(), &job, outcome, &mut effects);
        if !running.schedule.is_up() {
            running.connection = None;
        }
        self.tell(effects);
    }

    fn tell(&self, mut effects: Effects) {
        self.metrics.skipped.inc_by(effects.skipped);
        if let Some(plane) = &self.plane {
            plane.take(&mut effects);
        }
        for (definition, state, reason) in &effects.states {
            tracing::info!(bus = self.name, device = %definition.key, ?state, reason, "state of a device");
        }
        self.outbox.put(effects);
    }

    /// Does a job with the driver, within the device's deadline.
    async fn perform(&self, running: &mut Running<D>, job: &Job) -> Outcome {
        let lost = |words: &str| Fault::Lost(words.to_owned());
        let Some(unit) = running.units.get(job.device()).cloned() else {
            return Outcome::Done(Err(lost("the device is no longer here")));
        };
        let device = &unit.device;
        let deadline = self.driver.deadline(device);
        if matches!(job, Job::Connect(_)) {
            let connect = AssertUnwindSafe(self.driver.connect(device)).catch_unwind();
            let result = match tokio::time::timeout(deadline, connect).await {
                Ok(Ok(result)) => result,
                Ok(Err(panic)) => Err(panicked(panic.as_ref())),
                Err(_) => return Outcome::Late(deadline),
            };
            return Outcome::Done(result.map(|connection| {
                running.connection = Some(connection);
                running.pending = Arc::default();
            }));
        }
        let pending = Arc::clone(&running.pending);
        let Some(connection) = &mut running.connection else {
            return Outcome::Done(Err(lost("the line is closed")));
        };
        let call = async {
            match job {
                Job::Connect(_) => Outcome::Done(Ok(())),
                Job::Subscribe(key) => {
                    let points: Vec<_> = device.points.iter().collect();
                    let names: Arc<[String]> = points.iter().map(|point| point.name().to_owned()).collect();
                    let updates = Updates::new(key.clone(), names, pending);
                    Outcome::Subscribed(connection.subscribe(device, &points, updates).await)
                }
                Job::Read(_, indexes) => {
                    let points: Vec<_> = indexes.iter().filter_map(|index| device.points.get(*index)).collect();
                    Outcome::Samples(connection.read(device, &points).await)
                }
                Job::Check(_) => Outcome::Done(connection.check(device).await),
                Job::Write(_, index, value) => match device.points.get(*index) {
                    Some(point) => Outcome::Done(connection.write(device, point, value).await),
                    None => Outcome::Done(Err(Fault::Refused("the property is gone".to_owned()))),
                },
            }
        };
        match tokio::time::timeout(deadline, AssertUnwindSafe(call).catch_unwind()).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Outcome::Done(Err(panicked(panic.as_ref()))),
            Err(_) => Outcome::Late(deadline),
        }
    }

    /// A question goes before what is due, one at a time, and its samples count like any others.
    async fn answer(&self, running: &mut Running<D>, question: Question) {
        let Question { key, ask, deadline, answer } = question;
        if answer.is_closed() || deadline <= Instant::now() {
            let _ = answer.send(Err(CommandError::Late));
            return;
        }
        if !running.units.contains_key(&key) {
            let _ = answer.send(Err(CommandError::UnknownDevice(key)));
            return;
        }
        if let Some(words) = running.schedule.trouble(&key) {
            let _ = answer.send(Err(CommandError::Offline(words)));
            return;
        }
        let job = match ask {
            Ask::Read(points) => Job::Read(key.clone(), points),
            Ask::Write(index, value) => Job::Write(key.clone(), index, value),
        };
        let outcome = self.perform(running, &job).await;
        self.metrics.count(&job, &outcome);
        let told = match (&job, &outcome) {
            (Job::Read(_, points), Outcome::Samples(Ok(samples))) => {
                Ok(points.iter().copied().zip(samples.iter().cloned()).collect())
            }
            (_, Outcome::Done(Ok(()))) => Ok(Vec::new()),
            (_, Outcome::Done(Err(fault)) | Outcome::Samples(Err(fault)) | Outcome::Subscribed(Err(fault))) => {
                Err(CommandError::Failed(fault.clone()))
            }
            _ => Err(CommandError::Late),
        };
        let mut effects = Effects::default();
        running.schedule.done(running.now(), &job, outcome, &mut effects);
        if let (Job::Write(_, index, _), Ok(_)) = (&job, &told) {
            // What was written is shown soon.
            running.schedule.hurry(running.begun.elapsed(), &key, *index);
        }
        if !running.schedule.is_up() {
            running.connection = None;
        }
        self.tell(effects);
        let _ = answer.send(told);
    }
}

impl<D: Driver> Running<D> {
    fn now(&self) -> Moment {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { time: self.begun.elapsed(), unix_ms: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX) }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Fault {
    let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(words, "the driver panicked");
    Fault::Lost("the driver failed, which is a bug of the mapper".to_owned())
}
