//! Which relays hold a place for us: two of those that are connected, the nearest by measured time.
//!
//! Sans IO: the engine says what happened, and does what [`Relays::plan`] returns. All relays of the list stay
//! connected (a handful), so that their times are known and a second one is there when the first dies. A third
//! reservation is made before the worse of two is given up.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{PeerId, core::transport::ListenerId};

/// Relays that stay connected and measured. More only cost pings.
pub const MAX_RELAYS: usize = 8;

/// Reservations: one to use, one for when it dies.
pub const RESERVATIONS: usize = 2;

/// A new reservation must be answered within this.
const ANSWER: Duration = Duration::from_secs(5);

/// After a refusal, doubled each time, and its longest.
const BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// How much better a relay must be to replace one, and how long after the last change: times vary, and peers must
/// learn the new address.
const BETTER_FACTOR: f64 = 1.5;
const BETTER_BY: Duration = Duration::from_millis(5);
const SETTLED: Duration = Duration::from_secs(30);

/// What the engine shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask for a reservation, and call [`Relays::asked`].
    Reserve(PeerId),
    /// Give the reservation up.
    Release(ListenerId),
}

#[derive(Debug, Default)]
struct State {
    connected: bool,
    /// Smoothed, in seconds.
    rtt: Option<f64>,
    listener: Option<(ListenerId, Instant)>,
    held: bool,
    failures: u32,
    next: Option<Instant>,
}

/// The relays of the list and their reservations.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    states: HashMap<PeerId, State>,
    changed: Option<Instant>,
}

impl Relays {
    /// Takes the list. Returns the relays that are not on it any more; their reservations are released.
    pub(crate) fn set(&mut self, relays: &[PeerId]) -> (Vec<PeerId>, Vec<Action>) {
        let gone: Vec<PeerId> = self.states.keys().filter(|peer| !relays.contains(peer)).copied().collect();
        let mut actions = Vec::new();
        for peer in &gone {
            let listener = self.states.remove(peer).and_then(|state| state.listener);
            actions.extend(listener.map(|(listener, _)| Action::Release(listener)));
        }
        for peer in relays.iter().take(MAX_RELAYS) {
            self.states.entry(*peer).or_default();
        }
        (gone, actions)
    }

    /// The relays of the list, nearest first, those that are not connected last.
    pub(crate) fn by_distance(&self) -> Vec<PeerId> {
        let mut all: Vec<(&PeerId, &State)> = self.states.iter().collect();
        all.sort_by(|(a, x), (b, y)| {
            let time = |state: &State| if state.connected { state.rtt.unwrap_or(f64::MAX) } else { f64::INFINITY };
            time(x).total_cmp(&time(y)).then_with(|| a.cmp(b))
        });
        all.into_iter().map(|(peer, _)| *peer).collect()
    }

    /// Whether the peer is on the list.
    pub(crate) fn contains(&self, peer: &PeerId) -> bool {
        self.states.contains_key(peer)
    }

    /// Relays that hold a place for us.
    #[cfg(test)]
    pub(crate) fn held(&self) -> Vec<PeerId> {
        self.states.iter().filter(|(_, state)| state.held).map(|(peer, _)| *peer).collect()
    }

    /// A ping of a direct connection with the peer came back.
    pub(crate) fn ping(&mut self, peer: &PeerId, rtt: Duration) {
        if let Some(state) = self.states.get_mut(peer) {
            let now = rtt.as_secs_f64();
            state.connected = true;
            state.rtt = Some(state.rtt.map_or(now, |before| before * 0.75 + now * 0.25));
        }
    }

    /// There is no direct connection with the peer any more.
    pub(crate) fn disconnected(&mut self, peer: &PeerId) {
        if let Some(state) = self.states.get_mut(peer) {
            state.connected = false;
            state.failures = 0;
            state.next = None;
        }
    }

    /// The relay was asked for a reservation.
    pub(crate) fn asked(&mut self, peer: &PeerId, listener: ListenerId, now: Instant) {
        if let Some(state) = self.states.get_mut(peer) {
            state.listener = Some((listener, now));
        }
    }

    /// The relay holds a place for us.
    pub(crate) fn accepted(&mut self, peer: &PeerId, now: Instant) {
        if let Some(state) = self.states.get_mut(peer)
            && state.listener.is_some()
        {
            if !state.held {
                self.changed = Some(now);
            }
            state.held = true;
            state.failures = 0;
        }
    }

    /// A reservation is over or was refused. Returns whether it was one.
    pub(crate) fn ended(&mut self, listener: ListenerId, now: Instant) -> bool {
        let found = self.states.values_mut().find(|state| state.listener.is_some_and(|(id, _)| id == listener));
        let Some(state) = found else {
            return false;
        };
        state.listener = None;
        state.held = false;
        state.next = Some(now + BACKOFF.saturating_mul(1 << state.failures.min(8)).min(LONGEST_BACKOFF));
        state.failures += 1;
        true
    }

    /// What is to be done now.
    pub(crate) fn plan(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for state in self.states.values_mut() {
            if let Some((listener, since)) = state.listener
                && !state.held
                && now >= since + ANSWER
            {
                actions.push(Action::Release(listener));
            }
        }
        let order = self.by_distance();
        let reserved: Vec<(PeerId, f64)> = order
            .iter()
            .filter_map(|peer| {
                let state = self.states.get(peer)?;
                state.listener?;
                Some((*peer, state.rtt.unwrap_or(f64::MAX)))
            })
            .collect();
        let free = order.iter().find(|peer| {
            self.states.get(*peer).is_some_and(|state| {
                state.connected && state.listener.is_none() && state.next.is_none_or(|next| now >= next)
            })
        });
        let free = free.and_then(|peer| Some((*peer, self.states.get(peer)?.rtt.unwrap_or(f64::MAX))));
        let settled = self.changed.is_none_or(|changed| now >= changed + SETTLED);
        match (reserved.as_slice(), free) {
            (few, Some((peer, _))) if few.len() < RESERVATIONS => actions.push(Action::Reserve(peer)),
            ([.., (_, worst)], Some((peer, time)))
                if reserved.len() == RESERVATIONS
                    && settled
                    && time * BETTER_FACTOR + BETTER_BY.as_secs_f64() < *worst =>
            {
                actions.push(Action::Reserve(peer));
            }
            (many, _) if many.len() > RESERVATIONS => {
                let all_held = many.iter().all(|(peer, _)| self.states.get(peer).is_some_and(|state| state.held));
                let worst = many.last().and_then(|(peer, _)| self.states.get(peer)?.listener);
                if let Some((listener, _)) = worst.filter(|_| all_held) {
                    actions.push(Action::Release(listener));
                }
            }
            _ => {}
        }
        actions
    }
}

#[cfg(test)]
mod tests;
