//! KubeEdge's `v1beta1` as the node of the kit serves it: registers, pushes by dialling the mapper's socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use skerry_proto::dmi::v1beta1 as pb;
use skerry_proto::dmi::v1beta1::device_manager_service_server::{DeviceManagerService, DeviceManagerServiceServer};
use skerry_proto::dmi::v1beta1::device_mapper_service_client::DeviceMapperServiceClient;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::node::{Change, Known, Shared};
use crate::definition::{Definition, Json};
use crate::{DeviceKey, DeviceState, Quality};

/// How long a mapper may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a mapper's socket is dialled again.
const DIAL_PAUSE: Duration = Duration::from_millis(20);

pub(super) fn routes(shared: Arc<Shared>, stop: CancellationToken) -> tonic::service::Routes {
    tonic::service::Routes::new(DeviceManagerServiceServer::new(Server { shared, stop }))
}

struct Server {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl DeviceManagerService for Server {
    async fn mapper_register(
        &self,
        request: Request<pb::MapperRegisterRequest>,
    ) -> Result<Response<pb::MapperRegisterResponse>, Status> {
        let request = request.into_inner();
        let mapper = request.mapper.filter(|_| request.with_data);
        let mapper = mapper.ok_or_else(|| Status::invalid_argument("the kit needs a mapper and withData"))?;
        let socket = String::from_utf8(mapper.address).map_err(|_| Status::invalid_argument("address"))?;
        let mut known = self.shared.lock();
        let changes = known.session();
        let devices: Vec<_> = known.devices.values().map(|(device, _)| Arc::clone(device)).collect();
        let answer = pb::MapperRegisterResponse {
            model_list: devices.iter().map(|device| model(device)).collect(),
            device_list: devices.iter().map(|sent| device(&known, sent)).collect(),
        };
        drop(known);
        tokio::spawn(push(Arc::clone(&self.shared), PathBuf::from(socket), changes, self.stop.clone()));
        Ok(Response::new(answer))
    }

    async fn report_device_status(
        &self,
        request: Request<pb::ReportDeviceStatusRequest>,
    ) -> Result<Response<pb::ReportDeviceStatusResponse>, Status> {
        let request = request.into_inner();
        let key = DeviceKey::new(&request.device_namespace, &request.device_name);
        let status = request.reported_device.ok_or_else(|| Status::invalid_argument("no status"))?;
        self.shared.see(|seen| {
            for twin in status.twins {
                // KubeEdge's node fails when one of both is missing.
                let (Some(wanted), Some(reported)) = (twin.observed_desired, twin.reported) else { continue };
                if !wanted.value.is_empty() {
                    seen.set_outcome(&key, &twin.property_name, wanted.value, None);
                }
                seen.value(&key, twin.property_name, reported.value, Quality::Good);
            }
        });
        Ok(Response::new(pb::ReportDeviceStatusResponse {}))
    }

    async fn report_device_states(
        &self,
        request: Request<pb::ReportDeviceStatesRequest>,
    ) -> Result<Response<pb::ReportDeviceStatesResponse>, Status> {
        let request = request.into_inner();
        let state = match request.state.as_str() {
            "online" | "ok" => DeviceState::Online,
            "offline" => DeviceState::Offline,
            "unhealthy" => DeviceState::Unhealthy,
            other => return Err(Status::invalid_argument(format!("state {other:?}"))),
        };
        let key = DeviceKey::new(&request.device_namespace, &request.device_name);
        self.shared.see(|seen| seen.set_state(key, state));
        Ok(Response::new(pb::ReportDeviceStatesResponse {}))
    }
}

/// Passes changes on to a mapper, in order, until it is gone.
async fn push(shared: Arc<Shared>, socket: PathBuf, mut changes: mpsc::Receiver<Change>, stop: CancellationToken) {
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = stop.cancelled() => return,
        };
        let Some(change) = change else { return };
        // A mapper's socket may come after its registration.
        let until = tokio::time::Instant::now() + CALL_TIMEOUT;
        while let Err(error) = call(&shared, &socket, &change).await {
            if tokio::time::Instant::now() >= until || stop.is_cancelled() {
                tracing::warn!(error, "the mapper does not take a change");
                return;
            }
            tokio::time::sleep(DIAL_PAUSE).await;
        }
    }
}

