//! A session over `skerry.dmi.v1`: one stream for everything.
//!
//! Reading never waits for writing: what is to be sent stays in the outbox, where the newest wins, until the
//! node has room for it, by its window and its rate.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use prost::Message as _;
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::mapper_message::Message as ToNode;
use skerry_proto::dmi::v1::mappers_client::MappersClient;
use skerry_proto::dmi::v1::node_message::Message as FromNode;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::channel::Channel;
use super::v1_convert as convert;
use super::{Ended, Link};
use crate::definition::Desired;
use crate::engine::{Plant, read_now};
use crate::report::{Batch, Room, clipped};
use crate::{CommandError, DeviceKey};

/// Messages handed to the transport and not yet sent.
const SEND_QUEUE: usize = 8;
/// Commands that run at once.
const MAX_COMMANDS: usize = 64;
/// How long the node may take to say Welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// Values of one message, whatever the node would take: the queue is full of such messages when the node is slow.
const MOST_VALUES: usize = 1_000;
/// Bytes of one message, for the same reason. Whatever a node takes is more.
const MOST_BYTES: usize = 256 * 1024;
/// Bounds where the node names none.
const DEFAULT_VALUES: usize = MOST_VALUES;
const DEFAULT_WINDOW: u64 = 4;
/// A command that names no time.
const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer to a command, encoded: more than a device's numbers, less than any node's message.
const MOST_ANSWER: usize = 1024 * 1024;
/// Longest time of a command.
const LONGEST_COMMAND: Duration = Duration::from_secs(60);

struct Session<'a> {
    link: &'a Link,
    queue: VecDeque<ToNode>,
    sent: u64,
    acked: u64,
    window: u64,
    room: Room,
    /// Longest value that the node takes, as text.
    longest: usize,
    /// Values a second; none: as many as there are.
    rate: Option<u32>,
    next_values: Instant,
    seen: Option<BTreeSet<DeviceKey>>,
    commands: JoinSet<pb::CommandResult>,
}

/// Runs until the stream ends.
pub(super) async fn session(link: &Link, channel: &Channel, connected: &(dyn Fn() + Sync)) -> Ended {
    match open(link, channel, connected).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    }
}

async fn open(
    link: &Link,
    channel: &Channel,
    connected: &(dyn Fn() + Sync),
) -> Result<std::convert::Infallible, Ended> {
    let (sender, receiver) = mpsc::channel(SEND_QUEUE);
    let hello = pb::Hello {
        name: link.identity.name.clone(),
        version: link.identity.version.clone(),
        protocol: link.identity.protocol.clone(),
        device_namespaces: link.identity.namespaces.clone(),
    };
    let message = |message| pb::MapperMessage { message: Some(message) };
    sender.send(message(ToNode::Hello(hello))).await.map_err(|_| Ended::Late)?;
    let mut client = MappersClient::new(channel.clone());
    let begin = async {
        let mut inbound = client.connect(ReceiverStream::new(receiver)).await?.into_inner();
        let first = inbound.message().await?;
        Ok::<_, tonic::Status>((inbound, first.and_then(|first| first.message)))
    };
    let begun = tokio::time::timeout(WELCOME_TIMEOUT, begin).await.map_err(|_| Ended::Late)?;
    let (mut inbound, first) = begun.map_err(|status| ended(&status))?;
    let Some(FromNode::Welcome(welcome)) = first else {
        return Err(Ended::Node("its first message is not Welcome".to_owned()));
    };
    tracing::info!(node = welcome.node, protocol = link.identity.protocol, "session with the node");
    link.metrics.node_sessions.inc();
    let some = |number: u32| usize::try_from(number).ok().filter(|n| *n > 0);
    let mut session = Session {
        link,
        queue: VecDeque::new(),
        sent: 0,
        acked: 0,
        window: some(welcome.max_unacknowledged).and_then(|n| u64::try_from(n).ok()).unwrap_or(DEFAULT_WINDOW),
        room: Room {
            values: some(welcome.max_values_per_message).unwrap_or(DEFAULT_VALUES).min(MOST_VALUES),
            bytes: some(welcome.max_message_bytes).unwrap_or(MOST_BYTES).min(MOST_BYTES),
        },
        longest: some(welcome.max_value_bytes).unwrap_or(usize::MAX),
        rate: Some(welcome.max_values_per_second).filter(|rate| *rate > 0),
        next_values: Instant::now(),
        seen: Some(BTreeSet::new()),
        commands: JoinSet::new(),
    };
    link.outbox.all_again();
    loop {
        let room = session.queue.is_empty() && session.sent.saturating_sub(session.acked) < session.window;
        tokio::select! {
            message = inbound.message() => match message.map_err(|status| ended(&status))? {
                Some(message) => session.take(message, connected),
                None => return Err(Ended::Node("end of the stream".to_owned())),
            },
            permit = sender.reserve(), if !session.queue.is_empty() => {
                let permit = permit.map_err(|_| Ended::Node("end of the connection".to_owned()))?;
                if let Some(next) = session.queue.pop_front() {
                    permit.send(message(next));
                }
            },
            Some(result) = session.commands.join_next() => {
                session.queue.extend(result.ok().map(ToNode::Result));
            },
            () = changed(link, session.next_values), if room => {
                let batch = link.outbox.take(session.room);
                session.report(batch);
            },
        }
    }
}

