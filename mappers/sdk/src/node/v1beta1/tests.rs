//! The mapper's own socket: who may use it, and what is refused.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use skerry_proto::dmi::v1beta1 as pb;
use skerry_proto::dmi::v1beta1::device_mapper_service_client::DeviceMapperServiceClient;
use skerry_proto::dmi::v1beta1::device_mapper_service_server::DeviceMapperServiceServer;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::super::channel::{Channel, dial};
use super::listen;
use super::server::{Registry, Server};
use crate::engine::{Engine, Plant};
use crate::metrics::Metrics;
use crate::report::{Outbox, Room};
use crate::serve::{Listener, serve};
use crate::test_driver::Number;
use crate::{DataType, DeviceKey};

struct Running {
    client: DeviceMapperServiceClient<Channel>,
    engine: Arc<Engine<Number>>,
    outbox: Arc<Outbox>,
    _stop: tokio_util::sync::DropGuard,
    folder: tempfile::TempDir,
}

async fn running() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mapper.sock");
    // What an earlier process left is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = listen(&path).unwrap();
    let outbox = Arc::new(Outbox::default());
    let engine = Arc::new(Engine::new(Number::default(), Arc::clone(&outbox), Metrics::default()));
    let server = Server::new(Arc::clone(&engine) as _, Arc::clone(&outbox), Arc::new(Registry::default()));
    let router = tonic::service::Routes::new(DeviceMapperServiceServer::new(server)).prepare().into_axum_router();
    let stop = CancellationToken::new();
    tokio::spawn(serve(Listener::Unix(listener), router, Metrics::default(), stop.clone()));
    let client = DeviceMapperServiceClient::new(dial(&path).await.unwrap());
    Running { client, engine, outbox, _stop: stop.drop_guard(), folder }
}

fn device(name: &str) -> pb::Device {
    let property = pb::DeviceProperty { name: "n".into(), collect_cycle: 50, ..Default::default() };
    let spec = pb::DeviceSpec { device_model_reference: "m".into(), properties: vec![property], ..Default::default() };
    pb::Device { name: name.into(), namespace: "d".into(), spec: Some(spec), ..Default::default() }
}

fn model(name: &str) -> pb::DeviceModel {
    let property = pb::ModelProperty { name: "n".into(), r#type: "INT".into(), ..Default::default() };
    let spec = pb::DeviceModelSpec { properties: vec![property], commands: Vec::new() };
    pb::DeviceModel { name: name.into(), namespace: "d".into(), spec: Some(spec) }
}

#[tokio::test]
async fn only_the_owner_may_use_the_socket() {
    let running = running().await;
    let mode = |name: &str| std::fs::metadata(running.folder.path().join(name)).map(|m| m.permissions().mode() & 0o777);
    assert_eq!(mode("mapper.sock").unwrap(), 0o600);
    assert!(mode("mapper.sock.new").is_err());
}

#[tokio::test]
async fn what_is_not_a_device_or_not_here_is_refused() {
    let mut running = running().await;
    let client = &mut running.client;
    let register = client.register_device(pb::RegisterDeviceRequest { device: None }).await;
    assert_eq!(register.unwrap_err().code(), Code::InvalidArgument);
    let register = client.register_device(pb::RegisterDeviceRequest { device: Some(pb::Device::default()) }).await;
    assert_eq!(register.unwrap_err().code(), Code::InvalidArgument);
    let update = client.update_device(pb::UpdateDeviceRequest { device: None }).await;
    assert_eq!(update.unwrap_err().code(), Code::InvalidArgument);
    let create = client.create_device_model(pb::CreateDeviceModelRequest { model: None }).await;
    assert_eq!(create.unwrap_err().code(), Code::InvalidArgument);
    let update = client.update_device_model(pb::UpdateDeviceModelRequest { model: Some(model("")) }).await;
    assert_eq!(update.unwrap_err().code(), Code::InvalidArgument);
    let get = pb::GetDeviceRequest { device_name: "none".into(), device_namespace: "d".into() };
    assert_eq!(client.get_device(get).await.unwrap_err().code(), Code::NotFound);
    // Removing what is not there is no error: the node may say it twice.
    let remove = pb::RemoveDeviceRequest { device_name: "none".into(), device_namespace: "d".into() };
    assert!(client.remove_device(remove).await.is_ok());
    let remove = pb::RemoveDeviceModelRequest { model_name: "none".into(), model_namespace: "d".into() };
    assert!(client.remove_device_model(remove).await.is_ok());
}

#[tokio::test]
async fn a_model_may_come_after_its_device_and_both_twice() {
    let mut running = running().await;
    let key = DeviceKey::new("d", "a");
    let register = pb::RegisterDeviceRequest { device: Some(device("a")) };
    let named = running.client.register_device(register.clone()).await.unwrap().into_inner();
    assert_eq!((named.device_name.as_str(), named.device_namespace.as_str()), ("a", "d"));
    let batch = running.outbox.take(Room { values: 10, bytes: usize::MAX });
    assert!(batch.applied[0].1.error.contains("the model d/m is not here"), "{:?}", batch.applied);
    let create = pb::CreateDeviceModelRequest { model: Some(model("m")) };
    running.client.create_device_model(create.clone()).await.unwrap();
    let definition = running.engine.definition(&key).unwrap();
    assert_eq!(definition.properties[0].data_type, DataType::Int);
    // The same again is nothing new.
    running.client.create_device_model(create).await.unwrap();
    running.client.register_device(register).await.unwrap();
    assert!(Arc::ptr_eq(&definition, &running.engine.definition(&key).unwrap()));
    // GetDevice reads it now, as soon as its line is open.
    let get = pb::GetDeviceRequest { device_name: "a".into(), device_namespace: "d".into() };
    let twins = loop {
        let device = running.client.get_device(get.clone()).await.unwrap().into_inner().device.unwrap();
        let twins = device.status.map(|status| status.twins).unwrap_or_default();
        if twins.iter().any(|twin| twin.reported.as_ref().is_some_and(|reported| !reported.value.is_empty())) {
            break twins;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(twins[0].reported.as_ref().unwrap().value, "0");
    assert!(twins[0].observed_desired.is_some());
    let remove = pb::RemoveDeviceRequest { device_name: "a".into(), device_namespace: "d".into() };
    running.client.remove_device(remove).await.unwrap();
    assert!(running.engine.definition(&key).is_none());
    assert_eq!(running.client.get_device(get).await.unwrap_err().code(), Code::NotFound);
    running.engine.stop().await;
}
