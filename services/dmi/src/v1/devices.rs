//! What people and programs on the node ask: which devices there are, how they are, and what they shall be.
//!
//! Works without the cloud. Limits: a list of [`PAGE_BYTES`], beyond which one asks for a namespace or
//! watches; [`MAX_WATCHES`], of which each has one entry per device.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use skerry_common::Key;
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::devices_server::Devices;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert;
use super::questions::Questions;
use crate::access::Access;
use crate::node::Node;

/// Watches at a time.
const MAX_WATCHES: usize = 64;
/// Changes on their way to a watcher.
const WATCH_QUEUE: usize = 16;
/// Longest answer; our clients take replies of this size.
const PAGE_BYTES: usize = skerry_rpc::limits::DMI_MESSAGE_BYTES;

/// How long a device may take to be read where nobody says, and at most.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_READ: Duration = Duration::from_secs(60);

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    node: Arc<Node>,
    access: Arc<Access>,
    watches: Arc<Semaphore>,
    questions: Arc<Questions>,
}

impl Shown {
    pub(crate) fn new(node: Arc<Node>, access: Arc<Access>, questions: Arc<Questions>) -> Self {
        Self { node, access, watches: Arc::new(Semaphore::new(MAX_WATCHES)), questions }
    }
}

fn missing(key: &Key) -> Status {
    Status::not_found(format!("the device {key} is not on this node"))
}

#[tonic::async_trait]
impl Devices for Shown {
    async fn list_devices(
        &self,
        request: Request<pb::ListDevicesRequest>,
    ) -> Result<Response<pb::ListDevicesResponse>, Status> {
        self.access.caller(&request)?;
        let namespace = request.into_inner().namespace;
        let keys = self.node.read(|fleet, _| fleet.device_keys(&namespace));
        let (mut devices, mut bytes) = (Vec::with_capacity(keys.len()), 0_usize);
        for key in keys {
            if let Some(shown) = self.node.read(|fleet, now| fleet.show(&key, now)) {
                let view = convert::shown(shown);
                // With its tag and length.
                bytes = bytes.saturating_add(view.encoded_len()).saturating_add(8);
                if bytes > PAGE_BYTES {
                    return Err(Status::out_of_range(
                        "the list is too long for one answer: ask for one namespace, or watch, which sends one device at a time",
                    ));
                }
                devices.push(view);
            }
        }
        Ok(Response::new(pb::ListDevicesResponse { devices }))
    }

    async fn get_device(&self, request: Request<pb::GetDeviceRequest>) -> Result<Response<pb::DeviceView>, Status> {
        self.access.caller(&request)?;
        let key = convert::key(request.into_inner().device.as_ref()).map_err(convert::invalid)?;
        let shown = self.node.read(|fleet, now| fleet.show(&key, now));
        let shown = shown.ok_or_else(|| missing(&key))?;
        Ok(Response::new(convert::shown(shown)))
    }

    async fn set_desired(
        &self,
        request: Request<pb::SetDesiredRequest>,
    ) -> Result<Response<pb::SetDesiredResponse>, Status> {
        self.access.caller(&request)?;
        let pb::SetDesiredRequest { device, property, value } = request.into_inner();
        let key = convert::key(device.as_ref()).map_err(convert::invalid)?;
        let node = Arc::clone(&self.node);
        // To its end, also when whoever asked is gone: a value that is on disk and does not hold would hold after the
        // next start.
        let set = tokio::spawn(async move { node.desire(&key, &property, &value).await });
        let version = set.await.map_err(|_| Status::internal("the value may not have been set; look"))??;
        Ok(Response::new(pb::SetDesiredResponse { version }))
    }

    async fn read_device(
        &self,
        request: Request<pb::ReadDeviceRequest>,
    ) -> Result<Response<pb::ReadDeviceResponse>, Status> {
        self.access.caller(&request)?;
        let pb::ReadDeviceRequest { device, properties, timeout_ms } = request.into_inner();
        let key = convert::key(device.as_ref()).map_err(convert::invalid)?;
        let shown = self.node.read(|fleet, now| fleet.show(&key, now)).ok_or_else(|| missing(&key))?;
        let unserved = || Status::failed_precondition(format!("no mapper serves the device {key}"));
        let mapper = shown.mapper.clone().ok_or_else(unserved)?;
        let view = convert::shown(shown);
        if let Some(other) = properties.iter().find(|name| !view.twins.iter().any(|twin| twin.property == **name)) {
            return Err(Status::not_found(format!("the device {key} has no property {other:?}")));
        }
        let timeout = match timeout_ms {
            0 => READ_TIMEOUT,
            given => Duration::from_millis(u64::from(given)).min(LONGEST_READ),
        };
        let values = self.questions.read(&mapper, convert::to_key(&key), properties, timeout).await?;
        let now = self.node.now().wall;
        let twins = values.into_iter().filter_map(|value| convert::read(&view, value, now));
        Ok(Response::new(pb::ReadDeviceResponse { twins: twins.collect() }))
    }

    type WatchDevicesStream = ReceiverStream<Result<pb::DeviceChange, Status>>;

    async fn watch_devices(
        &self,
        request: Request<pb::WatchDevicesRequest>,
    ) -> Result<Response<Self::WatchDevicesStream>, Status> {
        self.access.caller(&request)?;
        let permit = Arc::clone(&self.watches).try_acquire_owned();
        let permit = permit.map_err(|_| Status::resource_exhausted("too many watches; end one, or try again later"))?;
        let namespace = request.into_inner().namespace;
        let node = Arc::clone(&self.node);
        let (changes, queue) = mpsc::channel(WATCH_QUEUE);
        tokio::spawn(async move {
            let _permit = permit;
            let watcher = node.read_mut(|fleet, _| fleet.watch());
            let mut keys: Vec<_> = node.read(|fleet, _| fleet.device_keys(&namespace));
            loop {
                for key in keys {
                    use pb::device_change::Change;
                    let change = match node.read(|fleet, now| fleet.show(&key, now)) {
                        Some(shown) => Change::Device(convert::shown(shown)),
                        None => Change::Removed(convert::to_key(&key)),
                    };
                    if changes.send(Ok(pb::DeviceChange { change: Some(change) })).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = watcher.wake.notified() => {}
                    () = changes.closed() => return,
                }
                let changed = watcher.take().into_iter();
                keys = changed.filter(|key| namespace.is_empty() || *key.namespace == *namespace).collect();
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }

    async fn list_mappers(
        &self,
        request: Request<pb::ListMappersRequest>,
    ) -> Result<Response<pb::ListMappersResponse>, Status> {
        self.access.caller(&request)?;
        let mappers = self.node.read(|fleet, _| fleet.show_mappers());
        Ok(Response::new(pb::ListMappersResponse { mappers: mappers.into_iter().map(convert::mapper).collect() }))
    }
}
