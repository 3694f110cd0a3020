//! What mappers of v1beta1 call: they register, and report values and states.
//!
//! Every field may be missing; no call ends anything but itself. A mapper is bound to the process that
//! registered it, and only its own devices are taken from it. Limits: the mapper's quotas, message sizes of
//! `skerry-rpc`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use skerry_common::Key;
use skerry_proto::dmi::v1beta1 as pb;
use skerry_proto::dmi::v1beta1::device_manager_service_server::DeviceManagerService;
use skerry_store::StoreError;
use tokio::task::AbortHandle;
use tonic::{Request, Response, Status};

use super::worker::{Told, Worker};
use super::{address, convert};
use crate::access::Access;
use crate::fleet::{Api, Introduction, MapperId, Reading, State};
use crate::node::Node;
use crate::persist::{SavedMapper, ToldDevice};
use crate::twin::Quality;

/// The namespace of a device that is named without one.
const DEFAULT_NAMESPACE: &str = "default";
/// Twins of one report; a device has not more properties.
const MAX_TWINS: usize = 2_000;

/// The tasks that call mappers back. They end when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Workers(Mutex<BTreeMap<MapperId, AbortHandle>>);

impl Workers {
    /// Starts to call a mapper, in place of an earlier run of it.
    fn start(&self, worker: Worker) {
        let id = worker.saved.id.clone();
        let handle = tokio::spawn(worker.run()).abort_handle();
        let old = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, handle);
        if let Some(old) = old {
            old.abort();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for handle in self.0.lock().unwrap_or_else(PoisonError::into_inner).values() {
            handle.abort();
        }
    }
}

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Managed {
    pub(crate) node: Arc<Node>,
    pub(crate) access: Arc<Access>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) dirs: Arc<[PathBuf]>,
}

impl Managed {
    /// Calls the mappers of before our restart again: they do not register anew.
    pub(crate) fn resume(&self, mappers: Vec<SavedMapper>) {
        for saved in mappers {
            // What was allowed may have been configured otherwise since.
            let path = match address::parse(saved.address.as_bytes(), &self.dirs) {
                Ok(path) => path,
                Err(why) => {
                    tracing::warn!(mapper = %saved.id, why, "a mapper of before cannot be called");
                    continue;
                }
            };
            if let Err(why) = self.start(saved, path) {
                tracing::warn!(why, "a mapper of before cannot be called");
            }
        }
    }

    fn start(&self, saved: SavedMapper, path: PathBuf) -> Result<(), String> {
        let introduction = Introduction {
            id: saved.id.clone(),
            api: Api::V1beta1,
            version: saved.version.clone(),
            namespaces: BTreeSet::new(),
            caller: saved.caller.clone(),
        };
        let place = self.node.change(|fleet, now| fleet.connect(introduction, now))?;
        self.workers.start(Worker::new(Arc::clone(&self.node), saved, path, place));
        Ok(())
    }

    /// The device of a report, and the mapper for which the caller speaks about it.
    fn speaker<T>(&self, request: &Request<T>, namespace: &str, name: &str) -> Result<(Key, MapperId), Status> {
        // Who may not use the socket learns nothing else.
        let caller = self.access.caller(request)?;
        let device = device_key(namespace, name)?;
        let speaker = self.node.read_mut(|fleet, now| {
            fleet.hear(&caller, now);
            fleet.speaker(&device, &caller)
        });
        Ok((device, speaker.map_err(Status::permission_denied)?))
    }
}

fn device_key(namespace: &str, name: &str) -> Result<Key, Status> {
    let namespace = if namespace.is_empty() { DEFAULT_NAMESPACE } else { namespace };
    Key::checked(namespace, name).map_err(|error| Status::invalid_argument(format!("deviceName: {error}")))
}

#[tonic::async_trait]
impl DeviceManagerService for Managed {
    async fn mapper_register(
        &self,
        request: Request<pb::MapperRegisterRequest>,
    ) -> Result<Response<pb::MapperRegisterResponse>, Status> {
        let caller = self.access.caller(&request)?;
        let pb::MapperRegisterRequest { with_data, mapper } = request.into_inner();
        let mapper = mapper.ok_or_else(|| Status::invalid_argument("the field mapper is missing"))?;
        let id = MapperId::checked(&mapper.protocol, &mapper.name).map_err(Status::invalid_argument)?;
        let path = address::parse(&mapper.address, &self.dirs).map_err(Status::invalid_argument)?;
        self.node.read(|fleet, _| fleet.may_replace(&id, &caller)).map_err(Status::permission_denied)?;
        let mut saved = SavedMapper {
            id: id.clone(),
            version: mapper.version.chars().take(64).collect(),
            address: path.display().to_string(),
            caller: (*caller).clone(),
            inode: 0,
            devices: BTreeMap::new(),
            models: BTreeMap::new(),
        };
        let unstored = |error: StoreError| {
            Status::unavailable(format!("the mapper cannot be stored: {}", skerry_common::chain(&error)))
        };
        self.node.persist.put_mapper(&saved).await.map_err(unstored)?;
        // First a place in the fleet, so that the answer can hold what is its own from now on.
        let mut answer = pb::MapperRegisterResponse::default();
        let introduction = Introduction {
            id: id.clone(),
            api: Api::V1beta1,
            version: saved.version.clone(),
            namespaces: BTreeSet::new(),
            caller: (*caller).clone(),
        };
        let connected = self.node.change(|fleet, now| fleet.connect(introduction, now));
        let place = connected.map_err(Status::resource_exhausted)?;
        if with_data {
            (answer, (saved.devices, saved.models)) = self.data(&id);
            // Before the mapper has them, so that a crash of ours does not make it set them up again.
            self.node.persist.put_mapper(&saved).await.map_err(unstored)?;
        }
        tracing::info!(mapper = %id, with_data, devices = answer.device_list.len(), "mapper registered");
        self.workers.start(Worker::new(Arc::clone(&self.node), saved, path, place));
        Ok(Response::new(answer))
    }

