//! Both directions of a connection, until both have ended or a deadline says so.
//!
//! Run by the task of the connection. An end of one direction is passed on and leaves the other open. When an end
//! of the connection is gone, the other one shall notice: the caller is told who it was and breaks the other off.
//! One that only takes no more bytes may still have some for us, so these are brought first.
//!
//! Deadlines are of silence: no byte in either direction. Dropping the future ends the connection.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use crate::flow::Policy;
use crate::half::{Fault, Half};
use crate::pool::Pool;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// Both ends have finished, and have everything.
    Closed,
    /// The client broke it off.
    Client,
    /// The backend, or the way to it, broke it off.
    Backend,
    /// Silence until the deadline.
    Idle,
    /// Silence until the deadline, before both ends had said something.
    Silent,
    /// One end had finished, and then silence until the deadline.
    HalfOpen,
    /// A UDP flow that made room for another.
    Evicted,
    /// The proxy was told to stop.
    Stopped,
}

impl End {
    /// Its name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Idle => "idle",
            Self::Silent => "silent",
            Self::HalfOpen => "half_open",
            Self::Evicted => "evicted",
            Self::Stopped => "stopped",
        }
    }
}

/// What one direction has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    Finished,
    /// Its writer takes no more.
    Refused,
}

/// Deadlines of silence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Silence {
    pub(crate) silent: Duration,
    pub(crate) idle: Duration,
    pub(crate) half_open: Duration,
}

impl From<&Policy> for Silence {
    fn from(policy: &Policy) -> Self {
        Self { silent: policy.silent, idle: policy.idle, half_open: policy.half_open }
    }
}

impl Silence {
    fn limit(self, up: &Half, down: &Half, half_open: bool) -> (Duration, End) {
        if half_open {
            (self.half_open, End::HalfOpen)
        } else if up.bytes() == 0 || down.bytes() == 0 {
            (self.silent, End::Silent)
        } else {
            (self.idle, End::Idle)
        }
    }
}

/// Copies until the end. `up` is from the client to the backend.
pub(crate) async fn duplex<A, B>(
    client: &mut A,
    backend: &mut B,
    up: &mut Half,
    down: &mut Half,
    pool: &Pool,
    silence: Silence,
) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut ways = (Way::Open, Way::Open);
    let mut last = Instant::now();
    let timer = sleep_until(last + silence.limit(up, down, false).0);
    tokio::pin!(timer);
    poll_fn(|cx| {
        let before = (up.bytes() + down.bytes(), ways);
        if ways.0 == Way::Open {
            match up.poll(cx, pool, client, backend) {
                Poll::Ready(Ok(())) => ways.0 = Way::Finished,
                Poll::Ready(Err(Fault::Read)) => return Poll::Ready(End::Client),
                Poll::Ready(Err(Fault::Write)) => ways.0 = Way::Refused,
                Poll::Pending => {}
            }
        }
        if ways.1 == Way::Open {
            match down.poll(cx, pool, backend, client) {
                Poll::Ready(Ok(())) => ways.1 = Way::Finished,
                Poll::Ready(Err(Fault::Read)) => return Poll::Ready(End::Backend),
                Poll::Ready(Err(Fault::Write)) => ways.1 = Way::Refused,
                Poll::Pending => {}
            }
        }
        match ways {
            (Way::Finished, Way::Finished) => return Poll::Ready(End::Closed),
            (Way::Refused, Way::Finished | Way::Refused) => return Poll::Ready(End::Backend),
            (Way::Finished, Way::Refused) => return Poll::Ready(End::Client),
            _ => {}
        }
        let (limit, end) = silence.limit(up, down, ways != (Way::Open, Way::Open));
        if before != (up.bytes() + down.bytes(), ways) {
            last = Instant::now();
            // A later deadline is seen when the timer fires; an earlier one is set at once.
            if last + limit < timer.deadline() {
                timer.as_mut().reset(last + limit);
            }
        }
        while timer.as_mut().poll(cx).is_ready() {
            if last + limit <= Instant::now() {
                return Poll::Ready(end);
            }
            timer.as_mut().reset(last + limit);
        }
        Poll::Pending
    })
    .await
}
