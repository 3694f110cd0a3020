//! The policies: which of a group comes first, and which come after it.
//!
//! Each is a score per endpoint, and the best ones are taken; so the next endpoint after a failure is the one
//! that the policy would have taken without the first. Work is linear in the group.
//!
//! Consistent hashing is by rendezvous (Thaler and Ravishankar): the endpoint with the highest score of (client,
//! endpoint). Without a table to build it costs nothing when endpoints change ten times a second, and an endpoint
//! that comes or goes moves its own clients only. Loads are bounded as Mirrokni, Thorup and Zadimoghaddam have
//! it: an endpoint that has more than [`LOAD_BOUND`] times its share is passed over.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::Entry;

/// EdgeMesh's `load` of consistent hashing.
const LOAD_BOUND: f64 = 1.25;
/// An endpoint is slow if it takes this many times as long as the fastest of its group to be connected ...
const SLOW_FACTOR: f64 = 5.0;
/// ... and at least this long, in seconds: below, nobody notices.
const SLOW_ABOVE: f64 = 0.25;
/// Endpoints that are connected faster than this, in seconds, are equally fast. What was never measured is fast, so
/// that it is tried.
const FAST: f64 = 0.005;
/// The share of a slow endpoint: enough to notice that it is fast again.
const SLOW_SHARE: f64 = 0.125;

#[derive(Debug, Clone, Copy)]
pub(super) enum Rank {
    RoundRobin,
    Random,
    LeastRequest,
    Hash(u64),
}

/// The first `room` of the group (indexes into the entries), best first. `turn`: the first one has had its turn.
pub(super) fn rank(
    entries: &mut [Entry],
    group: &[usize],
    rank: Rank,
    room: usize,
    turn: bool,
    now: Instant,
    random: u64,
) -> Vec<usize> {
    let mut scored: Vec<(f64, usize)> = Vec::with_capacity(group.len());
    let fastest = group.iter().filter_map(|at| entries.get(*at)?.speed.average(now)).fold(f64::INFINITY, f64::min);
    let total: u64 = group.iter().filter_map(|at| entries.get(*at)).map(|entry| u64::from(entry.active)).sum();
    let weights: f64 = group.iter().filter_map(|at| entries.get(*at)).map(weight).sum();
    let share = |entry: &Entry| match entry.speed.average(now) {
        Some(average) if average > SLOW_ABOVE && average > fastest * SLOW_FACTOR => weight(entry) * SLOW_SHARE,
        _ => weight(entry),
    };
    // Smooth weighted round robin: all are credited their share, the richest pays for all.
    let mut credited = 0;
    for at in group {
        let Some(entry) = entries.get_mut(*at) else { continue };
        let score = match rank {
            Rank::RoundRobin => {
                let credit = as_credit(share(entry));
                if turn {
                    entry.credit = entry.credit.saturating_add(credit);
                    credited += credit;
                    as_score(entry.credit)
                } else {
                    as_score(entry.credit.saturating_add(credit))
                }
            }
            Rank::Random => draw(entry.hash ^ random, share(entry)),
            Rank::LeastRequest => -cost(entry, now) / weight(entry),
            Rank::Hash(client) => {
                let score = draw(mix(entry.hash ^ client), weight(entry));
                let bound = (LOAD_BOUND * as_count(total + 1) * weight(entry) / weights).ceil();
                // Those above their bound come after all others, in the same order.
                if f64::from(entry.active) < bound { score } else { score - 1e9 }
            }
        };
        scored.push((score, *at));
    }
    if matches!(rank, Rank::LeastRequest) {
        prefer_one_of_two(&mut scored, random);
    }
    let chosen = best(scored, room);
    if turn
        && matches!(rank, Rank::RoundRobin)
        && let Some(first) = chosen.first().and_then(|at| entries.get_mut(*at))
    {
        first.credit = first.credit.saturating_sub(credited);
    }
    chosen
}

/// The first choice is the better of two that are drawn: the best of all would be everybody's choice at once.
fn prefer_one_of_two(scored: &mut [(f64, usize)], random: u64) {
    let count = scored.len() as u64;
    if count < 2 {
        return;
    }
    let one = usize::try_from(random % count).unwrap_or_default();
    let other = usize::try_from((random >> 32) % (count - 1)).unwrap_or_default();
    let other = if other >= one { other + 1 } else { other };
    let of = |at: usize| scored.get(at).map_or(f64::NEG_INFINITY, |scored| scored.0);
    let better = if of(one) >= of(other) { one } else { other };
    if let Some(scored) = scored.get_mut(better) {
        scored.0 = f64::INFINITY;
    }
}

/// The highest scores first; equal ones in the order of addresses.
fn best(mut scored: Vec<(f64, usize)>, room: usize) -> Vec<usize> {
    let order = |a: &(f64, usize), b: &(f64, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if scored.len() > room && room > 0 {
        scored.select_nth_unstable_by(room - 1, order);
    }
    scored.truncate(room);
    scored.sort_by(order);
    scored.into_iter().map(|(_, at)| at).collect()
}

fn weight(entry: &Entry) -> f64 {
    f64::from(entry.candidate.weight.max(1))
}

/// Busy and slow cost alike: connections that wait there, times how long one takes to be made.
fn cost(entry: &Entry, now: Instant) -> f64 {
    let speed = entry.speed.average(now).unwrap_or(FAST).max(FAST);
    // Of two that are equally busy the faster wins; a thousandfold speed is not worth a thousandfold queue.
    f64::from(entry.active.saturating_add(1)) * speed.sqrt()
}

/// A score such that the highest is each one's with a chance in proportion to its weight (Efraimidis and
/// Spirakis); the same for the same bits.
fn draw(bits: u64, weight: f64) -> f64 {
    // 53 bits, as many as a float holds; never 0, whose logarithm is not a number.
    let uniform = (as_count(mix(bits) >> 11) + 0.5) / 9_007_199_254_740_992.0;
    uniform.ln() / weight
}

#[expect(clippy::cast_precision_loss, reason = "counts of connections, and 53 bits, are exact")]
fn as_count(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "credits stay near the sum of weights")]
fn as_score(credit: i64) -> f64 {
    credit as f64
}

/// Eighths: a slow endpoint's share is one.
#[expect(clippy::cast_possible_truncation, reason = "a weight is at most 65535")]
fn as_credit(share: f64) -> i64 {
    (share * 8.0) as i64
}

/// The hash of an endpoint's address, the same on all nodes and in all versions.
pub(super) fn hash_address(address: SocketAddr) -> u64 {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => hash(&[&ip.octets()[..], &port].concat()),
        IpAddr::V6(ip) => hash(&[&ip.octets()[..], &port].concat()),
    }
}

/// FNV-1a, mixed: the bytes are short, and every bit must count.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// The finaliser of SplitMix64: each bit of the input changes half of the output.
pub(super) fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