async fn call(shared: &Shared, socket: &std::path::Path, change: &Change) -> Result<(), String> {
    let channel = crate::node::dial(socket).await.map_err(|error| error.to_string())?;
    let mut client = DeviceMapperServiceClient::new(channel);
    let (device_name, device_namespace, sent) = match change {
        Change::Device(device, _) => (String::new(), String::new(), Some(Arc::clone(device))),
        Change::Desired(key, _) => {
            (String::new(), String::new(), shared.lock().devices.get(key).map(|(device, _)| Arc::clone(device)))
        }
        Change::Removed(key) => (key.name.clone(), key.namespace.clone(), None),
    };
    let calls = async {
        match sent {
            Some(sent) => {
                let message = device(&shared.lock(), &sent);
                client.create_device_model(pb::CreateDeviceModelRequest { model: Some(model(&sent)) }).await?;
                if matches!(change, Change::Desired(..)) {
                    client.update_device(pb::UpdateDeviceRequest { device: Some(message) }).await?;
                } else {
                    client.register_device(pb::RegisterDeviceRequest { device: Some(message) }).await?;
                }
            }
            None => {
                client.remove_device(pb::RemoveDeviceRequest { device_name, device_namespace }).await?;
            }
        }
        Ok::<_, Status>(())
    };
    let done = tokio::time::timeout(CALL_TIMEOUT, calls).await.map_err(|_| "late".to_owned())?;
    done.map_err(|status| status.to_string())
}

fn model(device: &Definition) -> pb::DeviceModel {
    let properties = device.properties.iter().map(|property| pb::ModelProperty {
        name: property.name.to_string(),
        r#type: property.data_type.name().to_owned(),
        access_mode: if property.writable { "ReadWrite" } else { "ReadOnly" }.to_owned(),
        minimum: property.minimum.to_string(),
        maximum: property.maximum.to_string(),
        ..Default::default()
    });
    pb::DeviceModel {
        name: format!("{}-model", device.key.name),
        namespace: device.key.namespace.clone(),
        spec: Some(pb::DeviceModelSpec { properties: properties.collect(), commands: Vec::new() }),
    }
}

fn device(known: &Known, device: &Definition) -> pb::Device {
    let properties = device.properties.iter().map(|property| pb::DeviceProperty {
        name: property.name.to_string(),
        desired: Some(pb::TwinProperty {
            value: known.wish(&device.key, &property.name).map(|desired| desired.value).unwrap_or_default(),
            ..Default::default()
        }),
        visitors: Some(pb::VisitorConfig {
            protocol_name: String::new(),
            config_data: Some(config(&property.visitor_config.object())),
        }),
        report_cycle: i64::try_from(property.report_cycle.as_millis()).unwrap_or(i64::MAX),
        collect_cycle: i64::try_from(property.collect_cycle.as_millis()).unwrap_or(i64::MAX),
        report_to_cloud: property.report_to_cloud,
        push_method: None,
    });
    pb::Device {
        name: device.key.name.clone(),
        namespace: device.key.namespace.clone(),
        spec: Some(pb::DeviceSpec {
            device_model_reference: format!("{}-model", device.key.name),
            protocol: Some(pb::ProtocolConfig {
                protocol_name: String::new(),
                config_data: Some(config(&device.protocol_config.object())),
            }),
            properties: properties.collect(),
            methods: Vec::new(),
        }),
        status: None,
    }
}

/// As KubeEdge does it: every number is a 32-bit float.
fn config(config: &Json) -> pb::CustomizedValue {
    let any = |value: &serde_json::Value| {
        let (kind, value) = match value {
            serde_json::Value::Bool(bool) => ("BoolValue", bool.encode_to_vec()),
            serde_json::Value::Number(number) => {
                #[allow(clippy::cast_possible_truncation)]
                let single = number.as_f64().unwrap_or_default() as f32;
                ("FloatValue", single.encode_to_vec())
            }
            serde_json::Value::String(text) => ("StringValue", text.encode_to_vec()),
            // KubeEdge does not deliver such a device.
            other => ("StringValue", other.to_string().encode_to_vec()),
        };
        prost_types::Any { type_url: format!("type.googleapis.com/google.protobuf.{kind}"), value }
    };
    pb::CustomizedValue { data: config.iter().map(|(name, value)| (name.clone(), any(value))).collect() }
}
