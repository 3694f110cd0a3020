//! Join tokens: what lets a machine become a node, once.
//!
//! A token is `<id>.<secret>.<hash of the CA's key>`. The operator carries it to the machine; the hash
//! pins the CA before anything is sent ([`crate::pin`]), and only `<id>.<secret>` goes over the wire.
//! The cloud stores a [`TokenRecord`] with the SHA-256 of the secret: the secret is 256 random bits, so
//! a plain hash is as good as a slow one. Comparison takes constant time. Checking is pure; the caller
//! stores the record that [`TokenRecord::spend`] changes, with a precondition, before it issues.
//!
//! A token fails closed: an unreadable record, a clock before its creation, or any doubt refuses.

use std::{collections::BTreeMap, fmt, time::Duration};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use skerry_common::NodeName;

use crate::{IdentityError, cert::sha256_hex};

/// Life of a token unless the operator chose otherwise: one hour.
pub const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// Random bytes of the public id: it ends in the name of a Kubernetes object.
const ID_BYTES: usize = 5;

/// Random bytes of the secret.
const SECRET_BYTES: usize = 32;

/// A token may be this much younger than the clock of the replica that checks it.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Longest text that is looked at; a real one has about 120 characters.
const MAX_TEXT: usize = 256;

/// A join token with its secret. `Debug` hides the secret; [`Token::reveal`] shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: String,
    ca_hash: String,
}

/// What a new token is good for.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// How long it is valid.
    pub lifetime: Duration,
    /// How many machines may join with it.
    pub uses: u32,
    /// Labels that its nodes get.
    pub labels: BTreeMap<String, String>,
    /// The only node that may join with it; any when `None`.
    pub node: Option<NodeName>,
}

impl Default for TokenRequest {
    /// One use within the hour, any node, no labels.
    fn default() -> Self {
        Self { lifetime: DEFAULT_TOKEN_LIFETIME, uses: 1, labels: BTreeMap::new(), node: None }
    }
}

/// What the cloud stores about a token: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRecord {
    /// Public id; names the token in lists and logs.
    pub id: String,
    /// SHA-256 of the secret, in hex.
    pub secret_hash: String,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is refused.
    pub expires: Timestamp,
    /// How many more machines may join with it.
    pub uses_left: u32,
    /// Labels that its nodes get.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The only node that may join with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Whether it was revoked.
    #[serde(default)]
    pub revoked: bool,
}

/// Why a token was refused. Whoever does not know the secret learns only [`TokenError::Unknown`] or
/// [`TokenError::WrongSecret`]; show both as the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is not a token, or there is no record with its id. Make a new token.
    #[error("the token is not known")]
    Unknown,
    /// The secret does not match. Copy the whole token.
    #[error("the token's secret is wrong")]
    WrongSecret,
    /// It was revoked. Make a new token.
    #[error("the token has been revoked")]
    Revoked,
    /// Its time is over. Make a new token.
    #[error("the token has expired")]
    Expired,
    /// It was made later than this machine's clock reads. Check the clock.
    #[error("the token is not valid yet: check the clocks")]
    NotYetValid,
    /// As many machines have joined with it as it allows. Make a new token.
    #[error("the token has been used up")]
    UsedUp,
    /// It was made for another node. Join with that node's name, or make a new token.
    #[error("the token is for another node")]
    OtherNode,
}

impl TokenError {
    /// A short stable name for metrics and machine-readable output.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unknown => "token_unknown",
            Self::WrongSecret => "token_wrong_secret",
            Self::Revoked => "token_revoked",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::UsedUp => "token_used_up",
            Self::OtherNode => "token_other_node",
        }
    }
}

