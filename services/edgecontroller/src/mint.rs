//! Service account tokens for pods: minted with TokenRequest, bound to the pod, renewed at 80 % of life.
//!
//! The views ask ([`Mint::look`], [`Mint::ask`]); a few tasks ([`run`]) mint and wake the subscription. A
//! ServiceAccountToken is an object of our own: its version is `<issued>.<expires>` in seconds, so what a
//! node holds tells by itself whether it is still fresh, and a restart of the controller mints nothing that
//! a node has. A body is kept only until the node has it durably.
//!
//! Limits: [`WORKERS`] requests at a time, [`PER_SECOND`] a second. A refusal is remembered for
//! [`REFUSED_FOR`]. On a crash unacknowledged tokens are minted again; the old ones expire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use skerry_common::{Backoff, Encoding, Key, NodeName, Version};
use skerry_kubesync::{
    ApiError, Cache, Derive, Inner, Kind, KubeApi, PodToken, RateLimit, Subs, WorkSet, compress, encoding,
};
use skerry_sync::{Lookup, Object};

use crate::metrics::Metrics;

/// TokenRequests at a time.
const WORKERS: usize = 8;

/// TokenRequests a second; each is a signature and a lookup at the API server.
const PER_SECOND: u32 = 50;
const BURST: u32 = 100;

/// A token is renewed after this share of its life, as the kubelet does.
const REFRESH_PERCENT: i64 = 80;

/// How long a refusal (no such service account) is believed.
const REFUSED_FOR: i64 = 60;

const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

type Slot = (NodeName, Key);

