//! Users that a server has turned away are not shown to it again at once.
//!
//! Servers lock an account after a few wrong passwords, and a mapper that is turned away tries again for ever. So
//! the same secret is shown at most once in [`PAUSE`]; another one, such as a Secret that was put right, at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a secret that was turned away rests. Below what accounts are usually locked for.
const PAUSE: Duration = Duration::from_secs(60);
/// Sessions that are remembered; a node has fewer servers.
const MAX_SESSIONS: usize = 1000;

/// The digest of a secret.
pub(crate) type Proof = [u8; 32];

/// What was turned away lately, by the name of the session.
#[derive(Debug, Default)]
pub(crate) struct Denied {
    inner: Mutex<BTreeMap<String, (Proof, Instant, String)>>,
}

impl Denied {
    /// What the server said of this secret lately.
    pub(crate) fn lately(&self, session: &str, proof: &Proof, now: Instant) -> Option<String> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, at, words) = inner.get(session)?;
        (known == proof && now.saturating_duration_since(*at) < PAUSE).then(|| words.clone())
    }

    /// The server turned this secret away now.
    pub(crate) fn note(&self, session: &str, proof: Proof, now: Instant, words: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.retain(|_, (_, at, _)| now.saturating_duration_since(*at) < PAUSE);
        if inner.len() < MAX_SESSIONS {
            inner.insert(session.to_owned(), (proof, now, words.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_secret_rests_and_another_one_does_not() {
        let (denied, now) = (Denied::default(), Instant::now());
        let later = |seconds: u64| now + Duration::from_secs(seconds);
        denied.note("a", [1; 32], now, "no");
        assert_eq!(denied.lately("a", &[1; 32], later(59)), Some("no".to_owned()));
        assert_eq!(denied.lately("a", &[1; 32], later(60)), None);
        assert_eq!(denied.lately("a", &[2; 32], now), None, "it was put right");
        assert_eq!(denied.lately("b", &[1; 32], now), None, "another server may know it");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten() {
        let (denied, now) = (Denied::default(), Instant::now());
        for number in 0..=MAX_SESSIONS {
            denied.note(&number.to_string(), [1; 32], now, "no");
        }
        assert_eq!(denied.inner.lock().unwrap().len(), MAX_SESSIONS);
        denied.note("late", [1; 32], now + PAUSE, "no");
        assert_eq!(denied.inner.lock().unwrap().len(), 1);
    }
}
