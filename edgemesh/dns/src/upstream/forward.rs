//! Asks the name servers of the node, each question once at a time.
//!
//! Called by the answerer for what no cache has. Equal questions that come while one is on its way wait for the same
//! answer; so a loop through this node ends in itself and does not multiply. The question runs in a task of its own:
//! a client that goes away, or that was given something stale, does not end it.
//!
//! Servers are asked in the order of [`Servers`]: the next one as well as soon as one takes longer than usual or says
//! that it cannot help, the first good answer wins. With one server this is the repetition of a lost packet.
//!
//! Limits: [`MAX_FLIGHTS`] questions, [`MAX_ATTEMPTS`](super::race::MAX_ATTEMPTS) sockets each, [`DEADLINE`]. When all flights are taken the
//! caller is told at once. Stopping ends all of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use hickory_proto::op::{Message, ResponseCode};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::exchange::{self, ExchangeError, Question};
use super::race::{Ended, Race};
use super::servers::{ServerStatus, Servers};
use crate::lifetime::{self, Lifetime};
use crate::metrics::Metrics;
use crate::packet::Packet;
use crate::query::Key;
use crate::zone;

/// Questions on their way: a node behind a slow link, with pages of a hundred names.
pub(crate) const MAX_FLIGHTS: usize = 256;
/// A client asks again after five seconds; it shall have an answer before.
const DEADLINE: Duration = Duration::from_secs(4);
/// The same when no server has answered for some time: nobody shall wait for what is not likely.
const DEADLINE_DOWN: Duration = Duration::from_millis(1500);

/// What became of a question, as a packet for whoever asked.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) packet: Arc<Packet>,
    pub(crate) end: End,
}

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A server knew; that there is nothing is an answer as well.
    Answer(Lifetime),
    /// Servers answered that they cannot help.
    Refused,
    /// Nobody answered in time.
    Unreachable,
}

/// Why a question is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAsked {
    /// [`MAX_FLIGHTS`] are on their way.
    Busy,
    /// There is no name server.
    NoServer,
}

/// A question that is on its way: the outcome, once there is one.
pub(crate) type Flight = watch::Receiver<Option<Outcome>>;

/// See the module documentation. Clones are the same.
#[derive(Clone)]
pub(crate) struct Forwarder(Arc<Inner>);

struct Inner {
    servers: Mutex<Servers>,
    flights: Mutex<HashMap<Box<[u8]>, Flight>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    metrics: Metrics,
}

