//! The stream of a mapper.
//!
//! One loop reads it, one writes what the mapper has yet to hear; both end with the stream. Limits: the values
//! and states of one message ([`MAX_VALUES`], counted by the codec before they are made), one batch at a time, and the
//! mapper's rate: when its tokens are used up the stream is not read, so that a flood waits in its author. A mapper that
//! does not read holds up itself alone, and is disconnected by `skerry-rpc`.

use std::collections::BTreeSet;
use std::sync::Arc;

use skerry_proto::bounds::MAX_VALUES;
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::mapper_message::Message as Up;
use skerry_proto::dmi::v1::mappers_server::Mappers;
use skerry_proto::dmi::v1::node_message::Message as M;
use skerry_rpc::limits::DMI_MESSAGE_BYTES;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::questions::Questions;
use super::told::Told;
use crate::access::Access;
use crate::fleet::{Api, Introduction, MapperId};
use crate::node::Node;
use crate::twin::MAX_VALUE_BYTES;

/// Batches that a mapper should have without an ack; one is taken at a time, and what is beyond waits unread.
pub(crate) const MAX_UNACKNOWLEDGED: u32 = 64;
/// Messages on their way to a mapper.
const SEND_QUEUE: usize = 64;
/// Refusals in one ack: the first ones say what is wrong.
const MAX_REFUSALS: usize = 32;

pub(super) type Answer = Result<pb::NodeMessage, Status>;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    pub(crate) node: Arc<Node>,
    pub(crate) access: Arc<Access>,
    pub(crate) questions: Arc<Questions>,
}

/// One connected mapper.
struct Session {
    node: Arc<Node>,
    id: MapperId,
    epoch: u64,
    answers: mpsc::Sender<Answer>,
    questions: Arc<Questions>,
}

/// The mapper does not listen any more.
struct Gone;

#[tonic::async_trait]
impl Mappers for Connected {
    type ConnectStream = ReceiverStream<Answer>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::MapperMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let caller = self.access.caller(&request)?;
        let (answers, queue) = mpsc::channel(SEND_QUEUE);
        let (node, questions) = (Arc::clone(&self.node), Arc::clone(&self.questions));
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            let closed = answers.clone();
            let work = async {
                let served = serve(&node, &caller, &mut incoming, &answers, questions).await;
                if let Err(status) = served {
                    let _ = answers.send(Err(status)).await;
                }
            };
            tokio::select! {
                () = work => {}
                // Without this the stream of a mapper that left would stay until there is news for it.
                () = closed.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

/// Ends the mapper's connection in the fleet however the stream ends.
struct Place<'s>(&'s Session);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Session { node, id, epoch, .. } = self.0;
        node.change(|fleet, now| fleet.away(id, *epoch, "its stream has ended", now));
    }
}

async fn serve(
    node: &Arc<Node>,
    caller: &crate::fleet::Caller,
    incoming: &mut Streaming<pb::MapperMessage>,
    answers: &mpsc::Sender<Answer>,
    questions: Arc<Questions>,
) -> Result<(), Status> {
    let hello = skerry_rpc::hello(incoming, |first| match first.message {
        Some(Up::Hello(hello)) => Some(hello),
        _ => None,
    });
    let Some(hello) = hello.await? else { return Ok(()) };
    let id = MapperId::checked(&hello.protocol, &hello.name).map_err(Status::invalid_argument)?;
    node.read(|fleet, _| fleet.may_replace(&id, caller)).map_err(Status::permission_denied)?;
    let introduction = Introduction {
        id: id.clone(),
        api: Api::V1,
        version: hello.version.chars().take(64).collect(),
        namespaces: hello.device_namespaces.into_iter().collect::<BTreeSet<_>>(),
        caller: caller.clone(),
    };
    let (epoch, wake) =
        node.change(|fleet, now| fleet.connect(introduction, now)).map_err(Status::resource_exhausted)?;
    tracing::info!(mapper = %id, version = hello.version, "mapper connected");
    let session = Session { node: Arc::clone(node), id, epoch, answers: answers.clone(), questions };
    let _place = Place(&session);
    let limit = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let welcome = pb::Welcome {
        node: node.name.clone(),
        max_values_per_message: MAX_VALUES,
        max_unacknowledged: MAX_UNACKNOWLEDGED,
        max_values_per_second: node.read(|fleet, _| fleet.values_per_second()),
        max_value_bytes: limit(MAX_VALUE_BYTES),
        max_message_bytes: limit(DMI_MESSAGE_BYTES),
    };
    if session.send(M::Welcome(welcome)).await.is_err() {
        return Ok(());
    }
    // After Welcome, which is the first word.
    let _listed = session.questions.list(&session.id, epoch, answers.clone());
    tokio::select! {
        ended = session.read(incoming) => ended,
        ended = session.write(&wake) => ended,
    }
}

