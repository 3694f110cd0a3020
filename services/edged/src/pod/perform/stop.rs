//! Stops containers: hooks at the same time, each container in its turn. Part of [`super`].
//!
//! Invariants: hook, wait and stop together take no longer than the grace period and [`LEAST`]; a
//! container that hangs in its hook holds up those of later turns for its grace and not longer.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use super::{Done, facts, hooks, settle};
use crate::context::Context;
use crate::events::{Kind, Subject};
use crate::pod::memory::Memory;
use crate::pod::observed::Observed;
use crate::pod::plan::Stop;
use crate::pod::spec::PodExt;

/// What is left to a container after a hook that took all of the grace, and with a grace of zero.
const LEAST: Duration = Duration::from_secs(2);

/// See the module documentation.
pub(super) async fn stop(context: &Context, pod: &Pod, seen: &Observed, memory: &mut Memory, stops: &[Stop]) -> Done {
    for stop in stops {
        context.events.record(&Subject::container(pod, &stop.name), Kind::Normal, "Killing", &stop.reason);
        if stop.pre_stop {
            memory.pre_stopped.insert(stop.id.clone());
        }
    }
    // How many of each turn have not ended; a container waits for all before its own.
    let turns = stops.iter().map(|s| s.turn).max().unwrap_or(0);
    let left: Vec<usize> = (0..=turns).map(|turn| stops.iter().filter(|s| s.turn == turn).count()).collect();
    let (turn, _) = watch::channel(left);
    let results = join_all(stops.iter().map(|stop| async {
        let result = stop_one(context, pod, seen, stop, turn.subscribe()).await;
        turn.send_modify(|left| {
            if let Some(count) = left.get_mut(stop.turn) {
                *count = count.saturating_sub(1);
            }
        });
        result
    }))
    .await;
    let mut done = Done::Yes;
    for result in results {
        if settle(context, pod, memory, "StopContainer", result) == Done::Failed {
            done = Done::Failed;
        }
    }
    done
}

async fn stop_one(
    context: &Context,
    pod: &Pod,
    seen: &Observed,
    stop: &Stop,
    mut turn: watch::Receiver<Vec<usize>>,
) -> Result<(), Status> {
    let grace = Duration::from_secs(u64::try_from(stop.grace_s).unwrap_or(0));
    let begun = Instant::now();
    let left = || grace.saturating_sub(begun.elapsed());
    if stop.pre_stop
        && !grace.is_zero()
        && let Some(container) = pod.container(&stop.name)
    {
        hooks::pre_stop(context, pod, &container, &stop.id, &facts(context, seen), left()).await;
    }
    let ours = turn.wait_for(|counts| counts.iter().take(stop.turn).all(|count| *count == 0));
    // Past its grace nobody waits; the senders outlive this.
    let _ = tokio::time::timeout(left(), ours).await;
    // Whole seconds: a second that has begun counts.
    let rest = left().max(LEAST);
    let seconds = rest.as_secs() + u64::from(rest.subsec_millis() > 500);
    context.cri.stop_container(&stop.id, i64::try_from(seconds).unwrap_or(i64::MAX)).await
}
