//! The connection of a lazy channel: made on demand, made again after a loss.
//!
//! At most one attempt runs at a time and all callers wait for it. After a failure, and after a
//! connection that gave no answer, callers fail at once until the backoff is over, so that a server
//! that is down costs nothing and is not stormed when it returns.

use std::sync::atomic::Ordering::Relaxed;
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
use crate::connection::ConnState;
use crate::limits::ClientLimits;

type Attempt = Shared<BoxFuture<'static, Result<Up, Status>>>;

/// A connection that is up.
#[derive(Clone)]
pub(super) struct Up {
    pub(super) sender: SendRequest<Body>,
    /// `used` is set when it gave an answer.
    pub(super) state: Arc<ConnState>,
}

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
    Up(Up),
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
    pub(super) async fn link(&self) -> Result<Up, Status> {
        let attempt = {
            let mut link = lock(&self.link);
            if let State::Up(up) = &link.state {
                if !up.sender.is_closed() {
                    return Ok(up.clone());
                }
                if up.state.used.load(Relaxed) {
                    // It served and ended, by idleness or a restart: nothing speaks against the next.
                    link.state = State::Idle;
                    link.backoff.reset();
                } else {
                    let until = Instant::now() + link.backoff.jittered();
                    link.state = State::Down { until, error: Status::unavailable("the connection was lost") };
                }
            }
            match &link.state {
                State::Down { until, error } if *until > Instant::now() => return Err(error.clone()),
                State::Connecting(attempt) => attempt.clone(),
                State::Up(_) | State::Idle | State::Down { .. } => {
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
                    let up = Up { sender: dialled.sender.clone(), state: Arc::clone(&dialled.state) };
                    link.state = State::Up(up.clone());
                    tokio::spawn(drive(target, limits, dialled, weak));
                    Ok(up)
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
        State::Up(up) => Some(Channel::once(&target, limits.clone(), up.sender.clone())),
        _ => None,
    };
    let ended = tokio::select! {
        ended = http => ended,
        never = heartbeats(limits.keepalive.map(|(interval, _)| interval), &state, channel) => match never {},
    };
    tracing::debug!(address, reason = %reason(&state, ended.err()), "connection ended");
}
