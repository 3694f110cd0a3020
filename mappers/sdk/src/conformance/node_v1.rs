//! `skerry.dmi.v1` as the node of the kit serves it.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::mapper_message::Message as FromMapper;
use skerry_proto::dmi::v1::mappers_server::{Mappers, MappersServer};
use skerry_proto::dmi::v1::node_message::Message as ToMapper;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::node::{Change, SESSION_QUEUE, Shared};
use super::wire;
use crate::{DeviceKey, DeviceState};

/// Small, so that a mapper that does not keep to them is found.
const MAX_VALUES: u32 = 50;
const WINDOW: u32 = 2;
const MAX_MESSAGE_BYTES: u32 = 16 * 1024;
/// A node's.
const MAX_VALUE_BYTES: u32 = 4096;

pub(super) fn routes(shared: Arc<Shared>, stop: CancellationToken) -> tonic::service::Routes {
    let limit = usize::try_from(MAX_MESSAGE_BYTES).unwrap_or(usize::MAX);
    tonic::service::Routes::new(MappersServer::new(Server { shared, stop }).max_decoding_message_size(limit))
}

struct Server {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

type Answer = Result<pb::NodeMessage, Status>;

#[tonic::async_trait]
impl Mappers for Server {
    type ConnectStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::MapperMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (sender, receiver) = mpsc::channel(SESSION_QUEUE);
        let session = Session { shared: Arc::clone(&self.shared), sender };
        let (stop, inbound) = (self.stop.clone(), request.into_inner());
        tokio::spawn(async move {
            let sender = session.sender.clone();
            let ended = tokio::select! {
                ended = session.run(inbound) => ended,
                () = stop.cancelled() => Err(Status::unavailable("the node stops")),
            };
            if let Err(status) = ended {
                // Nobody is there when the mapper is gone.
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

struct Session {
    shared: Arc<Shared>,
    sender: mpsc::Sender<Answer>,
}

impl Session {
    async fn send(&self, message: ToMapper) -> Result<(), Status> {
        let gone = |_| Status::cancelled("the mapper is gone");
        self.sender.send(Ok(pb::NodeMessage { message: Some(message) })).await.map_err(gone)
    }

    async fn run(&self, mut inbound: Streaming<pb::MapperMessage>) -> Result<(), Status> {
        let first = inbound.message().await?.and_then(|message| message.message);
        let Some(FromMapper::Hello(_)) = first else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        let welcome = pb::Welcome {
            node: "kit".to_owned(),
            max_values_per_message: MAX_VALUES,
            max_unacknowledged: WINDOW,
            max_values_per_second: 0,
            max_value_bytes: MAX_VALUE_BYTES,
            max_message_bytes: MAX_MESSAGE_BYTES,
        };
        self.send(ToMapper::Welcome(welcome)).await?;
        let (mut changes, devices) = {
            let mut known = self.shared.lock();
            (known.session(), known.devices.values().cloned().collect::<Vec<_>>())
        };
        for (device, version) in devices {
            let message = wire::device(&self.shared.lock(), &device, &version);
            self.send(ToMapper::Device(message)).await?;
        }
        self.send(ToMapper::AllSent(pb::AllSent {})).await?;
        let mut sequence = 0;
        loop {
            tokio::select! {
                message = inbound.message() => match message?.and_then(|message| message.message) {
                    Some(message) => self.take(message, &mut sequence).await?,
                    None => return Ok(()),
                },
                Some(change) = changes.recv() => self.pass_on(change).await?,
            }
        }
    }

    async fn pass_on(&self, change: Change) -> Result<(), Status> {
        let message = match change {
            Change::Device(device, version) => ToMapper::Device(wire::device(&self.shared.lock(), &device, &version)),
            Change::Removed(key) => ToMapper::DeviceRemoved(wire::key(&key)),
            Change::Desired(key, property) => match wire::desired(&self.shared.lock(), &key, &property) {
                Some(desired) => ToMapper::Desired(desired),
                None => return Ok(()),
            },
        };
        self.send(message).await
    }

    async fn take(&self, message: FromMapper, sequence: &mut u64) -> Result<(), Status> {
        match message {
            FromMapper::Reports(reports) => {
                let values: usize = reports.devices.iter().map(|device| device.values.len()).sum();
                if reports.sequence != *sequence + 1 || values > usize::try_from(MAX_VALUES).unwrap_or(usize::MAX) {
                    let words = format!("report {} of {values} values after {sequence}", reports.sequence);
                    return Err(Status::invalid_argument(words));
                }
                *sequence = reports.sequence;
                self.shared.see(|seen| {
                    for device in reports.devices {
                        let key = own_key(device.device);
                        for value in device.values {
                            wire::see(seen, &key, value);
                        }
                    }
                });
                self.send(ToMapper::Ack(pb::ReportsAck { sequence: *sequence, refused: Vec::new() })).await?;
            }
            FromMapper::States(states) => self.shared.see(|seen| {
                for state in states.states {
                    let how = match state.state() {
                        pb::DeviceState::Online => DeviceState::Online,
                        pb::DeviceState::Unhealthy => DeviceState::Unhealthy,
                        _ => DeviceState::Offline,
                    };
                    seen.set_state(own_key(state.device), how);
                }
            }),
            FromMapper::Applied(applied) => {
                self.shared.see(|seen| seen.set_applied(own_key(applied.device), applied.error));
            }
            FromMapper::Result(_) => {}
            FromMapper::Hello(_) => return Err(Status::invalid_argument("a second Hello")),
        }
        Ok(())
    }
}

fn own_key(key: Option<pb::DeviceKey>) -> DeviceKey {
    let key = key.unwrap_or_default();
    DeviceKey { namespace: key.namespace, name: key.name }
}
