//! A node for tests: serves either interface on a socket, and remembers what a mapper tells.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{node_v1, node_v1beta1};
use crate::definition::{Definition, Desired};
use crate::metrics::Metrics;
use crate::serve::{Listener, serve};
use crate::{DeviceKey, DeviceState, Quality};

/// Values that are remembered of one property: those of the last minutes.
const REMEMBERED: usize = 10_000;
/// Changes that one session may be behind.
pub(super) const SESSION_QUEUE: usize = 4_096;

/// Which interface the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `skerry.dmi.v1`.
    V1,
    /// KubeEdge's `v1beta1`.
    V1Beta1,
}

/// A value that the node got.
#[derive(Debug, Clone)]
pub struct Observed {
    /// When.
    pub at: Instant,
    /// As KubeEdge's APIs have it.
    pub value: String,
    /// How good it is.
    pub quality: Quality,
}

impl Observed {
    /// Whether it can be trusted.
    pub fn is_good(&self) -> bool {
        self.quality == Quality::Good
    }
}

/// What a mapper told.
#[derive(Debug, Default)]
pub struct Seen {
    values: BTreeMap<(DeviceKey, String), Vec<Observed>>,
    states: BTreeMap<DeviceKey, DeviceState>,
    outcomes: BTreeMap<(DeviceKey, String), (String, Option<String>)>,
    applied: BTreeMap<DeviceKey, String>,
    sessions: usize,
}

impl Seen {
    /// The last value of a property.
    pub fn last(&self, key: &DeviceKey, property: &str) -> Option<&Observed> {
        self.values.get(&(key.clone(), property.to_owned()))?.last()
    }

    /// The last state of a device.
    pub fn state(&self, key: &DeviceKey) -> Option<DeviceState> {
        self.states.get(key).copied()
    }

    /// The desired value that was answered last, and why it was refused, if it was.
    pub fn outcome(&self, key: &DeviceKey, property: &str) -> Option<(String, Option<String>)> {
        self.outcomes.get(&(key.clone(), property.to_owned())).cloned()
    }

    /// Why a device cannot be served, empty when it is.
    pub fn applied(&self, key: &DeviceKey) -> Option<&str> {
        self.applied.get(key).map(String::as_str)
    }

    /// Sessions so far.
    pub fn sessions(&self) -> usize {
        self.sessions
    }

    pub(super) fn value(&mut self, key: &DeviceKey, property: String, value: String, quality: Quality) {
        let list = self.values.entry((key.clone(), property)).or_default();
        if list.len() >= REMEMBERED {
            list.drain(..REMEMBERED / 2);
        }
        list.push(Observed { at: Instant::now(), value, quality });
    }

    pub(super) fn set_state(&mut self, key: DeviceKey, state: DeviceState) {
        self.states.insert(key, state);
    }

    pub(super) fn set_outcome(&mut self, key: &DeviceKey, property: &str, desired: String, refused: Option<String>) {
        self.outcomes.insert((key.clone(), property.to_owned()), (desired, refused));
    }

    pub(super) fn set_applied(&mut self, key: DeviceKey, error: String) {
        self.applied.insert(key, error);
    }
}

/// A change for the sessions.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Device(Arc<Definition>, String),
    Removed(DeviceKey),
    Desired(DeviceKey, String),
}

/// What the node knows.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) devices: BTreeMap<DeviceKey, (Arc<Definition>, String)>,
    pub(super) desired: BTreeMap<(DeviceKey, String), Desired>,
    pub(super) seen: Seen,
    sessions: Vec<mpsc::Sender<Change>>,
}

impl Known {
    /// A new session, which gets all changes from now on.
    pub(super) fn session(&mut self) -> mpsc::Receiver<Change> {
        let (sender, receiver) = mpsc::channel(SESSION_QUEUE);
        self.sessions.push(sender);
        self.seen.sessions += 1;
        receiver
    }

    fn tell(&mut self, change: &Change) {
        self.sessions.retain(|session| session.try_send(change.clone()).is_ok());
    }

