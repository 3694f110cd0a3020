//! The connection of a lazy channel: made on demand, made again after a loss.
//!
//! At most one attempt runs at a time and all callers wait for it. After a failure, and after a
//! connection that did not last, callers fail at once until the backoff is over, so that a server
//! that is down costs nothing and is not stormed when it returns.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use hyper::client::conn::http2::SendRequest;
use skerry_common::Backoff;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::Target;
use super::channel::Channel;
use super::dial::{Dialled, dial};
use super::once::{heartbeats, reason};
use crate::limits::ClientLimits;

type Attempt = Shared<BoxFuture<'static, Result<SendRequest<Body>, Status>>>;

/// See the module documentation.
pub(super) struct Reconnect {
    target: Target,
    limits: ClientLimits,
    link: Arc<Mutex<Link>>,
}

struct Link {
    state: State,
    backoff: Backoff,
}

enum State {
    Idle,
    Connecting(Attempt),
    Up { sender: SendRequest<Body>, since: Instant },
    Down { until: Instant, error: Status },
}

fn lock(link: &Mutex<Link>) -> MutexGuard<'_, Link> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reconnect {
    pub(super) fn new(target: Target, limits: ClientLimits) -> Self {
        let (min, max) = limits.reconnect_backoff;
        let link = Link { state: State::Idle, backoff: Backoff::new(min, max) };
        Self { target, limits, link: Arc::new(Mutex::new(link)) }
    }

    /// A connection that is up, as far as one can know.
    ///
    /// # Errors
    /// `UNAVAILABLE` with the reason of the last attempt.
    pub(super) async fn sender(&self) -> Result<SendRequest<Body>, Status> {
        let attempt = {
            let mut link = lock(&self.link);
            if let State::Up { sender, since } = &link.state {
                if !sender.is_closed() {
                    return Ok(sender.clone());
                }
                let lasted = since.elapsed();
                link.state = State::Idle;
                if lasted >= self.limits.reconnect_backoff.1 {
                    link.backoff.reset();
                } else {
                    let until = Instant::now() + link.backoff.jittered();
                    link.state = State::Down { until, error: Status::unavailable("the connection was lost") };
                }
            }
            match &link.state {
                State::Down { until, error } if *until > Instant::now() => return Err(error.clone()),
                State::Connecting(attempt) => attempt.clone(),
                State::Up { .. } | State::Idle | State::Down { .. } => {
                    let attempt = self.attempt();
                    link.state = State::Connecting(attempt.clone());
                    attempt
                }
            }
        };
        attempt.await
    }

    /// Dials on a task of its own, so that a caller that gives up does not end it for the others.
    fn attempt(&self) -> Attempt {
        let (target, limits, weak) = (self.target.clone(), self.limits.clone(), Arc::downgrade(&self.link));
        let task = tokio::spawn(async move {
            let result = dial(&target, &limits).await;
            // Nobody uses the channel any more.
            let Some(link) = weak.upgrade() else { return Err(Status::cancelled("the channel is gone")) };
            let mut link = lock(&link);
            match result {
                Ok(dialled) => {
                    let sender = dialled.sender.clone();
                    link.state = State::Up { sender: sender.clone(), since: Instant::now() };
                    tokio::spawn(drive(target, limits, dialled, weak));
                    Ok(sender)
                }
                Err(error) => {
                    let status = error.to_status();
                    tracing::debug!(%target, error = status.message(), "cannot connect");
                    let until = Instant::now() + link.backoff.jittered();
                    link.state = State::Down { until, error: status.clone() };
                    Err(status)
                }
            }
        });
        let wait = async move {
            match task.await {
                Ok(result) => result,
                Err(_) => Err(Status::unavailable("the runtime stops")),
            }
        };
        wait.boxed().shared()
    }
}

/// Drives one connection to its end. Holds nothing that would keep it open.
async fn drive(target: Target, limits: ClientLimits, dialled: Dialled, link: Weak<Mutex<Link>>) {
    let Dialled { sender, http, state, address } = dialled;
    drop(sender);
    let channel = || match &lock(link.upgrade()?.as_ref()).state {
        State::Up { sender, .. } => Some(Channel::once(&target, limits.clone(), sender.clone())),
        _ => None,
    };
    let ended = tokio::select! {
        ended = http => ended,
        never = heartbeats(limits.keepalive.map(|(interval, _)| interval), &state, channel) => match never {},
    };
    tracing::debug!(address, reason = %reason(&state, ended.err()), "connection ended");
}
