//! The calls to one mapper, in order, on its own socket.
//!
//! One task per mapper that has registered, from then on and after each restart of ours, until another
//! registration of the same mapper takes its place. The order is KubeEdge's: the model before the device, and
//! at the end the model, when nobody uses it, before the device. UpdateDevice is called only when something
//! has changed for the mapper. What it was told is on disk, so that nothing is set up again after our restart;
//! a socket with another inode is another run of the mapper, which is told everything.
//!
//! A socket that is not there yet, or not any more, is tried again. A mapper that does not answer holds up
//! itself alone. Limits: one call at a time, each with [`CALL`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skerry_common::{Backoff, Key};
use skerry_proto::dmi::v1beta1 as pb;
use skerry_proto::dmi::v1beta1::device_mapper_service_client::DeviceMapperServiceClient;
use skerry_rpc::{Channel, ClientLimits, Connection, Target};
use tokio::sync::Notify;
use tonic::{Code, Status};

use super::address::{There, look};
use super::convert;
use crate::node::Node;
use crate::persist::{SavedMapper, ToldDevice, key};

/// Time for one call, KubeEdge's.
const CALL: Duration = Duration::from_secs(10);
/// Waits between attempts to reach a mapper: one that is restarted shall be found at once.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A mapper whose socket is dead for so long is gone for good; it registers when it comes back.
const FORGET: Duration = Duration::from_secs(600);
/// A device that the mapper refused is offered again after so long: its bus may be back.
const OFFER_AGAIN: Duration = Duration::from_secs(10);

type Client = DeviceMapperServiceClient<Channel>;

/// See the module documentation.
pub(super) struct Worker {
    node: Arc<Node>,
    pub(super) saved: SavedMapper,
    path: PathBuf,
    epoch: u64,
    wake: Arc<Notify>,
    connection: Option<Connection>,
    /// It did not answer a call; being connected alone does not make it well again.
    suspect: bool,
    unsaved: bool,
    /// What it was told and does not have any more was looked for.
    reconciled: bool,
    refused: BTreeSet<Key>,
}

/// What is to be done about a device.
enum Todo {
    Nothing,
    Remove,
    Serve(Box<Serve>),
}

struct Serve {
    device: Result<pb::Device, String>,
    version: String,
    /// What [`crate::fleet`] calls this version.
    spec_version: String,
    model_key: Key,
    model: pb::DeviceModel,
    model_version: String,
}

/// The mapper cannot be reached.
struct Unreachable(String);