async fn changed(link: &Link, not_before: Instant) {
    link.outbox.changed().await;
    tokio::time::sleep_until(not_before).await;
}

impl Session<'_> {
    fn report(&mut self, batch: Batch) {
        for (key, applied) in batch.applied {
            let device = Some(convert::key(&key));
            let error = clipped(&applied.error).to_owned();
            let applied = pb::Applied { device, version: applied.version, error };
            self.queue.push_back(ToNode::Applied(applied));
        }
        if !batch.states.is_empty() {
            self.queue.push_back(ToNode::States(convert::states(&batch.states)));
        }
        let values: usize = batch.values.iter().map(|(_, values)| values.len()).sum();
        if values > 0 {
            self.sent += 1;
            self.queue.push_back(ToNode::Reports(convert::reports(self.sent, &batch.values, self.longest)));
            self.link.metrics.reported.inc_by(u64::try_from(values).unwrap_or(0));
            if let (Some(rate), Ok(values)) = (self.rate, u32::try_from(values)) {
                let takes = Duration::from_secs(1).saturating_mul(values) / rate;
                self.next_values = self.next_values.max(Instant::now()) + takes;
            }
        }
    }

    fn take(&mut self, message: pb::NodeMessage, connected: &(dyn Fn() + Sync)) {
        let plant = &self.link.plant;
        match message.message {
            Some(FromNode::Device(device)) => {
                if let Some(incoming) = convert::device(device) {
                    if let Some(seen) = &mut self.seen {
                        seen.insert(incoming.definition.key.clone());
                    }
                    plant.apply(incoming);
                }
            }
            Some(FromNode::DeviceRemoved(key)) => {
                let key = convert::own_key(key);
                if let Some(seen) = &mut self.seen {
                    seen.remove(&key);
                }
                plant.remove(&key);
            }
            Some(FromNode::DeviceKept(key)) => {
                if let Some(seen) = &mut self.seen {
                    seen.insert(convert::own_key(key));
                }
            }
            Some(FromNode::AllSent(pb::AllSent {})) => {
                if let Some(seen) = self.seen.take() {
                    plant.retain(&seen);
                }
                connected();
            }
            Some(FromNode::Desired(desired)) => {
                if let Some(key) = desired.device {
                    let wanted = Desired { value: desired.value, version: desired.version };
                    plant.desire(&convert::own_key(key), &desired.property, wanted);
                }
            }
            Some(FromNode::Command(command)) => self.command(command),
            Some(FromNode::Ack(ack)) => {
                self.acked = self.acked.max(ack.sequence.min(self.sent));
                for refusal in ack.refused {
                    self.link.metrics.reports_refused.inc();
                    let device = refusal.device.map(|key| convert::own_key(key).to_string());
                    let (property, reason) = (refusal.property, refusal.reason);
                    tracing::warn!(device, property, reason, "the node refused a report");
                }
            }
            // Models are merged into devices; what we do not know is for a newer mapper.
            Some(FromNode::Model(_) | FromNode::ModelRemoved(_) | FromNode::Welcome(_)) | None => {}
        }
    }

    fn command(&mut self, command: pb::Command) {
        let id = command.id;
        if self.commands.len() >= MAX_COMMANDS {
            let error = CommandError::Busy.to_string();
            self.queue.push_back(ToNode::Result(pb::CommandResult { id, error, values: Vec::new() }));
            return;
        }
        let plant = std::sync::Arc::clone(&self.link.plant);
        let longest = self.longest;
        self.commands.spawn(async move {
            let failed = |error: &str| pb::CommandResult { id, error: clipped(error).to_owned(), values: Vec::new() };
            match perform(plant.as_ref(), command, longest).await {
                Ok(values) => {
                    let result = pb::CommandResult { id, error: String::new(), values };
                    let fits = result.encoded_len() <= MOST_ANSWER;
                    if fits { result } else { failed("the values are too long for one answer: ask for fewer") }
                }
                Err(error) => failed(&error.to_string()),
            }
        });
    }
}

async fn perform(plant: &dyn Plant, command: pb::Command, longest: usize) -> Result<Vec<pb::Value>, CommandError> {
    let key = convert::own_key(command.device.unwrap_or_default());
    let timeout = match command.timeout_ms {
        0 => DEFAULT_COMMAND_TIMEOUT,
        given => Duration::from_millis(u64::from(given)).min(LONGEST_COMMAND),
    };
    match command.what {
        Some(pb::command::What::Read(read)) => {
            let (definition, samples) = read_now(plant, &key, &read.properties, timeout).await?;
            Ok(convert::samples(&definition, samples, longest))
        }
        None => Err(CommandError::UnknownProperty(String::new())),
    }
}

fn ended(status: &tonic::Status) -> Ended {
    match status.code() {
        tonic::Code::Unimplemented => Ended::Unimplemented,
        _ => Ended::Node(status.message().to_owned()),
    }
}
