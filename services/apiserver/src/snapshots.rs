//! Pages of a list: the rest of a snapshot is kept until the client asks for it.
//!
//! Called by the list verb. Invariant: all pages of one list are one snapshot at one version; a page that
//! is no longer kept is a 410, and the client lists again.
//! Limits: [`MAX_SNAPSHOTS`], [`LIFETIME`]. A snapshot holds references, not copies. Lost on a crash: 410.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use skerry_apimachinery::{ApiError, Entry};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lists in pages that are under way at once; the oldest is dropped.
const MAX_SNAPSHOTS: usize = 128;
/// As long as etcd keeps old versions in a usual cluster.
const LIFETIME: Duration = Duration::from_secs(300);

#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) entries: Arc<Vec<Arc<Entry>>>,
    pub(crate) version: u64,
    /// What was asked for: a token is only good for the same question.
    pub(crate) question: String,
}

struct Slot {
    id: String,
    made: Instant,
    kept: Kept,
}

#[derive(Default)]
pub(crate) struct Snapshots(Mutex<VecDeque<Slot>>);

impl Snapshots {
    /// Keeps a snapshot and answers the token for the page from `offset` on.
    pub(crate) fn keep(&self, kept: Kept, offset: usize) -> String {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let token = Self::token(&id, offset);
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|slot| slot.made.elapsed() < LIFETIME);
        while slots.len() >= MAX_SNAPSHOTS {
            slots.pop_front();
        }
        slots.push_back(Slot { id, made: Instant::now(), kept });
        token
    }

    /// The token for a later page of the same snapshot.
    pub(crate) fn next(token: &str, offset: usize) -> String {
        Self::parse(token).map_or_else(String::new, |(id, _)| Self::token(&id, offset))
    }

    /// Forgets the snapshot of a token: its last page was served. Who asks for that page again lists again.
    pub(crate) fn done(&self, token: &str) {
        if let Some((id, _)) = Self::parse(token) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|slot| slot.id != id);
        }
    }

    /// The snapshot and the offset of a token.
    pub(crate) fn get(&self, token: &str, question: &str) -> Result<(Kept, usize), ApiError> {
        let expired = || {
            ApiError::Expired("The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.".into())
        };
        let (id, offset) =
            Self::parse(token).ok_or_else(|| ApiError::BadRequest("continue key is not valid".into()))?;
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.iter().find(|slot| slot.id == id && slot.made.elapsed() < LIFETIME).ok_or_else(expired)?;
        if slot.kept.question != question {
            return Err(ApiError::BadRequest("continue key belongs to another list".into()));
        }
        Ok((slot.kept.clone(), offset))
    }

    fn token(id: &str, offset: usize) -> String {
        BASE64.encode(format!("{id}:{offset}"))
    }

    fn parse(token: &str) -> Option<(String, usize)> {
        let text = String::from_utf8(BASE64.decode(token).ok()?).ok()?;
        let (id, offset) = text.split_once(':')?;
        Some((id.to_owned(), offset.parse().ok()?))
    }
}