impl Worker {
    /// `place` is the mapper's connection in the fleet.
    pub(super) fn new(node: Arc<Node>, saved: SavedMapper, path: PathBuf, place: (u64, Arc<Notify>)) -> Self {
        let (epoch, wake) = place;
        Self {
            node,
            saved,
            path,
            epoch,
            wake,
            connection: None,
            suspect: false,
            unsaved: true,
            reconciled: false,
            refused: BTreeSet::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut reached = Instant::now();
        while self.node.read(|fleet, _| fleet.is_current(&self.saved.id, self.epoch)) {
            match self.step().await {
                Ok(()) => {
                    backoff.reset();
                    reached = Instant::now();
                }
                Err(Unreachable(why)) if !self.suspect && reached.elapsed() > FORGET => {
                    tracing::info!(mapper = %self.saved.id, why, "mapper forgotten");
                    self.node.change(|fleet, _| fleet.forget(&self.saved.id, self.epoch));
                    if let Err(error) = self.node.persist.delete_mapper(&self.saved.id).await {
                        tracing::warn!(error = skerry_common::chain(&error), "a mapper cannot be removed");
                    }
                    return;
                }
                Err(Unreachable(why)) => {
                    self.connection = None;
                    self.node.change(|fleet, now| fleet.away(&self.saved.id, self.epoch, &why, now));
                    tracing::debug!(mapper = %self.saved.id, why, "mapper cannot be reached");
                    tokio::time::sleep(RETRY_MIN.max(backoff.jittered())).await;
                }
            }
        }
    }

    /// Does one thing, or waits until there is one.
    async fn step(&mut self) -> Result<(), Unreachable> {
        let connection = self.connected().await?;
        self.reconcile();
        let next = self.node.read_mut(|fleet, _| fleet.next_dirty(&self.saved.id, self.epoch));
        let Some(device) = next else {
            self.save().await;
            let wake = Arc::clone(&self.wake);
            tokio::select! {
                () = wake.notified() => {}
                reason = connection.closed() => return Err(Unreachable(format!("its socket was closed: {reason}"))),
                () = tokio::time::sleep(OFFER_AGAIN), if !self.refused.is_empty() => {
                    let again = std::mem::take(&mut self.refused);
                    self.node.read_mut(|fleet, _| fleet.mark_again(&self.saved.id, self.epoch, again));
                }
            }
            return Ok(());
        };
        let mut client = Client::new(connection.channel());
        let settled = self.settle(&mut client, &device).await;
        if settled.is_err() {
            self.node.read_mut(|fleet, _| fleet.mark_again(&self.saved.id, self.epoch, [device]));
        } else if self.suspect {
            self.suspect = false;
            self.node.change(|fleet, now| fleet.back(&self.saved.id, self.epoch, now));
        }
        settled
    }

    /// The connection to the mapper.
    async fn connected(&mut self) -> Result<Connection, Unreachable> {
        if let Some(connection) = self.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let shown = self.path.display();
        let inode = match look(&self.path, self.saved.caller.uid) {
            There::Socket(inode) => inode,
            There::Nothing => return Err(Unreachable(format!("its socket {shown} is not there"))),
            There::Wrong(why) => return Err(Unreachable(why)),
        };
        let limits = ClientLimits { unary_deadline: CALL, connect_timeout: CALL, ..ClientLimits::local() };
        let connection = skerry_rpc::connect_once(&Target::unix(&self.path), &limits).await;
        let connection = connection.map_err(|error| Unreachable(skerry_common::chain(&error)))?;
        if self.saved.inode != inode {
            if self.saved.inode != 0 {
                // Another run of the mapper that did not register: it knows nothing.
                self.saved.devices.clear();
                self.saved.models.clear();
                let id = &self.saved.id;
                self.node.read_mut(|fleet, _| {
                    let own = fleet.devices_of(id);
                    fleet.mark_again(id, self.epoch, own);
                });
            }
            self.saved.inode = inode;
            self.unsaved = true;
        }
        self.connection = Some(connection.clone());
        if !self.suspect {
            self.node.change(|fleet, now| fleet.back(&self.saved.id, self.epoch, now));
        }
        Ok(connection)
    }

    /// Once all devices are known: what the mapper was told and does not have any more is to be removed.
    fn reconcile(&mut self) {
        if self.reconciled || !self.node.read(|fleet, _| fleet.in_sync()) {
            return;
        }
        self.reconciled = true;
        let told: Vec<Key> = self.saved.devices.keys().filter_map(|name| key(name)).collect();
        self.node.read_mut(|fleet, _| fleet.mark_again(&self.saved.id, self.epoch, told));
    }

    fn todo(&self, device: &Key) -> Todo {
        let told = self.saved.devices.contains_key(&device.to_string());
        self.node.read(|fleet, _| match fleet.assigned(&self.saved.id, device) {
            Some(found) => match &found.spec.model {
                Some((model_key, Some(model))) => Todo::Serve(Box::new(Serve {
                    device: convert::device(found),
                    version: convert::version(found),
                    spec_version: found.spec.version.clone(),
                    model_key: model_key.clone(),
                    model: convert::model(model_key, model),
                    model_version: convert::model_version(model),
                })),
                // Without its model a mapper cannot take it, and one that has it keeps it.
                _ => Todo::Nothing,
            },
            // What is not known yet is not gone.
            None if told && fleet.in_sync() => Todo::Remove,
            None => Todo::Nothing,
        })
    }

    async fn settle(&mut self, client: &mut Client, device: &Key) -> Result<(), Unreachable> {
        match self.todo(device) {
            Todo::Nothing => Ok(()),
            Todo::Remove => self.remove(client, device).await,
            Todo::Serve(serve) => self.serve(client, device, *serve).await,
        }
    }

    async fn serve(&mut self, client: &mut Client, device: &Key, serve: Serve) -> Result<(), Unreachable> {
        let (name, model_name) = (device.to_string(), serve.model_key.to_string());
        let applied = |worker: &Self, error: Option<&str>| {
            let id = &worker.saved.id;
            worker.node.change(|fleet, _| fleet.applied(id, device, &serve.spec_version, error));
        };
        let told_model = self.saved.models.get(&model_name);
        if told_model != Some(&serve.model_version) {
            let model = Some(serve.model);
            let answer = if told_model.is_none() {
                let request = pb::CreateDeviceModelRequest { model };
                client.create_device_model(request).await.map(drop)
            } else {
                client.update_device_model(pb::UpdateDeviceModelRequest { model }).await.map(drop)
            };
            if let Err(words) = self.answered(answer, "its DeviceModel")? {
                self.refused.insert(device.clone());
                applied(self, Some(&words));
                return Ok(());
            }
            self.saved.models.insert(model_name.clone(), serve.model_version);
            self.unsaved = true;
        }
        let told = self.saved.devices.get(&name);
        if told.is_some_and(|told| told.version == serve.version) {
            applied(self, None);
            return Ok(());
        }
        let answer = match serve.device {
            Err(words) => Ok(Err(words)),
            Ok(device) => {
                let device = Some(device);
                let answer = if told.is_some() {
                    client.update_device(pb::UpdateDeviceRequest { device }).await.map(drop)
                } else {
                    client.register_device(pb::RegisterDeviceRequest { device }).await.map(drop)
                };
                self.answered(answer, "the device")
            }
        };
        match answer? {
            Ok(()) => {
                self.saved.devices.insert(name, ToldDevice { version: serve.version, model: model_name });
                self.unsaved = true;
                applied(self, None);
            }
            Err(words) => {
                self.refused.insert(device.clone());
                applied(self, Some(&words));
            }
        }
        Ok(())
    }

    async fn remove(&mut self, client: &mut Client, device: &Key) -> Result<(), Unreachable> {
        let name = device.to_string();
        let Some(told) = self.saved.devices.get(&name).cloned() else { return Ok(()) };
        let shared = self.saved.devices.iter().any(|(other, d)| *other != name && d.model == told.model);
        if !shared && let Some(model) = key(&told.model) {
            let request = pb::RemoveDeviceModelRequest {
                model_name: model.name.to_string(),
                model_namespace: model.namespace.to_string(),
            };
            let answer = client.remove_device_model(request).await.map(drop);
            // What it does not know it need not forget.
            let _ = self.answered(answer, "the removal of a DeviceModel")?;
            self.saved.models.remove(&told.model);
        }
        let request = pb::RemoveDeviceRequest {
            device_name: device.name.to_string(),
            device_namespace: device.namespace.to_string(),
        };
        let answer = client.remove_device(request).await.map(drop);
        let _ = self.answered(answer, "the removal of a device")?;
        self.saved.devices.remove(&name);
        self.unsaved = true;
        Ok(())
    }

    /// Sorts the answer of a call: the mapper's own words, or that it cannot be reached.
    fn answered(&mut self, answer: Result<(), Status>, what: &str) -> Result<Result<(), String>, Unreachable> {
        let Err(status) = answer else { return Ok(Ok(())) };
        self.node.metrics.mapper_calls_failed.inc();
        match status.code() {
            Code::DeadlineExceeded => {
                self.suspect = true;
                Err(Unreachable(format!("it does not answer: no word about {what} in {} s", CALL.as_secs())))
            }
            Code::Unavailable | Code::Cancelled => Err(Unreachable(status.message().to_owned())),
            code => {
                tracing::warn!(mapper = %self.saved.id, ?code, what, "mapper refused");
                let words = status.message();
                Ok(Err(if words.is_empty() { format!("{code:?}") } else { words.to_owned() }))
            }
        }
    }

    async fn save(&mut self) {
        if !self.unsaved {
            return;
        }
        match self.node.persist.put_mapper(&self.saved).await {
            Ok(()) => self.unsaved = false,
            // It is told again after a restart, which does no harm.
            Err(error) => tracing::warn!(error = skerry_common::chain(&error), "a mapper cannot be saved"),
        }
    }
}

/// What a mapper was told in the answer to its registration.
pub(super) type Told = (BTreeMap<String, ToldDevice>, BTreeMap<String, String>);
