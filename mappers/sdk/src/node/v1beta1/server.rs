//! What the node calls on the mapper's socket.
//!
//! Calls may come in any order and more than once: a device whose model is not there yet is set up when the model
//! comes, and one that did not change is left alone. Nothing here waits for a device but GetDevice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skerry_proto::dmi::v1beta1 as pb;
use skerry_proto::dmi::v1beta1::device_mapper_service_server::DeviceMapperService;
use tonic::{Request, Response, Status};

use super::convert;
use crate::DeviceKey;
use crate::engine::{Plant, read_now};
use crate::error::CommandError;
use crate::report::Outbox;

/// Models of one mapper, and devices; more are refused.
const MAX_OBJECTS: usize = 10_000;
/// How long GetDevice may take: the node waits ten seconds.
const READ_TIMEOUT: Duration = Duration::from_secs(8);

/// Models and devices as they were sent.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Sent>);

#[derive(Debug, Default)]
struct Sent {
    models: BTreeMap<DeviceKey, pb::DeviceModel>,
    devices: BTreeMap<DeviceKey, pb::Device>,
}

impl Registry {
    /// Takes a model; devices that use it are set up with it.
    pub(super) fn model(&self, plant: &dyn Plant, model: pb::DeviceModel) -> bool {
        let key = convert::key(&model.namespace, &model.name);
        let mut sent = self.lock();
        if sent.models.len() >= MAX_OBJECTS && !sent.models.contains_key(&key) {
            return false;
        }
        for device in sent.devices.values() {
            if convert::model_key(device) == key {
                plant.apply(convert::device(device, Some(&model)));
            }
        }
        sent.models.insert(key, model);
        true
    }

    /// Takes a device; nothing when there are too many.
    pub(super) fn device(&self, plant: &dyn Plant, device: pb::Device) -> Option<DeviceKey> {
        let key = convert::key(&device.namespace, &device.name);
        let mut sent = self.lock();
        if device.name.is_empty() || (sent.devices.len() >= MAX_OBJECTS && !sent.devices.contains_key(&key)) {
            return None;
        }
        plant.apply(convert::device(&device, sent.models.get(&convert::model_key(&device))));
        sent.devices.insert(key.clone(), device);
        Some(key)
    }

    fn lock(&self) -> MutexGuard<'_, Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Server {
    plant: Arc<dyn Plant>,
    outbox: Arc<Outbox>,
    registry: Arc<Registry>,
}

impl Server {
    pub(super) fn new(plant: Arc<dyn Plant>, outbox: Arc<Outbox>, registry: Arc<Registry>) -> Self {
        Self { plant, outbox, registry }
    }

    fn set_model(&self, model: Option<pb::DeviceModel>) -> Result<(String, String), Status> {
        let model = model.filter(|model| !model.name.is_empty()).ok_or_else(|| missing("model"))?;
        let names = (model.name.clone(), model.namespace.clone());
        if self.registry.model(self.plant.as_ref(), model) { Ok(names) } else { Err(full()) }
    }

    fn set_device(&self, device: Option<pb::Device>) -> Result<DeviceKey, Status> {
        let device = device.filter(|device| !device.name.is_empty()).ok_or_else(|| missing("device"))?;
        self.registry.device(self.plant.as_ref(), device).ok_or_else(full)
    }
}

#[tonic::async_trait]
impl DeviceMapperService for Server {
    async fn register_device(
        &self,
        request: Request<pb::RegisterDeviceRequest>,
    ) -> Result<Response<pb::RegisterDeviceResponse>, Status> {
        let key = self.set_device(request.into_inner().device)?;
        Ok(Response::new(pb::RegisterDeviceResponse { device_name: key.name, device_namespace: key.namespace }))
    }

    async fn remove_device(
        &self,
        request: Request<pb::RemoveDeviceRequest>,
    ) -> Result<Response<pb::RemoveDeviceResponse>, Status> {
        let request = request.into_inner();
        let key = convert::key(&request.device_namespace, &request.device_name);
        self.registry.lock().devices.remove(&key);
        self.plant.remove(&key);
        Ok(Response::new(pb::RemoveDeviceResponse {}))
    }

    async fn update_device(
        &self,
        request: Request<pb::UpdateDeviceRequest>,
    ) -> Result<Response<pb::UpdateDeviceResponse>, Status> {
        self.set_device(request.into_inner().device)?;
        Ok(Response::new(pb::UpdateDeviceResponse {}))
    }

    async fn create_device_model(
        &self,
        request: Request<pb::CreateDeviceModelRequest>,
    ) -> Result<Response<pb::CreateDeviceModelResponse>, Status> {
        let (device_model_name, device_model_namespace) = self.set_model(request.into_inner().model)?;
        Ok(Response::new(pb::CreateDeviceModelResponse { device_model_name, device_model_namespace }))
    }

    async fn remove_device_model(
        &self,
        request: Request<pb::RemoveDeviceModelRequest>,
    ) -> Result<Response<pb::RemoveDeviceModelResponse>, Status> {
        // Devices that still use it are removed by calls of their own.
        let request = request.into_inner();
        let key = convert::key(&request.model_namespace, &request.model_name);
        self.registry.lock().models.remove(&key);
        Ok(Response::new(pb::RemoveDeviceModelResponse {}))
    }

    async fn update_device_model(
        &self,
        request: Request<pb::UpdateDeviceModelRequest>,
    ) -> Result<Response<pb::UpdateDeviceModelResponse>, Status> {
        self.set_model(request.into_inner().model)?;
        Ok(Response::new(pb::UpdateDeviceModelResponse {}))
    }

    async fn get_device(
        &self,
        request: Request<pb::GetDeviceRequest>,
    ) -> Result<Response<pb::GetDeviceResponse>, Status> {
        let request = request.into_inner();
        let key = convert::key(&request.device_namespace, &request.device_name);
        let device = self.registry.lock().devices.get(&key).cloned();
        let mut device = device.ok_or_else(|| Status::not_found(format!("no device {key} is served here")))?;
        match read_now(self.plant.as_ref(), &key, &[], READ_TIMEOUT).await {
            Ok((definition, samples)) => convert::show(&mut device, &definition, samples),
            // What was known last is better than nothing, and says when it was read.
            Err(CommandError::Offline(_)) => {
                if let Some((definition, reports)) = self.outbox.look(&key) {
                    convert::show_last(&mut device, &definition, &reports);
                }
            }
            Err(error) => return Err(Status::unavailable(error.to_string())),
        }
        Ok(Response::new(pb::GetDeviceResponse { device: Some(device) }))
    }
}

fn missing(what: &str) -> Status {
    Status::invalid_argument(format!("the {what} or its name is missing"))
}

fn full() -> Status {
    Status::resource_exhausted(format!("a mapper serves at most {MAX_OBJECTS}"))
}