impl Token {
    /// Makes a token for the CA with this key hash ([`crate::Ca::spki_hash`]), and the record to store.
    ///
    /// # Errors
    /// [`IdentityError::Pin`] for a hash that is none, [`IdentityError::Crypto`] without randomness.
    pub fn generate(
        ca_hash: &str,
        request: TokenRequest,
        now: Timestamp,
    ) -> Result<(Self, TokenRecord), IdentityError> {
        if !is_sha256_hex(ca_hash) {
            return Err(IdentityError::Pin);
        }
        let token = Self {
            id: hex::encode(random::<ID_BYTES>()?),
            secret: URL_SAFE_NO_PAD.encode(random::<SECRET_BYTES>()?),
            ca_hash: ca_hash.into(),
        };
        let lifetime = SignedDuration::try_from(request.lifetime).unwrap_or(SignedDuration::MAX);
        let record = TokenRecord {
            id: token.id.clone(),
            secret_hash: sha256_hex(token.secret.as_bytes()),
            created: now,
            expires: now.saturating_add(lifetime).unwrap_or(Timestamp::MAX),
            uses_left: request.uses,
            labels: request.labels,
            node: request.node,
            revoked: false,
        };
        Ok((token, record))
    }

    /// Reads a token from its full text, as the operator gives it to `skerry join`.
    ///
    /// # Errors
    /// [`TokenError::Unknown`] when the text is not a token.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let (proof, ca_hash) = text.trim().rsplit_once('.').ok_or(TokenError::Unknown)?;
        let (id, secret) = split_proof(proof)?;
        if !is_sha256_hex(ca_hash) {
            return Err(TokenError::Unknown);
        }
        Ok(Self { id: id.into(), secret: secret.into(), ca_hash: ca_hash.into() })
    }

    /// Splits what a machine sends, `<id>.<secret>`; a full token is accepted too.
    ///
    /// # Errors
    /// [`TokenError::Unknown`] when the text is neither.
    pub fn parse_proof(text: &str) -> Result<(&str, &str), TokenError> {
        match text.rsplit_once('.') {
            Some((proof, hash)) if is_sha256_hex(hash) && proof.contains('.') => split_proof(proof),
            _ => split_proof(text),
        }
    }

    /// The public id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// SHA-256 of the CA's key, in hex, to pin the CA by.
    pub fn ca_hash(&self) -> &str {
        &self.ca_hash
    }

    /// What goes over the wire: `<id>.<secret>`. A secret.
    pub fn proof(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The full text for the operator. A secret: print it once, never log it.
    pub fn reveal(&self) -> String {
        format!("{}.{}.{}", self.id, self.secret, self.ca_hash)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

impl TokenRecord {
    /// Checks a secret for a node that wants to join now. The secret comes first, so that nothing about
    /// a token's state is told to whoever does not hold it.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn check(&self, secret: &str, now: Timestamp, node: &NodeName) -> Result<(), TokenError> {
        let given = sha256_hex(secret.as_bytes());
        verify_slices_are_equal(given.as_bytes(), self.secret_hash.as_bytes()).map_err(|_| TokenError::WrongSecret)?;
        if self.revoked {
            return Err(TokenError::Revoked);
        }
        if now >= self.expires {
            return Err(TokenError::Expired);
        }
        if now.saturating_add(SKEW).unwrap_or(now) < self.created {
            return Err(TokenError::NotYetValid);
        }
        if self.uses_left == 0 {
            return Err(TokenError::UsedUp);
        }
        match &self.node {
            Some(only) if only != node => Err(TokenError::OtherNode),
            _ => Ok(()),
        }
    }

    /// Checks as [`TokenRecord::check`] and counts one use. Store the changed record, with a
    /// precondition on the old one, before issuing.
    ///
    /// # Errors
    /// Why the token is refused; the record is then unchanged.
    pub fn spend(&mut self, secret: &str, now: Timestamp, node: &NodeName) -> Result<(), TokenError> {
        self.check(secret, now, node)?;
        self.uses_left = self.uses_left.saturating_sub(1);
        Ok(())
    }
}

fn split_proof(text: &str) -> Result<(&str, &str), TokenError> {
    if text.len() > MAX_TEXT {
        return Err(TokenError::Unknown);
    }
    let (id, secret) = text.split_once('.').ok_or(TokenError::Unknown)?;
    let id_ok = id.len() == 2 * ID_BYTES && id.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
    let secret_ok = (1..=MAX_TEXT).contains(&secret.len())
        && secret.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if id_ok && secret_ok { Ok((id, secret)) } else { Err(TokenError::Unknown) }
}

/// Whether the text is 64 lower-case hexadecimal digits.
pub(crate) fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}

fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0_u8; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| IdentityError::crypto(std::io::Error::other("no randomness")))?;
    Ok(bytes)
}
