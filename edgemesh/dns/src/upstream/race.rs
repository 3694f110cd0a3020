//! One question and several name servers: whom to ask next, and when to give up.
//!
//! No IO, and time comes in; [`super::forward`] asks. Each server is asked once in the given order, then again those
//! that have said nothing, which repeats lost packets. One that says that it cannot help is not asked again; one that
//! cannot be reached is given a second chance.
//!
//! Limits: [`MAX_ATTEMPTS`] attempts, so many sockets at once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Attempts for one question.
pub(crate) const MAX_ATTEMPTS: usize = 6;
/// A server with so many strikes is out.
const OUT: u8 = 2;
/// Patience grows by this with each attempt after everybody was asked.
const GROWTH: u32 = 2;

/// How an attempt ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The server says that it cannot help.
    Refused,
    /// There is no way to it, or it talks nonsense.
    Failed,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Race {
    servers: Vec<(SocketAddr, u8)>,
    attempts: usize,
    waiting: Vec<(SocketAddr, Instant)>,
}

impl Race {
    pub(crate) fn new(order: &[SocketAddr]) -> Self {
        Self { servers: order.iter().map(|server| (*server, 0)).collect(), attempts: 0, waiting: Vec::new() }
    }

    /// Whom to ask now.
    pub(crate) fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        let round = self.servers.len();
        let turn = (0..round).map(|step| (self.attempts + step) % round);
        let server = turn.filter_map(|at| self.servers.get(at)).find(|(_, strikes)| *strikes < OUT)?.0;
        if self.attempts >= MAX_ATTEMPTS {
            return None;
        }
        self.attempts += 1;
        self.waiting.push((server, now));
        Some(server)
    }

    /// Whether [`next`](Self::next) has somebody.
    pub(crate) fn has_next(&self) -> bool {
        self.attempts < MAX_ATTEMPTS && self.servers.iter().any(|(_, strikes)| *strikes < OUT)
    }

    /// How long to wait before the next is asked, when the one that was asked last usually needs `usual`.
    pub(crate) fn patience(&self, usual: Duration) -> Duration {
        let again = self.attempts.saturating_sub(self.servers.len());
        usual.saturating_mul(GROWTH.saturating_pow(u32::try_from(again).unwrap_or(u32::MAX)))
    }

    /// An attempt ended without an answer. True when the next may be asked at once.
    pub(crate) fn ended(&mut self, server: SocketAddr, how: Ended) -> bool {
        if let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == server) {
            self.waiting.remove(at);
        }
        for (_, strikes) in self.servers.iter_mut().filter(|(known, _)| *known == server) {
            *strikes = match how {
                Ended::Refused => OUT,
                Ended::Failed => *strikes + 1,
            };
        }
        self.attempts < self.servers.len()
    }

    /// Nobody is left to ask, and nobody is waited for.
    pub(crate) fn is_over(&self) -> bool {
        self.waiting.is_empty() && !self.has_next()
    }

    /// Who was asked, for longer than its patience, and said nothing; each once, without the one that won.
    pub(crate) fn silent(
        &self,
        winner: Option<SocketAddr>,
        now: Instant,
        patience: impl Fn(SocketAddr) -> Duration,
    ) -> Vec<SocketAddr> {
        let mut silent = Vec::new();
        for &(server, since) in &self.waiting {
            let late = now.saturating_duration_since(since) >= patience(server);
            if late && Some(server) != winner && !silent.contains(&server) {
                silent.push(server);
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses<const N: usize>() -> [SocketAddr; N] {
        std::array::from_fn(|last| SocketAddr::from(([192, 0, 2, u8::try_from(last).unwrap_or(0)], 53)))
    }

    #[test]
    fn everybody_is_asked_then_asked_again() {
        let [a, b] = addresses();
        let mut race = Race::new(&[a, b]);
        let now = Instant::now();
        let asked: Vec<_> = std::iter::from_fn(|| race.next(now)).collect();
        assert_eq!(asked, [a, b, a, b, a, b], "never more than the limit");
        assert!(!race.is_over(), "answers may still come");
    }

    #[test]
    fn who_refuses_is_out_and_who_fails_has_a_second_chance() {
        let [a, b] = addresses();
        let mut race = Race::new(&[a, b]);
        let now = Instant::now();
        assert_eq!(race.next(now), Some(a));
        assert!(race.ended(a, Ended::Refused), "the next at once");
        assert_eq!(race.next(now), Some(b));
        assert!(!race.ended(b, Ended::Failed), "not at once a second time");
        assert_eq!(race.next(now), Some(b));
        race.ended(b, Ended::Failed);
        assert!(race.is_over());
        assert_eq!(race.next(now), None);
    }

    #[test]
    fn patience_grows_when_everybody_was_asked() {
        let [a, b] = addresses();
        let mut race = Race::new(&[a, b]);
        let (now, usual) = (Instant::now(), Duration::from_millis(100));
        let mut waited = Vec::new();
        while race.next(now).is_some() {
            waited.push(race.patience(usual).as_millis());
        }
        assert_eq!(waited, [100, 100, 200, 400, 800, 1600]);
    }

    #[test]
    fn only_who_was_late_is_silent() {
        let [a, b, c] = addresses();
        let mut race = Race::new(&[a, b, c]);
        let (start, usual) = (Instant::now(), Duration::from_millis(100));
        race.next(start);
        race.next(start + usual);
        race.next(start + usual + usual / 2);
        let now = start + usual + usual;
        assert_eq!(race.silent(Some(b), now, |_| usual), [a], "c has just been asked, b has won");
        assert_eq!(race.silent(None, now, |_| usual), [a, b]);
    }
}
