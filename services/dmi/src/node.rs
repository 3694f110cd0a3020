//! The fleet under its lock, with its clocks and the ways out: what all tasks of dmi share.
//!
//! The lock is held for map accesses and never over an await. Limits: those of [`crate::fleet`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use skerry_common::Key;
use skerry_hubclient::Outbox;
use skerry_store::StoreError;
use tokio::sync::Notify;
use tonic::Status;

use crate::fleet::{DesiredRefused, Fleet, MapperId, SavedOverlay};
use crate::metrics::Metrics;
use crate::persist::Persist;
use crate::twin::Now;

/// Longest time that a call waits for its mapper's tokens; after that it is refused.
const MAX_THROTTLE: Duration = Duration::from_secs(1);
/// Calls of one mapper that may wait for tokens; further ones are refused at once, so that a flood does not
/// take the places of others.
const MAX_WAITING: usize = 32;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    fleet: Mutex<Fleet>,
    started: Instant,
    /// Wakes the task that tells the cloud.
    pub(crate) news: Notify,
    pub(crate) persist: Persist,
    pub(crate) outbox: Outbox,
    pub(crate) metrics: Metrics,
    /// Writes of desired values happen one after the other, so that the last one on disk is the last one
    /// that was acknowledged.
    desiring: tokio::sync::Mutex<()>,
}

impl Node {
    pub(crate) fn new(name: String, fleet: Fleet, persist: Persist, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            name,
            fleet: Mutex::new(fleet),
            started: Instant::now(),
            news: Notify::new(),
            persist,
            outbox: Outbox::default(),
            metrics,
            desiring: tokio::sync::Mutex::new(()),
        })
    }

    /// Both clocks.
    pub(crate) fn now(&self) -> Now {
        let mono = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { mono, wall: jiff::Timestamp::now().as_millisecond() }
    }

    /// Reads something.
    pub(crate) fn read<R>(&self, with: impl FnOnce(&Fleet, Now) -> R) -> R {
        with(&self.fleet.lock().unwrap_or_else(PoisonError::into_inner), self.now())
    }

    /// Changes something, and lets the cloud know.
    pub(crate) fn change<R>(&self, with: impl FnOnce(&mut Fleet, Now) -> R) -> R {
        let result = self.read_mut(with);
        self.news.notify_one();
        result
    }

    /// Changes what nobody outside has to hear of.
    pub(crate) fn read_mut<R>(&self, with: impl FnOnce(&mut Fleet, Now) -> R) -> R {
        with(&mut self.fleet.lock().unwrap_or_else(PoisonError::into_inner), self.now())
    }

    /// Waits until a mapper may go on: `calls` calls with `values` values.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when it would take too long, or too many wait already.
    pub(crate) async fn admit(&self, id: &MapperId, calls: u64, values: u64) -> Result<(), Status> {
        let micros = || u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let ask = || self.fleet.lock().unwrap_or_else(PoisonError::into_inner).admit(id, calls, values, micros());
        let Err(mut wait) = ask() else { return Ok(()) };
        let refused = || {
            self.metrics.calls_limited.inc();
            // KubeEdge's mappers look for the first three words.
            Status::resource_exhausted(format!(
                "too many requests: the mapper {id} is above its quota; report less often, or raise dmi.quotas"
            ))
        };
        if !self.read_mut(|fleet, _| fleet.wait(id, MAX_WAITING)) {
            return Err(refused());
        }
        let _waiting = Waiting { node: self, id };
        let deadline = Instant::now() + MAX_THROTTLE;
        loop {
            let pause = Duration::from_micros(wait);
            if Instant::now() + pause > deadline {
                return Err(refused());
            }
            tokio::time::sleep(pause).await;
            match ask() {
                Ok(()) => return Ok(()),
                Err(again) => wait = again,
            }
        }
    }

    /// As [`Node::admit`] for values of a stream, which waits as long as it takes: nobody else waits for it.
    pub(crate) async fn admit_stream(&self, id: &MapperId, values: u64) {
        loop {
            let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
            let asked = self.fleet.lock().unwrap_or_else(PoisonError::into_inner).admit(id, 0, values, micros);
            match asked {
                Ok(()) => return,
                Err(wait) => tokio::time::sleep(Duration::from_micros(wait)).await,
            }
        }
    }

    /// Removes the row of a value that does not hold any more; one that was set since stays.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) async fn forget(&self, key: &Key, property: &str) -> Result<(), StoreError> {
        let _one = self.desiring.lock().await;
        if self.read(|fleet, _| fleet.has_overlay(key, property)) {
            return Ok(());
        }
        self.persist.delete_overlay(key, property).await
    }

    /// Sets a desired value on the node. It is on disk when this returns. Returns its version.
    ///
    /// # Errors
    /// Why it was not taken; then nothing has changed.
    pub(crate) async fn desire(&self, key: &Key, property: &str, value: &str) -> Result<String, Status> {
        let _one = self.desiring.lock().await;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let planned = self.read(|fleet, _| fleet.plan(key, property, value, &id));
        let (uid, overlay) = planned.map_err(|refused| match refused {
            DesiredRefused::NoDevice => Status::not_found(format!("the device {key} is not on this node")),
            DesiredRefused::Value(why) => Status::invalid_argument(why),
        })?;
        let saved = SavedOverlay::new(&uid, property, &overlay);
        self.persist.put_overlay(key, &saved).await.map_err(|error| {
            Status::unavailable(format!("the value cannot be stored: {}", skerry_common::chain(&error)))
        })?;
        self.metrics.desired.inc();
        self.change(|fleet, _| fleet.desire(key, &uid, property, overlay)).ok_or_else(|| {
            Status::aborted("the cloud has changed the property at the same moment; look, and set it again")
        })
    }
}

/// A call that waits for tokens.
struct Waiting<'n> {
    node: &'n Node,
    id: &'n MapperId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.node.fleet.lock().unwrap_or_else(PoisonError::into_inner).waited(self.id);
    }
}
