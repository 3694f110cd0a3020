//! The reporting end: which report of the outbox goes on the stream next.
//!
//! **For:** sending the reports of a durable outbox at least once, oldest first, with a bounded
//! number in flight. It knows ids only; bodies stay in the store.
//!
//! **Called by** edgehub, from the task that owns the `Report` stream: [`Reporter::offer`] for each
//! report that is durable in the outbox, [`Reporter::superseded`] for each that a newer one
//! replaced there, [`Reporter::next`] whenever the stream can take a message,
//! [`Reporter::outcome`] for each answer, [`Reporter::gone`] for a report that [`Reporter::next`]
//! gave and the outbox has not, [`Reporter::disconnected`] when the stream ends.
//!
//! **Invariants.** A report leaves this machine only by an outcome or because a newer one replaced
//! it. A report that was replaced is never sent again, so a status never goes back: the newer one
//! has the greater id and follows it on the stream. At most `window` are in flight.
//!
//! **Limits.** The window; memory is some 16 bytes for each report in the outbox, which the store
//! bounds. A wait asked for by the sink is kept between [`MIN_RETRY_AFTER_MS`] and
//! [`MAX_RETRY_AFTER_MS`].
//!
//! **Crash, cancel, full.** After a restart the caller offers everything that is in the outbox;
//! what was in flight is sent again and the sink drops what it has.

use std::collections::{BTreeMap, BTreeSet};

use skerry_proto::sync::v1 as proto;

use crate::error::ProtocolError;
use crate::limits::{MAX_RETRY_AFTER_MS, MIN_RETRY_AFTER_MS};
use crate::wire::cut_reason;

/// What the sink says about one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the Kubernetes API.
    Committed,
    /// It can never be taken.
    Rejected {
        /// For people.
        reason: String,
    },
    /// Nothing was done; send it again.
    RetryLater {
        /// Not before this many milliseconds.
        after_ms: u64,
    },
}

impl Outcome {
    /// Reads an outcome: the report's id and what became of it.
    ///
    /// # Errors
    /// [`ProtocolError::Missing`] without an id or a result: it is not guessed.
    pub fn from_wire(outcome: proto::Outcome) -> Result<(u64, Self), ProtocolError> {
        if outcome.id == 0 {
            return Err(ProtocolError::Missing { field: "id" });
        }
        let result = match outcome.result {
            None => return Err(ProtocolError::Missing { field: "result" }),
            Some(proto::outcome::Result::Committed(_)) => Self::Committed,
            Some(proto::outcome::Result::Rejected(rejected)) => Self::Rejected { reason: cut_reason(rejected.reason) },
            Some(proto::outcome::Result::RetryLater(later)) => Self::RetryLater { after_ms: later.after_ms },
        };
        Ok((outcome.id, result))
    }
}

/// What the caller does with a report after its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Remove it from the outbox.
    Remove(u64),
    /// Remove it from the outbox and show the reason to the user.
    Rejected(u64, String),
    /// Keep it; [`Reporter::next`] gives it again at this time.
    Later {
        /// The report.
        id: u64,
        /// In the caller's milliseconds.
        at_ms: u64,
    },
    /// It was not in flight: an answer that came twice, or to an earlier stream. Nothing to do.
    Ignored(u64),
}

/// Where a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    InFlight {
        /// A newer one replaced it: whatever the outcome, it is done.
        superseded: bool,
    },
    Later {
        at_ms: u64,
    },
}

/// The reporting end; see the module.
#[derive(Debug)]
pub struct Reporter {
    window: usize,
    /// Ready to be sent.
    ready: BTreeSet<u64>,
    /// Sent, or waiting for a time.
    away: BTreeMap<u64, Place>,
    /// Those of `away` that wait, by time.
    later: BTreeSet<(u64, u64)>,
    in_flight: usize,
}

impl Reporter {
    /// With at most `window` reports in flight (at least one).
    #[must_use]
    pub fn new(window: usize) -> Self {
        Self {
            window: window.max(1),
            ready: BTreeSet::new(),
            away: BTreeMap::new(),
            later: BTreeSet::new(),
            in_flight: 0,
        }
    }

