//! What the node calls back: a mapper of v1beta1 that takes every device and does nothing with it.

use std::path::Path;
use std::time::Duration;

use skerry_common::drain;
use skerry_proto::dmi::v1beta1 as pb;
use skerry_proto::dmi::v1beta1::device_mapper_service_server::{DeviceMapperService, DeviceMapperServiceServer};
use skerry_rpc::{Caller, Listen, Policy, Server, ServerConfig, ServerLimits};
use tonic::{Request, Response, Status};

/// A mapper's own socket, until it is dropped.
#[derive(Debug)]
pub(crate) struct Called {
    _stop: drain::Trigger,
}

impl Called {
    pub(crate) async fn listen(socket: &Path) -> anyhow::Result<Self> {
        let listen = Listen::Unix { path: socket.to_owned(), mode: 0o600 };
        let policy = Policy::new().allow("v1beta1.DeviceMapperService", &[Caller::Local]);
        let bound = Server::bind(ServerConfig::new("mapper", listen, policy).limits(ServerLimits::local())).await?;
        let (_stop, watch) = drain::channel(Duration::from_secs(1));
        tokio::spawn(bound.serve(tonic::service::Routes::new(DeviceMapperServiceServer::new(Service)), watch));
        Ok(Self { _stop })
    }
}

struct Service;

#[tonic::async_trait]
impl DeviceMapperService for Service {
    async fn register_device(
        &self,
        request: Request<pb::RegisterDeviceRequest>,
    ) -> Result<Response<pb::RegisterDeviceResponse>, Status> {
        let device = request.into_inner().device.unwrap_or_default();
        Ok(Response::new(pb::RegisterDeviceResponse { device_name: device.name, device_namespace: device.namespace }))
    }

    async fn remove_device(
        &self,
        _: Request<pb::RemoveDeviceRequest>,
    ) -> Result<Response<pb::RemoveDeviceResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn update_device(
        &self,
        _: Request<pb::UpdateDeviceRequest>,
    ) -> Result<Response<pb::UpdateDeviceResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn create_device_model(
        &self,
        _: Request<pb::CreateDeviceModelRequest>,
    ) -> Result<Response<pb::CreateDeviceModelResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn remove_device_model(
        &self,
        _: Request<pb::RemoveDeviceModelRequest>,
    ) -> Result<Response<pb::RemoveDeviceModelResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn update_device_model(
        &self,
        _: Request<pb::UpdateDeviceModelRequest>,
    ) -> Result<Response<pb::UpdateDeviceModelResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn get_device(&self, _: Request<pb::GetDeviceRequest>) -> Result<Response<pb::GetDeviceResponse>, Status> {
        Err(Status::unimplemented("this mapper has no values of its own"))
    }
}