    async fn report_device_status(
        &self,
        request: Request<pb::ReportDeviceStatusRequest>,
    ) -> Result<Response<pb::ReportDeviceStatusResponse>, Status> {
        let report = request.get_ref();
        let (key, id) = self.speaker(&request, &report.device_namespace, &report.device_name)?;
        let twins = request.into_inner().reported_device.map(|device| device.twins).unwrap_or_default();
        if twins.is_empty() {
            return Err(Status::invalid_argument("reportedDevice holds no twins"));
        }
        if twins.len() > MAX_TWINS {
            return Err(Status::invalid_argument(format!("a report may hold {MAX_TWINS} twins, not {}", twins.len())));
        }
        self.node.admit(&id, 1, twins.len() as u64).await?;
        let count = twins.len();
        let readings: Vec<Reading> = twins.into_iter().filter_map(reading).collect();
        let refused = self.node.change(|fleet, now| fleet.report(&id, &key, readings, now));
        let refused = refused.map_err(Status::permission_denied)?;
        self.node.metrics.values.inc_by(count.saturating_sub(refused.len()) as u64);
        self.node.metrics.values_refused.inc_by(refused.len() as u64);
        match refused.first() {
            Some((property, why)) if refused.len() == count => {
                Err(Status::invalid_argument(format!("{key} {property:?}: {why}")))
            }
            _ => Ok(Response::new(pb::ReportDeviceStatusResponse {})),
        }
    }

    async fn report_device_states(
        &self,
        request: Request<pb::ReportDeviceStatesRequest>,
    ) -> Result<Response<pb::ReportDeviceStatesResponse>, Status> {
        let report = request.get_ref();
        let (key, id) = self.speaker(&request, &report.device_namespace, &report.device_name)?;
        let word = report.state.to_ascii_lowercase();
        if word.is_empty() {
            return Err(Status::invalid_argument("the field state is empty"));
        }
        self.node.admit(&id, 1, 0).await?;
        // KubeEdge ignores words that it does not know; so mappers may send them.
        if let Some(state) = State::parse(&word) {
            let taken = self.node.change(|fleet, now| fleet.report_state(&id, &key, state, &word, "", now));
            taken.map_err(Status::permission_denied)?;
        }
        Ok(Response::new(pb::ReportDeviceStatesResponse {}))
    }
}

impl Managed {
    /// All devices and models of a mapper that can be sent, and what it was told with them.
    fn data(&self, id: &MapperId) -> (pb::MapperRegisterResponse, Told) {
        let mut answer = pb::MapperRegisterResponse::default();
        let mut told = Told::default();
        self.node.change(|fleet, _| {
            for key in fleet.devices_of(id) {
                let Some(device) = fleet.assigned(id, &key) else { continue };
                let Some((model_key, Some(model))) = &device.spec.model else { continue };
                // One that cannot be sent is refused by its worker, which says why.
                let Ok(sent) = convert::device(device) else { continue };
                let (model_name, version) = (model_key.to_string(), convert::version(device));
                if told.1.insert(model_name.clone(), convert::model_version(model)).is_none() {
                    answer.model_list.push(convert::model(model_key, model));
                }
                told.0.insert(key.to_string(), ToldDevice { version, model: model_name });
                answer.device_list.push(sent);
            }
        });
        (answer, told)
    }
}

/// A twin as a reading; `None` for one without a reported value, as mappers send before the first read.
fn reading(twin: pb::Twin) -> Option<Reading> {
    let reported = twin.reported?;
    let source_ms = reported.metadata.get("timestamp").and_then(|ms| ms.parse().ok()).unwrap_or(0);
    Some(Reading {
        property: twin.property_name,
        value: Some(reported.value),
        quality: Quality::Good,
        source_ms,
        problem: String::new(),
        outcome: None,
        mapper_decides: true,
    })
}
