//! Questions of people to the mappers of streams: which mapper can be asked, and who waits for which answer.
//!
//! A question goes straight into the queue of the mapper's stream and is answered by its number. Limits:
//! [`MAX_QUESTIONS`] at a time. Whoever asks stops waiting in time; an answer that comes later is dropped. When the
//! stream ends, so do its questions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::node_message::Message as M;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::mappers::Answer;
use crate::fleet::MapperId;

/// Questions that wait for an answer: those of a few people. A mapper of the SDK takes as many.
const MAX_QUESTIONS: usize = 64;
/// After its own deadline a mapper may say that it has passed.
const GRACE: Duration = Duration::from_secs(1);

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Questions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The stream of each mapper, with the number of its connection.
    streams: BTreeMap<MapperId, (u64, mpsc::Sender<Answer>)>,
    waiting: BTreeMap<u64, (u64, oneshot::Sender<pb::CommandResult>)>,
    last: u64,
}

/// Takes the mapper's stream back when it ends.
pub(super) struct Listed {
    questions: Arc<Questions>,
    id: MapperId,
    epoch: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut inner = self.questions.lock();
        if inner.streams.get(&self.id).is_some_and(|(epoch, _)| *epoch == self.epoch) {
            inner.streams.remove(&self.id);
        }
        inner.waiting.retain(|_, (epoch, _)| *epoch != self.epoch);
    }
}

/// A question that nobody waits for any more is forgotten.
struct Waiting<'q>(&'q Questions, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting.remove(&self.1);
    }
}

impl Questions {
    /// The mapper can be asked on this stream, until what is returned is dropped.
    pub(super) fn list(self: &Arc<Self>, id: &MapperId, epoch: u64, stream: mpsc::Sender<Answer>) -> Listed {
        self.lock().streams.insert(id.clone(), (epoch, stream));
        Listed { questions: Arc::clone(self), id: id.clone(), epoch }
    }

    /// An answer came on this connection.
    pub(super) fn answer(&self, epoch: u64, result: pb::CommandResult) {
        let mut inner = self.lock();
        // Only of what that mapper was asked.
        if inner.waiting.get(&result.id).is_some_and(|(asked, _)| *asked == epoch)
            && let Some((_, answer)) = inner.waiting.remove(&result.id)
        {
            // Nobody waits any more.
            let _ = answer.send(result);
        }
    }

    /// Asks a mapper to read properties of a device now.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when it cannot be asked or cannot read, `RESOURCE_EXHAUSTED` when too much is asked,
    /// `DEADLINE_EXCEEDED` when no answer comes.
    pub(super) async fn read(
        &self,
        mapper: &MapperId,
        device: pb::DeviceKey,
        properties: Vec<String>,
        timeout: Duration,
    ) -> Result<Vec<pb::Value>, Status> {
        let (asked, receiver) = self.ask(mapper, device, properties, timeout)?;
        let _waiting = Waiting(self, asked);
        match tokio::time::timeout(timeout + GRACE, receiver).await {
            Ok(Ok(result)) if result.error.is_empty() => Ok(result.values),
            Ok(Ok(result)) => Err(Status::failed_precondition(crate::fleet::words(&result.error))),
            Ok(Err(_)) => Err(Status::failed_precondition(format!("the mapper {mapper} has gone"))),
            Err(_) => Err(Status::deadline_exceeded(format!("the mapper {mapper} did not answer within {timeout:?}"))),
        }
    }

    fn ask(
        &self,
        mapper: &MapperId,
        device: pb::DeviceKey,
        properties: Vec<String>,
        timeout: Duration,
    ) -> Result<(u64, oneshot::Receiver<pb::CommandResult>), Status> {
        let mut inner = self.lock();
        if inner.waiting.len() >= MAX_QUESTIONS {
            return Err(Status::resource_exhausted("too many questions wait for mappers; try again later"));
        }
        let Some((epoch, stream)) = inner.streams.get(mapper).cloned() else {
            let why = "has no stream: it is away, or speaks v1beta1, in which nodes do not ask";
            return Err(Status::failed_precondition(format!("the mapper {mapper} {why}")));
        };
        inner.last += 1;
        let id = inner.last;
        let what = pb::command::What::Read(pb::ReadNow { properties });
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let command = pb::Command { id, device: Some(device), what: Some(what), timeout_ms };
        // Not waited for: a mapper that does not read must not hold up whoever asks.
        let sent = stream.try_send(Ok(pb::NodeMessage { message: Some(M::Command(command)) }));
        sent.map_err(|_| Status::failed_precondition(format!("the mapper {mapper} does not read its stream")))?;
        let (answer, receiver) = oneshot::channel();
        inner.waiting.insert(id, (epoch, answer));
        Ok((id, receiver))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
