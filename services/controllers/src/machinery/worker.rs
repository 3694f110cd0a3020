//! The loop around a reconcile function: take a key, run, decide when to run again.
//!
//! Each controller spawns its workers through [`spawn`]. A reconcile that fails or panics is logged,
//! counted, and tried again after the backoff of its key; it never stops the other keys or the worker.
//! Conflicts (409) are expected in a system with many writers: they are retried without a warning.
//!
//! Limits: each controller has a fixed number of workers, and one run may take [`RUN_DEADLINE`].
//! Stop: what has begun is finished, within the deadline of [`crate::Controllers::run`]; after that a run
//! is dropped at its next await, what it has written stays, and the next process starts from that.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use skerry_common::Key;

use super::queue::WorkQueue;
use super::tasks::Tasks;
use crate::context::Context;
use crate::error::Error;

/// Longest single reconcile: a call that hangs must not hold its key for ever.
pub(crate) const RUN_DEADLINE: Duration = Duration::from_secs(120);
/// Every key of the kind runs again this often, in case a change was missed anywhere.
pub(crate) const RESYNC_EVERY: Duration = Duration::from_secs(600);
/// How often an overflowed queue is looked at.
const OVERFLOW_CHECK: Duration = Duration::from_secs(5);

/// What a successful reconcile asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Run again when something changes.
    OnChange,
    /// Run again after this time at the latest.
    After(Duration),
}

impl Next {
    /// The earlier of two wishes.
    pub(crate) fn sooner(self, other: Option<Duration>) -> Self {
        match (self, other) {
            (Self::OnChange, Some(d)) => Self::After(d),
            (Self::After(a), Some(b)) => Self::After(a.min(b)),
            (same, None) => same,
        }
    }
}

/// Spawns `workers` workers for `queue`, and the task that adds all `keys` again on resync.
pub(crate) fn spawn<F, Fut>(
    ctx: &Arc<Context>,
    tasks: &mut Tasks,
    name: &'static str,
    workers: usize,
    queue: &Arc<WorkQueue<Key>>,
    keys: impl Fn() -> Vec<Key> + Send + 'static,
    reconcile: F,
) where
    F: Fn(Arc<Context>, Key) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, Error>> + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    for _ in 0..workers {
        let (ctx, queue, reconcile) = (ctx.clone(), queue.clone(), reconcile.clone());
        tasks.spawn(name, async move {
            ctx.wait_synced().await;
            loop {
                let key = queue.next().await;
                let _begun = ctx.gate.read().await;
                run_one(&ctx, name, &queue, key, reconcile.as_ref()).await;
            }
        });
    }
    let (queue, metrics) = (queue.clone(), ctx.metrics.clone());
    tasks.spawn(name, async move {
        let mut since = Duration::ZERO;
        loop {
            tokio::time::sleep(OVERFLOW_CHECK).await;
            since += OVERFLOW_CHECK;
            metrics.queue_len(name, queue.len());
            let overflowed = queue.take_overflow();
            if overflowed {
                tracing::warn!(controller = name, "work queue was full, adding all keys again");
            }
            if overflowed || since >= RESYNC_EVERY {
                since = Duration::ZERO;
                for key in keys() {
                    queue.add(key);
                }
            }
        }
    });
}

async fn run_one<F, Fut>(ctx: &Arc<Context>, name: &'static str, queue: &WorkQueue<Key>, key: Key, reconcile: &F)
where
    F: Fn(Arc<Context>, Key) -> Fut,
    Fut: Future<Output = Result<Next, Error>>,
{
    // The call is inside the async block so that a panic before the first await is caught as well.
    let run = async { reconcile(ctx.clone(), key.clone()).await };
    let outcome = tokio::time::timeout(RUN_DEADLINE, AssertUnwindSafe(run).catch_unwind()).await;
    let outcome = match outcome {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => Err(Error::Panicked),
        Err(_elapsed) => Err(Error::TooSlow),
    };
    match outcome {
        Ok(next) => {
            ctx.metrics.reconciled(name, true);
            queue.forget(&key);
            if let Next::After(delay) = next {
                queue.add_after(key.clone(), delay);
            }
        }
        Err(error) => {
            ctx.metrics.reconciled(name, error.is_conflict());
            let cause = skerry_common::chain(&error);
            if error.is_expected() {
                tracing::debug!(controller = name, %key, %cause, "reconcile will be tried again");
            } else {
                tracing::warn!(controller = name, %key, %cause, "reconcile failed, trying again");
            }
            queue.add_rate_limited(key.clone());
        }
    }
    queue.done(&key);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::context::testing;

    #[tokio::test(start_paused = true)]
    async fn a_reconcile_that_panics_fails_or_hangs_is_tried_again() {
        let (ctx, queue, key) = (testing::context(std::future::pending), WorkQueue::default(), Key::new("ns", "a"));
        for trouble in ["panic", "error", "hang"] {
            queue.add(key.clone());
            let taken = queue.next().await;
            let reconcile = move |_, _| async move {
                match trouble {
                    "panic" => panic!("a defect"),
                    "error" => Err(Error::Stale),
                    _ => std::future::pending().await,
                }
            };
            run_one(&ctx, "test", &queue, taken, &reconcile).await;
            assert_eq!(queue.next().await, key, "it is tried again after {trouble}");
            queue.done(&key);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn success_runs_again_only_when_asked_for() {
        let (ctx, queue, key) = (testing::context(std::future::pending), WorkQueue::default(), Key::new("ns", "a"));
        for (next, again) in [(Next::OnChange, false), (Next::After(Duration::from_secs(5)), true)] {
            queue.add(key.clone());
            let taken = queue.next().await;
            run_one(&ctx, "test", &queue, taken, &move |_, _| async move { Ok(next) }).await;
            let waited = tokio::time::timeout(Duration::from_secs(3600), queue.next()).await;
            assert_eq!(waited.is_ok(), again);
            queue.done(&key);
        }
    }
}
