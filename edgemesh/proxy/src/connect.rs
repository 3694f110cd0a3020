//! From a plan to a connected backend: happy eyeballs over the candidates.
//!
//! Called by the task of a flow. The first candidate has a head start; when it fails, or has not answered by
//! then, the next one begins too, and the first to be connected wins. So an endpoint that is gone costs its head
//! start at most, and one that refuses costs nothing. No byte of the client is sent before there is a winner.
//!
//! The chooser hears of each attempt: failed, overtaken, or connected and, once for each of these, closed. The
//! attempts of a flow are bounded in number and, all together, by the plan's deadline; dropping the future ends
//! them without a word, as nothing is known then.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use skerry_telemetry::emit;
use tokio::time::{Instant, sleep_until};

use crate::dial::{Dial, DialError};
use crate::events::AttemptFailed;
use crate::flow::{Candidate, Choose, Feedback, Flow, Plan, Target};
use crate::limits::{MAX_ATTEMPTS, STAGGER_LOCAL, STAGGER_NODE};
use crate::proxy::Shared;
use crate::wire;

/// A way to a backend.
#[derive(Debug)]
pub(crate) enum Backend<L, S> {
    Local(L),
    Tunnel(S),
}

/// A connected backend. The chooser hears that it is closed when `in_flight` is dropped.
pub(crate) struct Connected<C: Choose, L, S> {
    pub(crate) backend: Backend<L, S>,
    pub(crate) target: Target,
    pub(crate) in_flight: InFlight<C>,
    /// Candidates that were not tried.
    pub(crate) left: Vec<Candidate<C::Endpoint>>,
}

/// A flow that an endpoint serves.
pub(crate) struct InFlight<C: Choose> {
    choose: Arc<C>,
    endpoint: C::Endpoint,
    since: Instant,
    /// Whether the endpoint broke it off.
    pub(crate) broken: bool,
}

impl<C: Choose> InFlight<C> {
    fn new(choose: Arc<C>, endpoint: C::Endpoint, began: Instant) -> Self {
        let since = Instant::now();
        choose.feedback(&endpoint, Feedback::Connected { after: since - began });
        Self { choose, endpoint, since, broken: false }
    }

    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

impl<C: Choose> Drop for InFlight<C> {
    fn drop(&mut self) {
        let closed = Feedback::Closed { after: self.since.elapsed(), broken: self.broken };
        self.choose.feedback(&self.endpoint, closed);
    }
}

/// An attempt that has begun.
struct Attempt<E> {
    candidate: Candidate<E>,
    began: Instant,
    failed: bool,
}

/// Connects to the first candidate that can be reached; `local` connects to an address.
///
/// # Errors
/// What the last attempt failed of, or [`DialError::TimedOut`].
pub(crate) async fn connect<C: Choose, D: Dial, L, F>(
    shared: &Shared<C, D>,
    flow: &Flow,
    plan: Plan<C::Endpoint>,
    local: impl Fn(SocketAddr) -> F,
) -> Result<Connected<C, L, D::Stream>, DialError>
where
    F: Future<Output = io::Result<L>>,
{
    let deadline = Instant::now() + plan.policy.connect;
    let mut waiting = plan.candidates.into_iter().take(MAX_ATTEMPTS);
    let mut attempts: Vec<Attempt<C::Endpoint>> = Vec::new();
    let mut running = FuturesUnordered::new();
    let mut head_start = Instant::now();
    let mut last = DialError::Failed;
    loop {
        if Instant::now() >= head_start
            && let Some(candidate) = waiting.next()
        {
            let (number, attempt) = (attempts.len(), attempt(&*shared.dial, candidate.target.clone(), &local));
            let began = Instant::now();
            head_start = began + stagger(&candidate.target);
            running.push(async move { (number, attempt.await) });
            attempts.push(Attempt { candidate, began, failed: false });
        }
        tokio::select! {
            biased;
            Some((number, result)) = running.next() => match result {
                Ok(backend) => {
                    let Some(won) = (number < attempts.len()).then(|| attempts.swap_remove(number)) else {
                        return Err(DialError::Failed);
                    };
                    give_up(shared, flow, attempts, DialError::Overtaken);
                    let in_flight = InFlight::new(shared.choose.clone(), won.candidate.endpoint, won.began);
                    let left = waiting.collect();
                    return Ok(Connected { backend, target: won.candidate.target, in_flight, left });
                }
                Err(error) => {
                    if let Some(attempt) = attempts.get_mut(number) {
                        attempt.failed = true;
                        failed(shared, flow, attempt, error);
                    }
                    last = error;
                    head_start = Instant::now();
                    if running.is_empty() && waiting.len() == 0 {
                        return Err(last);
                    }
                }
            },
            () = sleep_until(head_start), if waiting.len() > 0 => {}
            () = sleep_until(deadline) => {
                give_up(shared, flow, attempts, DialError::TimedOut);
                return Err(DialError::TimedOut);
            }
            else => return Err(last),
        }
    }
}

/// Tells of the attempts that have no end of their own.
fn give_up<C: Choose, D>(shared: &Shared<C, D>, flow: &Flow, attempts: Vec<Attempt<C::Endpoint>>, error: DialError) {
    for attempt in attempts.iter().filter(|attempt| !attempt.failed) {
        failed(shared, flow, attempt, error);
    }
}

fn failed<C: Choose, D>(shared: &Shared<C, D>, flow: &Flow, attempt: &Attempt<C::Endpoint>, error: DialError) {
    let Candidate { endpoint, target } = &attempt.candidate;
    shared.choose.feedback(endpoint, Feedback::Failed { error, after: attempt.began.elapsed() });
    emit(AttemptFailed { flow, target, error }, &shared.metrics);
}

fn stagger(target: &Target) -> Duration {
    match target {
        Target::Local(_) => STAGGER_LOCAL,
        Target::Node { .. } => STAGGER_NODE,
    }
}

async fn attempt<D: Dial, L, F>(
    dial: &D,
    target: Target,
    local: &impl Fn(SocketAddr) -> F,
) -> Result<Backend<L, D::Stream>, DialError>
where
    F: Future<Output = io::Result<L>>,
{
    match target {
        Target::Local(address) => {
            let connected = local(address).await;
            connected.map(Backend::Local).map_err(|error| DialError::of(&error))
        }
        Target::Node { node, header } => {
            let mut stream = dial.open(&node).await.map_err(|_| DialError::NoPath)?;
            wire::ask(&mut stream, &header).await?;
            Ok(Backend::Tunnel(stream))
        }
    }
}
