//! What goes out of the fleet at its own pace: statuses to the cloud, values to the disk.
//!
//! Two loops. Limits: [`BATCH`] at a time; one status per device waits in the outbox. On a full disk values
//! are kept in memory and saved when there is room.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use skerry_common::kinds::{self, desired_name};
use skerry_common::{Key, chain};
use skerry_hubclient::Report;

use crate::node::Node;

/// How often to look what is due.
const TICK: Duration = Duration::from_millis(250);
/// How many of these lie between two looks at every device: cycles are seconds.
const FULL_LOOK: u32 = 4;
/// Shortest time between two looks: what happens within is told together.
const PAUSE: Duration = Duration::from_millis(20);
/// Devices at a time: the fleet is locked meanwhile, and reports of mappers wait for it.
const BATCH: usize = 32;

/// Tells the cloud, until it is dropped.
pub(crate) async fn tell(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count: u32 = 0;
    loop {
        tokio::select! {
            () = node.news.notified() => {}
            _ = ticks.tick() => {
                count = count.wrapping_add(1);
                if count.is_multiple_of(FULL_LOOK) {
                    look_at_all(&node).await;
                }
                node.metrics.mappers.set(node.read(|fleet, _| fleet.mapper_count()).try_into().unwrap_or(i64::MAX));
            }
        }
        while node.read_mut(|fleet, now| fleet.look(BATCH, now)) {
            tokio::task::yield_now().await;
        }
        tell_once(&node).await;
        forget(&node).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// What follows from time alone.
async fn look_at_all(node: &Node) {
    let mut last = None;
    loop {
        last = node.read_mut(|fleet, now| fleet.tick_after(last.as_ref(), BATCH, now));
        if last.is_none() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Puts what is due into the outbox.
pub(crate) async fn tell_once(node: &Node) {
    loop {
        let due = node.read_mut(|fleet, now| fleet.take_statuses(now, BATCH));
        let all = due.len() < BATCH;
        for (key, uid, body) in due {
            node.metrics.statuses.inc();
            let body = body.to_string().into();
            node.outbox.put(Report { kind: kinds::DEVICE_STATUS, key, uid, body });
        }
        if all {
            break;
        }
        tokio::task::yield_now().await;
    }
    for report in node.read_mut(|fleet, _| fleet.take_desired()) {
        let name = desired_name(&report.key.name, &report.property);
        let body = json!({
            "device": &*report.key.name,
            "property": report.property,
            "value": report.value,
            "base": report.base,
            "earlier": report.earlier,
            "id": report.id,
        });
        node.outbox.put(Report {
            kind: kinds::DEVICE_DESIRED,
            key: Key::new(report.key.namespace, name),
            uid: report.uid,
            body: body.to_string().into(),
        });
    }
}

/// Removes rows that say nothing any more. A row that stays is found again at the next start.
async fn forget(node: &Node) {
    for (key, property) in node.read_mut(|fleet, _| fleet.take_forgotten()) {
        if let Err(error) = node.forget(&key, &property).await {
            tracing::warn!(error = chain(&error), "a value that does not hold any more cannot be removed");
        }
    }
    for key in node.read_mut(|fleet, _| fleet.take_orphans()) {
        if let Err(error) = node.persist.delete_twins(&key).await {
            tracing::warn!(error = chain(&error), "the values of a device that is gone cannot be removed");
        }
    }
}

/// Saves values at an interval, until it is dropped.
pub(crate) async fn save(node: Arc<Node>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        save_once(&node).await;
    }
}

/// Saves what has changed.
pub(crate) async fn save_once(node: &Node) {
    loop {
        let unsaved = node.read_mut(|fleet, _| fleet.take_unsaved(BATCH));
        let all = unsaved.len() < BATCH;
        let failed = node.persist.put_twins(unsaved).await;
        if let Some((_, error)) = failed.first() {
            tracing::warn!(error = chain(error), devices = failed.len(), "values cannot be saved");
            node.read_mut(|fleet, _| failed.iter().for_each(|(key, _)| fleet.not_saved(key)));
            return;
        }
        if all {
            return;
        }
    }
}