    pub(super) fn wish(&self, key: &DeviceKey, property: &str) -> Option<Desired> {
        self.desired.get(&(key.clone(), property.to_owned())).cloned()
    }
}

/// Shared by the node and its servers.
#[derive(Debug, Default)]
pub(super) struct Shared {
    known: Mutex<Known>,
    changed: Notify,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn see(&self, with: impl FnOnce(&mut Seen)) {
        with(&mut self.lock().seen);
        self.changed.notify_waiters();
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    socket: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Node {
    /// Serves on this socket, in place of what was there.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub async fn start(socket: &Path, api: Api) -> io::Result<Self> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        let routes = match api {
            Api::V1 => node_v1::routes(Arc::clone(&shared), stop.clone()),
            Api::V1Beta1 => node_v1beta1::routes(Arc::clone(&shared), stop.clone()),
        };
        let router = routes.prepare().into_axum_router();
        let task = tokio::spawn(serve(Listener::Unix(listener), router, Metrics::default(), stop.clone()));
        Ok(Self { shared, socket: socket.to_owned(), stop, task })
    }

    /// Ends the server and all sessions.
    pub async fn stop(self) {
        self.stop.cancel();
        // It ends by itself.
        let _ = self.task.await;
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Adds a device, or changes it.
    pub fn set(&self, device: &Arc<Definition>, version: &str) {
        let mut known = self.shared.lock();
        known.devices.insert(device.key.clone(), (Arc::clone(device), version.to_owned()));
        known.tell(&Change::Device(Arc::clone(device), version.to_owned()));
    }

    /// Takes a device away.
    pub fn remove(&self, key: &DeviceKey) {
        let mut known = self.shared.lock();
        known.devices.remove(key);
        known.tell(&Change::Removed(key.clone()));
    }

    /// Asks for a value. The same value has the same version.
    pub fn desire(&self, key: &DeviceKey, property: &str, value: &str) {
        self.desire_quietly(key, property, value);
        self.shared.lock().tell(&Change::Desired(key.clone(), property.to_owned()));
    }

    /// Asks for a value that is sent with the next change of the device.
    pub fn desire_quietly(&self, key: &DeviceKey, property: &str, value: &str) {
        let desired = Desired { value: value.to_owned(), version: value.to_owned() };
        self.shared.lock().desired.insert((key.clone(), property.to_owned()), desired);
    }

    /// What is asked for.
    pub fn desired(&self, key: &DeviceKey, property: &str) -> Option<String> {
        self.shared.lock().wish(key, property).map(|desired| desired.value)
    }

    /// Waits until what was seen is as it should be.
    ///
    /// # Errors
    /// When that does not come in time: what was waited for, and what there is.
    pub async fn until(&self, what: &str, within: Duration, is: impl Fn(&Seen) -> bool) -> Result<(), String> {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                if is(&self.shared.lock().seen) {
                    return;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(within, wait).await {
            Ok(()) => Ok(()),
            Err(_) => Err(format!("not within {within:?}: {what}; {}", self.summary())),
        }
    }

    /// When good values of a property came, from `since`.
    pub fn times(&self, key: &DeviceKey, property: &str, since: Instant) -> Vec<Instant> {
        let known = self.shared.lock();
        let list = known.seen.values.get(&(key.clone(), property.to_owned()));
        let good = list.into_iter().flatten().filter(|observed| observed.is_good() && observed.at >= since);
        good.map(|observed| observed.at).collect()
    }

    fn summary(&self) -> String {
        let known = self.shared.lock();
        let last: Vec<_> = known
            .seen
            .values
            .iter()
            .filter_map(|((key, property), list)| {
                let last = list.last()?;
                Some(format!("{key} {property} = {:?} {:?}", last.value, last.quality))
            })
            .collect();
        let seen = &known.seen;
        format!("states {:?}, values {last:?}, outcomes {:?}, applied {:?}", seen.states, seen.outcomes, seen.applied)
    }
}
