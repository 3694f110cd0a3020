//! The clock that certificates and tokens are judged by, with a floor.
//!
//! A node may boot in 1970 because its battery is empty. Such a clock must neither make an expired
//! certificate valid again nor lock the node out. So time never reads earlier than a floor: the
//! release date of this build, the start of life of a certificate that our CA gave us, or a time that
//! the caller stored earlier ([`Clock::raise`]). A clock below its floor is known to be wrong
//! ([`Clock::is_behind`]); verification then takes a peer's own start of life as evidence, and still
//! enforces the end of life against the floor.
//!
//! The floor lives in memory and only rises. A clock that runs ahead cannot be recognised here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

/// 2026-11-01T00:00:00Z: no copy of this code ran before, in seconds since the epoch. Raised with
/// each release; a build that sets `SOURCE_DATE_EPOCH` raises it further.
const RELEASE_UNIX: i64 = 1_793_491_200;

/// The earliest time that this build believes, in seconds since the epoch.
pub const BUILD_FLOOR_UNIX: i64 = build_floor();

/// A source date that is further ahead than this is a mistake in the build, not a date: one year.
const MAX_SOURCE_DATE_AHEAD: i64 = 366 * 24 * 3600;

const fn build_floor() -> i64 {
    let Some(text) = option_env!("SOURCE_DATE_EPOCH") else { return RELEASE_UNIX };
    match i64::from_str_radix(text, 10) {
        Ok(date) if date > RELEASE_UNIX && date < RELEASE_UNIX + MAX_SOURCE_DATE_AHEAD => date,
        _ => RELEASE_UNIX,
    }
}

/// A wall clock that never reads earlier than its floor. Clones share the floor.
#[derive(Clone, Debug)]
pub struct Clock {
    floor: Arc<AtomicI64>,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Seconds since the epoch; set by tests and simulations.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock, with the build's date as floor.
    pub fn system() -> Self {
        Self { floor: Arc::new(AtomicI64::new(BUILD_FLOOR_UNIX)), source: Source::System }
    }

    /// A clock that stands at `now` until [`Clock::set`] moves it; for tests and simulations. Its floor
    /// starts at the build's date too.
    pub fn manual(now: Timestamp) -> Self {
        let source = Source::Manual(Arc::new(AtomicI64::new(now.as_second())));
        Self { floor: Arc::new(AtomicI64::new(BUILD_FLOOR_UNIX)), source }
    }

    /// Moves a manual clock. Does nothing on the system's clock.
    pub fn set(&self, now: Timestamp) {
        if let Source::Manual(seconds) = &self.source {
            seconds.store(now.as_second(), Ordering::Relaxed);
        }
    }

    /// The current time, never before the floor, in whole seconds.
    pub fn now(&self) -> Timestamp {
        let seconds = self.raw().max(self.floor.load(Ordering::Relaxed));
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
    }

    /// The floor.
    pub fn floor(&self) -> Timestamp {
        Timestamp::from_second(self.floor.load(Ordering::Relaxed)).unwrap_or(Timestamp::MAX)
    }

    /// Whether the underlying clock reads earlier than the floor, so is known to be wrong. Callers
    /// show this as a condition.
    pub fn is_behind(&self) -> bool {
        self.raw() < self.floor.load(Ordering::Relaxed)
    }

    /// Raises the floor to `seen`, a time that is known to have passed (read from our own store or
    /// from a certificate of our CA). Never lowers it.
    pub fn raise(&self, seen: Timestamp) {
        self.floor.fetch_max(seen.as_second(), Ordering::Relaxed);
    }

    fn raw(&self) -> i64 {
        match &self.source {
            Source::System => SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |elapsed| i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)),
            Source::Manual(seconds) => seconds.load(Ordering::Relaxed),
        }
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.now()))
    }
}

/// rustls' form of a time; times before the epoch read as the epoch.
pub(crate) fn unix_time(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_clock_in_1970_reads_the_floor() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        assert_eq!(clock.now().as_second(), BUILD_FLOOR_UNIX);
        assert!(clock.is_behind());
        let later = Timestamp::from_second(BUILD_FLOOR_UNIX + 5).unwrap();
        clock.raise(later);
        clock.raise(Timestamp::UNIX_EPOCH);
        assert_eq!(clock.clone().now(), later, "the floor only rises, and clones share it");
        clock.set(Timestamp::from_second(BUILD_FLOOR_UNIX + 6).unwrap());
        assert!(!clock.is_behind());
    }

    #[test]
    fn the_system_clock_is_not_before_the_build() {
        assert!(Clock::system().now().as_second() >= BUILD_FLOOR_UNIX);
    }
}