    /// The report is durable in the outbox. Offering it again changes nothing.
    pub fn offer(&mut self, id: u64) {
        if !self.away.contains_key(&id) {
            self.ready.insert(id);
        }
    }

    /// A newer report of the same object replaced this one in the outbox.
    pub fn superseded(&mut self, id: u64) {
        if self.ready.remove(&id) {
            return;
        }
        match self.away.get_mut(&id) {
            None => {}
            Some(Place::InFlight { superseded }) => *superseded = true,
            Some(Place::Later { at_ms }) => {
                let at_ms = *at_ms;
                self.later.remove(&(at_ms, id));
                self.away.remove(&id);
            }
        }
    }

    /// The report is not in the outbox any more, though [`Self::next`] gave it: it was replaced or
    /// dropped in between and is not sent, so no outcome will come. Frees its place in the window.
    pub fn gone(&mut self, id: u64) {
        self.ready.remove(&id);
        match self.away.remove(&id) {
            None => {}
            Some(Place::InFlight { .. }) => self.in_flight = self.in_flight.saturating_sub(1),
            Some(Place::Later { at_ms }) => {
                self.later.remove(&(at_ms, id));
            }
        }
    }

    /// The next report to send, oldest first; `None` if there is none or the window is full.
    pub fn next(&mut self, now_ms: u64) -> Option<u64> {
        while let Some((at_ms, id)) = self.later.first().copied() {
            if at_ms > now_ms {
                break;
            }
            self.later.pop_first();
            self.away.remove(&id);
            self.ready.insert(id);
        }
        if self.in_flight >= self.window {
            return None;
        }
        let id = self.ready.pop_first()?;
        self.away.insert(id, Place::InFlight { superseded: false });
        self.in_flight += 1;
        Some(id)
    }

    /// The sink answered.
    pub fn outcome(&mut self, id: u64, outcome: Outcome, now_ms: u64) -> Settled {
        let Some(Place::InFlight { superseded }) = self.away.get(&id).copied() else {
            return Settled::Ignored(id);
        };
        self.away.remove(&id);
        self.in_flight = self.in_flight.saturating_sub(1);
        match outcome {
            Outcome::Committed => Settled::Remove(id),
            Outcome::Rejected { reason } => Settled::Rejected(id, reason),
            Outcome::RetryLater { .. } if superseded => Settled::Remove(id),
            Outcome::RetryLater { after_ms } => {
                let wait = after_ms.clamp(MIN_RETRY_AFTER_MS, MAX_RETRY_AFTER_MS);
                let at_ms = now_ms.saturating_add(wait);
                self.away.insert(id, Place::Later { at_ms });
                self.later.insert((at_ms, id));
                Settled::Later { id, at_ms }
            }
        }
    }

    /// The stream ended: what was in flight is sent again on the next one, but for what was
    /// replaced meanwhile. What waits for its time goes on waiting.
    pub fn disconnected(&mut self) {
        let flying: Vec<(u64, bool)> = self
            .away
            .iter()
            .filter_map(|(id, place)| match place {
                Place::InFlight { superseded } => Some((*id, *superseded)),
                Place::Later { .. } => None,
            })
            .collect();
        for (id, superseded) in flying {
            self.away.remove(&id);
            if !superseded {
                self.ready.insert(id);
            }
        }
        self.in_flight = 0;
    }

    /// When [`Self::next`] has to be asked again though nothing else happens: the earliest time
    /// that a sink asked for. `None` while something is ready or nothing waits.
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        if !self.ready.is_empty() && self.in_flight < self.window {
            return None;
        }
        self.later.first().map(|(at_ms, _)| *at_ms)
    }

    /// Reports that are not settled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ready.len() + self.away.len()
    }

    /// Whether every report is settled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reports that wait for their outcome.
    #[must_use]
    pub fn in_flight_len(&self) -> usize {
        self.in_flight
    }
}

#[cfg(test)]
#[path = "reporter_tests.rs"]
mod tests;