impl Session {
    async fn send(&self, message: M) -> Result<(), Gone> {
        self.answers.send(Ok(pb::NodeMessage { message: Some(message) })).await.map_err(|_| Gone)
    }

    /// Tells the mapper what is new, until another connection takes its place.
    async fn write(&self, wake: &Notify) -> Result<(), Status> {
        let mut told = Told::default();
        loop {
            if !self.node.read(|fleet, _| fleet.is_current(&self.id, self.epoch)) {
                return Err(Status::aborted("another mapper of the same name has connected"));
            }
            let next = self.node.read_mut(|fleet, _| {
                let key = fleet.next_dirty(&self.id, self.epoch)?;
                Some(told.about(fleet, &self.id, &key))
            });
            let say = match next {
                Some(say) => say,
                None => match self.node.read(|fleet, _| told.all(fleet, &self.id)) {
                    Some(all) => vec![all],
                    None => {
                        wake.notified().await;
                        continue;
                    }
                },
            };
            for message in say {
                if self.send(message).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// Takes what the mapper says.
    async fn read(&self, incoming: &mut Streaming<pb::MapperMessage>) -> Result<(), Status> {
        let mut last = 0;
        while let Some(message) = incoming.message().await? {
            match message.message {
                Some(Up::Reports(reports)) => {
                    if reports.sequence <= last {
                        return Err(Status::invalid_argument("the sequence of reports must grow"));
                    }
                    last = reports.sequence;
                    let ack = self.reports(reports).await?;
                    if self.send(M::Ack(ack)).await.is_err() {
                        return Ok(());
                    }
                }
                Some(Up::States(states)) => self.states(states),
                Some(Up::Applied(applied)) => self.applied(&applied)?,
                Some(Up::Hello(_)) => return Err(Status::invalid_argument("hello may come only once")),
                Some(Up::Result(result)) => self.questions.answer(self.epoch, result),
                // A message of a newer mapper.
                None => {}
            }
        }
        Ok(())
    }

    async fn reports(&self, reports: pb::Reports) -> Result<pb::ReportsAck, Status> {
        let count: usize = reports.devices.iter().map(|device| device.values.len()).sum();
        self.node.admit_stream(&self.id, count as u64).await;
        let sequence = reports.sequence;
        let mut ack = pb::ReportsAck { sequence, refused: Vec::new() };
        let mut total = 0;
        let mut refuse = |device: Option<pb::DeviceKey>, property: String, reason: String, count: usize| {
            total += count;
            if ack.refused.len() < MAX_REFUSALS {
                ack.refused.push(pb::Refusal { sequence, device, property, reason });
            }
        };
        for device in reports.devices {
            let values = device.values.len();
            let key = match convert::key(device.device.as_ref()) {
                Ok(key) => key,
                Err(reason) => {
                    refuse(device.device, String::new(), reason, values);
                    continue;
                }
            };
            // Made before the fleet is locked, and locked for one device at a time: others wait for it.
            let readings = device.values.into_iter().map(convert::reading).collect();
            match self.node.read_mut(|fleet, now| fleet.report(&self.id, &key, readings, now)) {
                Ok(refused) => {
                    for (property, reason) in refused {
                        refuse(Some(convert::to_key(&key)), property, reason, 1);
                    }
                }
                Err(reason) => refuse(Some(convert::to_key(&key)), String::new(), reason, values),
            }
        }
        self.node.news.notify_one();
        self.node.metrics.values.inc_by(count.saturating_sub(total) as u64);
        self.node.metrics.values_refused.inc_by(total as u64);
        Ok(ack)
    }

    fn states(&self, states: pb::StateReports) {
        for report in states.states {
            let (Ok(key), Some(state)) = (convert::key(report.device.as_ref()), convert::state(report.state)) else {
                self.node.metrics.values_refused.inc();
                continue;
            };
            let taken = self
                .node
                .change(|fleet, now| fleet.report_state(&self.id, &key, state, state.as_str(), &report.reason, now));
            // A device that was taken away at the same moment; the mapper hears of that by itself.
            if taken.is_err() {
                self.node.metrics.values_refused.inc();
            }
        }
    }

    fn applied(&self, applied: &pb::Applied) -> Result<(), Status> {
        let key = convert::key(applied.device.as_ref()).map_err(Status::invalid_argument)?;
        let error = (!applied.error.is_empty()).then_some(applied.error.as_str());
        self.node.change(|fleet, _| fleet.applied(&self.id, &key, &applied.version, error));
        Ok(())
    }
}
