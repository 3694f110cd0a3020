//! The second proof: asks the API server by name about keys that a list did not have.
//!
//! Views ask ([`Confirm::ask`]) when a node holds what the cache does not know, informers when a re-list
//! lacks what the cache has. A few tasks ([`confirm`]) GET each key, and only a 404 that names the object
//! counts as a deletion (N5): a truncated list, an error, a proxy's own 404 page delete nothing.
//! Limits: [`WORKERS`] at a time, [`PER_SECOND`] GETs a second, the set's own bound. An error is tried
//! again after a backoff. Nothing is kept over a crash: nodes say again what they hold.

use std::sync::Arc;
use std::time::Duration;

use skerry_common::{Backoff, Key};

use crate::api::{ApiError, KubeApi};
use crate::cache::Cache;
use crate::informer::Observer;
use crate::kinds::Kind;
use crate::metrics::{Metrics, ReasonLabel};
use crate::subs::Subs;
use crate::trim::trim;
use crate::work::{RateLimit, WorkSet};

/// GETs at a time.
const WORKERS: usize = 8;

/// GETs a second: a truncated list with 1,000 keys is proven in 20 s without a storm on the API server.
const PER_SECOND: u32 = 50;

/// GETs at once after a pause.
const BURST: u32 = 50;

const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Short, because a key that cannot be asked for (its kind is not served) must not hold up the others.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The keys to be asked for.
#[derive(Debug)]
pub struct Confirm {
    wanted: WorkSet<(Kind, Key)>,
    rate: RateLimit,
}

impl Default for Confirm {
    fn default() -> Self {
        Self { wanted: WorkSet::default(), rate: RateLimit::new(PER_SECOND, BURST) }
    }
}

impl Confirm {
    /// Asks for a proof of the key's existence or absence.
    pub fn ask(&self, kind: Kind, key: Key) {
        self.wanted.push((kind, key));
    }

    /// Keys that wait for a proof.
    pub fn waiting(&self) -> usize {
        self.wanted.waiting()
    }
}

/// Everything that the confirmer works with.
#[derive(Debug, Clone)]
pub struct Confirmer {
    /// The keys.
    pub confirm: Arc<Confirm>,
    /// Whom to ask.
    pub api: KubeApi,
    /// What takes the answer.
    pub cache: Cache,
    /// Who wait for it.
    pub subs: Arc<Subs>,
    /// Sees the answer as well.
    pub observer: Arc<dyn Observer>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// Works until cancelled.
pub async fn confirm(confirmer: Confirmer) {
    let workers = (0..WORKERS).map(|_| work(&confirmer));
    futures::future::join_all(workers).await;
}

async fn work(this: &Confirmer) {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    loop {
        let (kind, key) = this.confirm.wanted.pop().await;
        this.confirm.rate.acquire().await;
        let result = match prove(this, kind, &key).await {
            Ok(true) => "exists",
            Ok(false) => "gone",
            Err(error) => {
                tracing::warn!(kind = kind.as_str(), %key, error = skerry_common::chain(&error), "cannot confirm");
                this.confirm.ask(kind, key);
                tokio::time::sleep(backoff.jittered()).await;
                "error"
            }
        };
        if result != "error" {
            backoff.reset();
        }
        this.metrics.confirmations.get_or_create(&ReasonLabel { reason: result }).inc();
    }
}

/// Asks for one key now and tells everybody. Whether the object exists (and some node may see it).
pub async fn prove(this: &Confirmer, kind: Kind, key: &Key) -> Result<bool, ApiError> {
    let Some(resource) = kind.resource() else { return Ok(false) };
    let before = this.cache.snapshot(kind, key);
    let object = this.api.get(kind, key).await?;
    this.observer.seen(kind, key, object.as_ref());
    let trimmed = object.and_then(|object| trim(kind, &resource, object));
    let exists = trimmed.is_some();
    let wakes = this.cache.confirmed(kind, key, before, trimmed);
    this.subs.dispatch(&wakes);
    Ok(exists)
}
