//! The one task that watches over all connections of a server.
//!
//! It ends connections that are silent, stalled, unused or idle, and those of revoked keys; and it
//! carries the byte counters into the metrics. A connection needs no timer of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use skerry_identity::RevocationList;

use super::Shared;
use crate::connection::{ConnState, Order};
use crate::limits::{PREFACE_BYTES, ServerLimits};
use crate::metrics::ServerBytes;
use crate::peer::{Identity, Peer};

/// After a connection was told to end and has no stream any more: how long the peer may take to
/// read the goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// How many sweeps lie between two looks at the identities.
const TIDY_EVERY: u64 = 20;

pub(super) async fn run(shared: Arc<Shared>) {
    let revocations = shared.tls.as_ref().map(|tls| tls.revocations().clone());
    let mut revocations = revocations.unwrap_or_else(RevocationList::empty);
    let mut ticks = tokio::time::interval(shared.limits.sweep_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count: u64 = 0;
    loop {
        tokio::select! {
            () = shared.cut.cancelled() => return,
            _ = ticks.tick() => {
                sweep(&shared);
                count = count.wrapping_add(1);
                if count.is_multiple_of(TIDY_EVERY) {
                    shared.registry.tidy(shared.clock.now_ms());
                }
            }
            () = revocations.changed() => revoke(&shared, &revocations),
        }
    }
}

/// Ends the connections of what was revoked. Their peers have no right to a reason.
fn revoke(shared: &Shared, revocations: &RevocationList) {
    shared.registry.each(|peer| {
        if is_revoked(peer, revocations) {
            tracing::warn!(server = shared.name, peer = %peer.identity, "revoked: ending its connection");
            peer.connection.0.give(Order::Abort, "revoked", "the certificate was revoked");
        }
    });
}

pub(super) fn is_revoked(peer: &Peer, revocations: &RevocationList) -> bool {
    let key = peer.key_fingerprint.as_deref().is_some_and(|print| revocations.is_key_revoked(print));
    key || matches!(&peer.identity, Identity::Node(node) if revocations.is_node_revoked(node))
}

fn sweep(shared: &Shared) {
    let now = shared.clock.now_ms();
    let mut bytes: [[u64; 2]; CLASSES.len()] = Default::default();
    shared.registry.each(|peer| {
        let state = &peer.connection.0;
        if let Some((order, label, reason)) = judge(&shared.limits, peer, state, now) {
            if label != "idle" {
                tracing::debug!(server = shared.name, peer = %peer.identity, connection = state.id, reason, "ending");
            }
            state.give(order, label, reason);
        }
        let class = peer.identity.class();
        if let Some(sums) = CLASSES.iter().position(|c| *c == class).and_then(|at| bytes.get_mut(at)) {
            let [received, sent] = uncounted(state);
            let [sum_received, sum_sent] = sums;
            *sum_received += received;
            *sum_sent += sent;
        }
    });
    for (class, [received, sent]) in CLASSES.iter().zip(bytes) {
        count_bytes(shared, class, received, sent);
    }
}

const CLASSES: [&str; 4] = ["anonymous", "node", "service", "local"];

/// Bytes that the metrics do not know yet.
pub(super) fn uncounted(state: &ConnState) -> [u64; 2] {
    let [received, sent] = &state.counted;
    let (now_received, now_sent) = (state.rx.load(Relaxed), state.tx.load(Relaxed));
    [
        now_received.saturating_sub(received.swap(now_received, Relaxed)),
        now_sent.saturating_sub(sent.swap(now_sent, Relaxed)),
    ]
}

pub(super) fn count_bytes(shared: &Shared, class: &'static str, received: u64, sent: u64) {
    for (direction, bytes) in [("received", received), ("sent", sent)] {
        if bytes > 0 {
            let label = ServerBytes { server: shared.name, class, direction };
            shared.metrics.0.bytes.get_or_create(&label).inc_by(bytes);
        }
    }
}

type Verdict = (Order, &'static str, &'static str);

/// What is to be done with a connection now.
fn judge(limits: &ServerLimits, peer: &Peer, state: &ConnState, now: u64) -> Option<Verdict> {
    let longer = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) > limit.as_millis();
    let abort = |label, reason| Some((Order::Abort, label, reason));
    let open = state.open_streams.load(Relaxed);
    let idle_since = state.idle_since_ms.load(Relaxed);
    let order = state.order();
    if order == Order::Abort {
        return None;
    }
    if order == Order::EndStreams {
        let abort_at = state.abort_at_ms.load(Relaxed);
        if (abort_at > 0 && now >= abort_at) || (open == 0 && longer(idle_since, GOODBYE)) {
            return abort("goodbye_unread", "the peer did not read the goodbye");
        }
    }
    if !state.used.load(Relaxed) {
        let ready = state.ready_ms.load(Relaxed);
        let sent_preface = state.rx.load(Relaxed).saturating_sub(state.ready_rx.load(Relaxed)) >= PREFACE_BYTES;
        if longer(ready, limits.first_request_timeout) {
            return abort("no_request", "there was no request");
        }
        if !sent_preface && (longer(ready, limits.preface_timeout) || order == Order::Drain) {
            return abort("no_preface", "there was no HTTP/2 preface");
        }
    }
    // Nodes and services of ours ping when they are silent; others are pinged by HTTP/2.
    let pings = matches!(peer.identity, Identity::Node(_) | Identity::Service(_));
    if pings && peer.remote.is_some() && longer(state.last_read_ms.load(Relaxed), limits.dead_after) {
        return abort("silent", "nothing came from the peer");
    }
    let blocked = state.write_blocked_ms.load(Relaxed);
    if blocked > 0 && longer(blocked, limits.write_stall_timeout) {
        return abort("write_stalled", "the peer reads nothing");
    }
    if order == Order::Run && open == 0 && state.used.load(Relaxed) && longer(idle_since, limits.idle_timeout) {
        return Some((Order::Drain, "idle", "the connection is idle"));
    }
    None
}