/// What is known about a token.
#[derive(Debug)]
pub(crate) enum Token {
    /// What the node holds is good.
    HeldIsFresh,
    /// A fresh one waits to be delivered.
    Minted(Object),
    /// The API server refused it; what the node holds stays.
    Refused,
    /// One has to be minted.
    Wanted,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Mint {
    wanted: WorkSet<Slot>,
    rate: RateLimit,
    nodes: Mutex<Nodes>,
}

/// What is kept of one token.
#[derive(Debug, Default)]
struct State {
    minted: Option<Object>,
    /// Until when a refusal is believed, seconds since the epoch.
    refused: Option<i64>,
    /// When to look again, seconds since the epoch.
    due: Option<i64>,
}

type Nodes = HashMap<NodeName, HashMap<Key, State>>;

impl Mint {
    pub(crate) fn new() -> Self {
        Self { wanted: WorkSet::default(), rate: RateLimit::new(PER_SECOND, BURST), nodes: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known about the token, given what the node holds.
    pub(crate) fn look(&self, node: &NodeName, key: &Key, held: Option<&Version>, now: i64) -> Token {
        let mut nodes = self.lock();
        if let Some(refresh) = held.and_then(refresh_at)
            && now < refresh
        {
            state(&mut nodes, node, key).due = Some(refresh);
            return Token::HeldIsFresh;
        }
        let Some(state) = nodes.get_mut(node).and_then(|tokens| tokens.get_mut(key)) else { return Token::Wanted };
        if let Some(object) = &state.minted {
            if refresh_at(&object.version).is_some_and(|refresh| now < refresh) {
                return Token::Minted(object.clone());
            }
            state.minted = None;
        }
        match state.refused {
            Some(until) if now < until => Token::Refused,
            _ => Token::Wanted,
        }
    }

    /// Asks for a token to be minted.
    pub(crate) fn ask(&self, node: &NodeName, key: &Key) {
        self.wanted.push((node.clone(), key.clone()));
    }

    /// The pod is gone: nothing of its token is kept.
    pub(crate) fn drop_token(&self, node: &NodeName, key: &Key) {
        if let Some(tokens) = self.lock().get_mut(node) {
            tokens.remove(key);
        }
    }

    /// Those that have to be looked at again.
    pub(crate) fn take_due(&self, now: i64) -> Vec<Slot> {
        let mut due = Vec::new();
        for (node, tokens) in self.lock().iter_mut() {
            for (key, state) in tokens.iter_mut().filter(|(_, state)| state.due.is_some_and(|at| at <= now)) {
                state.due = None;
                due.push((node.clone(), key.clone()));
            }
        }
        due
    }

    fn store(&self, node: &NodeName, key: &Key, object: Object) {
        let due = refresh_at(&object.version);
        *state(&mut self.lock(), node, key) = State { minted: Some(object), refused: None, due };
    }

    fn refuse(&self, node: &NodeName, key: &Key, now: i64) {
        let mut nodes = self.lock();
        let state = state(&mut nodes, node, key);
        state.refused = Some(now + REFUSED_FOR);
        state.due = Some(now + REFUSED_FOR + 1);
    }
}

impl Derive for Mint {
    fn lookup(&self, cache: &Inner, node: &NodeName, key: &Key, held: Option<&Version>, now: i64) -> Lookup {
        let same = |version: &Version| {
            Lookup::Present(Object {
                version: version.clone(),
                body: Bytes::new(),
                encoding: encoding(Encoding::Identity),
            })
        };
        let Some(PodToken { finished, .. }) = cache.token(node, key) else {
            if !cache.bound_complete(node) {
                return Lookup::Unknown;
            }
            self.drop_token(node, key);
            return Lookup::Absent;
        };
        match (held, self.look(node, key, held, now)) {
            // A pod that has ended keeps what it has until it is deleted.
            (Some(held), _) if finished => same(held),
            (None, _) if finished => Lookup::Absent,
            (Some(held), Token::HeldIsFresh) => same(held),
            (_, Token::Minted(object)) => Lookup::Present(object),
            (Some(held), Token::Refused) => same(held),
            (None, Token::Refused) => Lookup::Absent,
            (_, Token::Wanted | Token::HeldIsFresh) => {
                self.ask(node, key);
                Lookup::Unknown
            }
        }
    }

    /// The body is not needed any more.
    fn acked(&self, node: &NodeName, key: &Key) {
        if let Some(state) = self.lock().get_mut(node).and_then(|tokens| tokens.get_mut(key)) {
            state.minted = None;
        }
    }

    fn forget(&self, node: &NodeName) {
        self.lock().remove(node);
    }
}

fn state<'a>(nodes: &'a mut Nodes, node: &NodeName, key: &Key) -> &'a mut State {
    nodes.entry(node.clone()).or_default().entry(key.clone()).or_default()
}

/// When the token of this version has to be renewed. `None` for a version that is not ours.
fn refresh_at(version: &Version) -> Option<i64> {
    let (issued, expires) = version.as_str().split_once('.')?;
    let (issued, expires): (i64, i64) = (issued.parse().ok()?, expires.parse().ok()?);
    let life = expires.checked_sub(issued).filter(|life| *life > 0)?;
    issued.checked_add(life.checked_mul(REFRESH_PERCENT)? / 100)
}

/// Everything that the minter works with.
#[derive(Debug, Clone)]
pub(crate) struct Minter {
    pub(crate) mint: Arc<Mint>,
    pub(crate) api: KubeApi,
    pub(crate) cache: Cache,
    pub(crate) subs: Arc<Subs>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Works until cancelled.
pub(crate) async fn run(minter: Minter) {
    let workers = (0..WORKERS).map(|_| work(&minter));
    futures::future::join_all(workers).await;
}

async fn work(this: &Minter) {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    loop {
        let slot = this.mint.wanted.pop().await;
        let (node, key) = &slot;
        let token = this.cache.read().token(node, key);
        // Nobody subscribes any more, or the pod is gone: whoever comes next asks again.
        let Some(token) = token.filter(|_| this.subs.contains(node, Kind::ServiceAccountToken)) else { continue };
        this.mint.rate.acquire().await;
        let now = Timestamp::now().as_second();
        match mint(&this.api, &token, now).await {
            Ok(object) => {
                backoff.reset();
                this.metrics.tokens_minted.inc();
                this.mint.store(node, key, object);
                this.subs.wake(node, Kind::ServiceAccountToken, key);
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(%node, %key, error = skerry_common::chain(&error), "cannot mint a token");
                this.mint.ask(node, key);
                tokio::time::sleep(backoff.jittered()).await;
            }
            Err(error) => {
                tracing::warn!(%node, %key, error = skerry_common::chain(&error), "token refused");
                this.metrics.refuse("token_request");
                this.mint.refuse(node, key, now);
                this.subs.wake(node, Kind::ServiceAccountToken, key);
            }
        }
    }
}

async fn mint(api: &KubeApi, token: &PodToken, now: i64) -> Result<Object, ApiError> {
    let PodToken { spec, pod, uid, .. } = token;
    let audiences: Vec<&str> = if spec.audience.is_empty() { Vec::new() } else { vec![&spec.audience] };
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": spec.expiration_seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": &**pod, "uid": &**uid},
        }
    });
    let account = Key::new(spec.key.namespace.clone(), spec.service_account.clone());
    let answer = api.request_token(&account, request).await?;
    let unusable = || ApiError::Refused { code: 0, message: "the answer has no token".to_owned() };
    let status = answer.get("status").ok_or_else(unusable)?;
    let token = status.get("token").and_then(Value::as_str).filter(|t| !t.is_empty()).ok_or_else(unusable)?;
    let expiration = status.get("expirationTimestamp").and_then(Value::as_str).ok_or_else(unusable)?;
    let expires: Timestamp = expiration.parse().map_err(|_| unusable())?;
    let body = json!({
        "pod": &**pod,
        "podUid": &**uid,
        "serviceAccount": &*spec.service_account,
        "audience": &*spec.audience,
        "expirationSeconds": spec.expiration_seconds,
        "token": token,
        "expirationTimestamp": expiration,
    });
    let (body, packed) = compress(serde_json::to_vec(&body).unwrap_or_default());
    let version = Version::new(format!("{now}.{}", expires.as_second()));
    Ok(Object { version, body, encoding: encoding(packed) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_token_is_renewed_at_four_fifths_of_its_life() {
        assert_eq!(refresh_at(&Version::new("1000.2000")), Some(1800));
        for nonsense in ["", "1", "2000.1000", "a.b", "1.2.3", "-9223372036854775808.9223372036854775807"] {
            assert_eq!(refresh_at(&Version::new(nonsense)), None, "{nonsense}");
        }
    }

    #[test]
    fn a_node_that_holds_a_fresh_token_is_given_no_other() {
        let mint = Mint::new();
        let (node, key) = (NodeName::parse("edge-1").ok(), Key::new("ns", "web.1"));
        let Some(node) = node else { return };
        let held = Version::new("1000.2000");
        assert!(matches!(mint.look(&node, &key, Some(&held), 1799), Token::HeldIsFresh));
        assert!(mint.take_due(1799).is_empty());
        assert_eq!(mint.take_due(1800).len(), 1);
        assert!(matches!(mint.look(&node, &key, Some(&held), 1800), Token::Wanted));
        let object = Object {
            version: Version::new("1800.2800"),
            body: Bytes::new(),
            encoding: skerry_sync::Encoding::Identity,
        };
        mint.store(&node, &key, object);
        assert!(matches!(mint.look(&node, &key, Some(&held), 1801), Token::Minted(_)));
        mint.acked(&node, &key);
        let held = Version::new("1800.2800");
        assert!(matches!(mint.look(&node, &key, Some(&held), 1801), Token::HeldIsFresh));
        assert!(mint.lock()[&node][&key].minted.is_none());
    }

    #[test]
    fn a_refusal_is_believed_for_a_while() {
        let mint = Mint::new();
        let Ok(node) = NodeName::parse("edge-1") else { return };
        let key = Key::new("ns", "web.1");
        mint.refuse(&node, &key, 100);
        assert!(matches!(mint.look(&node, &key, None, 101), Token::Refused));
        assert!(matches!(mint.look(&node, &key, None, 161), Token::Wanted));
        assert_eq!(mint.take_due(161).len(), 1);
    }
}