impl Forwarder {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            servers: Mutex::default(),
            flights: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            metrics,
        }))
    }

    /// Uses these servers from now on; `own` are addresses of this server.
    pub(crate) fn set_servers(&self, addresses: &[SocketAddr], own: &[SocketAddr]) {
        self.servers().replace(addresses, own);
    }

    /// Whether a server leads back here, as was found out.
    pub(crate) fn set_loop(&self, address: SocketAddr, is_loop: bool) {
        if self.servers().set_loop(address, is_loop) {
            if is_loop {
                tracing::error!(%address, "this name server leads back to this node: it is not asked");
            } else {
                tracing::info!(%address, "this name server does not lead back to this node any more");
            }
        }
    }

    /// Servers that might lead back here.
    pub(crate) fn suspects(&self) -> Vec<SocketAddr> {
        self.servers().suspects()
    }

    pub(crate) fn status(&self) -> Vec<ServerStatus> {
        self.servers().status(Instant::now())
    }

    /// Whether an answer is unlikely.
    pub(crate) fn all_down(&self) -> bool {
        self.servers().all_down(Instant::now())
    }

    /// Asks, or joins who asks the same. `done` sees the outcome once, before anybody who waits.
    pub(crate) fn ask(
        &self,
        key: &Key,
        question: &Question,
        done: impl FnOnce(&Outcome) + Send + 'static,
    ) -> Result<Flight, NotAsked> {
        let order = self.servers().order(Instant::now());
        let mut flights = self.flights();
        if let Some(flight) = flights.get(key.as_slice()) {
            self.0.metrics.coalesced.inc();
            return Ok(flight.clone());
        }
        if order.is_empty() {
            return Err(NotAsked::NoServer);
        }
        if flights.len() >= MAX_FLIGHTS {
            self.0.metrics.busy.inc();
            return Err(NotAsked::Busy);
        }
        let (landed, flight) = watch::channel(None);
        flights.insert(key.as_slice().into(), flight.clone());
        drop(flights);
        // Gone with the task, also if it is cancelled: nobody may wait for a flight that is not there.
        let landing = Landing { forwarder: self.clone(), key: key.as_slice().into() };
        let (forwarder, question) = (self.clone(), question.clone());
        self.0.tasks.spawn(async move {
            let race = forwarder.race(&order, &question);
            let Some(Some(outcome)) = forwarder.0.stop.run_until_cancelled(race).await else {
                return;
            };
            done(&outcome);
            drop(landing);
            landed.send_replace(Some(outcome));
        });
        Ok(flight)
    }

    /// Ends what is on its way.
    pub(crate) async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Nothing when not even the question can be written, which a question that was read always can.
    async fn race(&self, order: &[SocketAddr], question: &Question) -> Option<Outcome> {
        let deadline = tokio::time::sleep(if self.all_down() { DEADLINE_DOWN } else { DEADLINE });
        tokio::pin!(deadline);
        let mut race = Race::new(order);
        let mut attempts = FuturesUnordered::new();
        let mut patience = Duration::ZERO;
        let mut refused = None;
        let answer = loop {
            tokio::select! {
                Some((server, took, result)) = attempts.next() => match self.judge(server, took, result) {
                    Ok(answer) => break Some((server, answer)),
                    Err(said) => {
                        let how = if said.is_some() { Ended::Refused } else { Ended::Failed };
                        let at_once = race.ended(server, how);
                        refused = said.or(refused);
                        if race.is_over() {
                            break None;
                        }
                        if at_once {
                            patience = Duration::ZERO;
                        }
                    }
                },
                () = tokio::time::sleep(patience), if race.has_next() => {
                    let Some(server) = race.next(Instant::now()) else {
                        continue;
                    };
                    patience = race.patience(self.servers().patience(server));
                    self.0.metrics.upstream_queries.inc();
                    attempts.push(async move {
                        let start = Instant::now();
                        let result = exchange::ask(server, question).await;
                        (server, start.elapsed(), result)
                    });
                }
                () = &mut deadline => break None,
            }
        };
        let winner = answer.as_ref().map(|(server, _)| *server);
        let silent = race.silent(winner, Instant::now(), |server| self.servers().patience(server));
        silent.into_iter().for_each(|server| self.down(server));
        outcome(question, answer.map(|(_, answer)| answer), refused)
    }

    /// What one attempt means: an answer, or none, perhaps with the code that the server said instead.
    fn judge(
        &self,
        server: SocketAddr,
        took: Duration,
        result: Result<Message, ExchangeError>,
    ) -> Result<Message, Option<ResponseCode>> {
        match result {
            Ok(answer) => {
                if self.servers().answered(server, took, Instant::now()) {
                    tracing::info!(%server, "this name server answers again");
                }
                match answer.metadata.response_code {
                    ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
                    code => {
                        self.0.metrics.upstream_refusals.inc();
                        tracing::debug!(%server, %code, "a name server cannot help");
                        Err(Some(code))
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%server, error = skerry_common::chain(&error), "no answer of a name server");
                self.down(server);
                Err(None)
            }
        }
    }

    fn down(&self, server: SocketAddr) {
        self.0.metrics.upstream_failures.inc();
        if self.servers().failed(server, Instant::now()) {
            tracing::warn!(%server, "this name server does not answer: it is asked last");
        }
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.0.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Flight>> {
        self.0.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn outcome(question: &Question, answer: Option<Message>, refused: Option<ResponseCode>) -> Option<Outcome> {
    if let Some(mut answer) = answer {
        let lifetime = lifetime::of(&answer, question.kind);
        // It was the server's own; it is not ours.
        answer.metadata.authoritative = false;
        if let Some(packet) = Packet::new(answer) {
            return Some(Outcome { packet: Arc::new(packet), end: End::Answer(lifetime) });
        }
    }
    // Whatever else was in such an answer is of no use to anybody.
    let mut message = zone::message(&question.name, question.kind)?;
    message.metadata.response_code = refused.unwrap_or(ResponseCode::ServFail);
    let end = if refused.is_some() { End::Refused } else { End::Unreachable };
    Some(Outcome { packet: Arc::new(Packet::new(message)?), end })
}

/// Takes the flight off the list.
struct Landing {
    forwarder: Forwarder,
    key: Box<[u8]>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.forwarder.flights().remove(&self.key);
    }
}
