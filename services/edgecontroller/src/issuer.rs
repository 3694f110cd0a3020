//! `Issuer`: certificates for machines that join, and for nodes that renew.
//!
//! Called by cloudhub over gRPC. The subject is decided here, from the name that the token or the caller's
//! certificate allows; the request's key is all that is taken from it. Every answer is an audit line.
//!
//! Invariants: the key is bound to the name before the certificate leaves; a token's use is counted, with a
//! precondition, before the certificate leaves; a machine whose answer was lost gets it again without a
//! second use. Refusals carry a stable code in the metadata [`CODE_HEADER`].
//! Limits: [`PER_SECOND`] joins and renewals a second; who waits longer than [`MAX_WAIT`] is told to come
//! back. On a crash between the steps at most a use is lost; nothing is half-joined for more than a minute.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use skerry_common::NodeName;
use skerry_identity::{Ca, IdentityError, IssuedCertificate, RevocationList, Token, TokenError, TokenRecord};
use skerry_kubesync::{ApiError, HUB_SERVICE, KubeApi, RateLimit, cut};
use skerry_proto::identity::v1::issuer_server::Issuer;
use skerry_proto::identity::v1::{
    Certificate, IssueForJoinRequest, IssueForJoinResponse, IssueForRenewalRequest, IssueForRenewalResponse,
};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};

use crate::bindings::{self, BindError};
use crate::metrics::{Issuance, Metrics};
use crate::revocations;
use crate::tokens;

/// Metadata of a refusal: its stable code.
pub const CODE_HEADER: &str = "skerry-code";

/// Joins and renewals a second; each costs three to five calls of the API.
const PER_SECOND: u32 = 50;
const BURST: u32 = 100;

/// Who would wait longer is refused for now.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Attempts against others who join with the same token.
const ATTEMPTS: usize = 32;

/// Why no certificate was issued.
#[derive(Debug)]
pub(crate) enum Refusal {
    Token(TokenError),
    Name(String),
    Taken(&'static str),
    Csr(IdentityError),
    KeyRevoked,
    NotItsKey,
    TooManyKeys,
    Busy,
    Api(ApiError),
    Internal(IdentityError),
}

impl Refusal {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            // Whoever does not know the secret must not learn whether the id exists.
            Self::Token(TokenError::WrongSecret | TokenError::Unknown) => "token_unknown",
            Self::Token(error) => error.code(),
            Self::Name(_) => "node_name_invalid",
            Self::Taken(_) => "node_name_taken",
            Self::Csr(_) => "csr_refused",
            Self::KeyRevoked => "key_revoked",
            Self::NotItsKey => "key_unknown",
            Self::TooManyKeys => "too_many_keys",
            Self::Busy => "busy",
            Self::Api(_) => "api_unavailable",
            Self::Internal(_) => "internal",
        }
    }

    fn to_status(&self) -> Status {
        let (code, text) = match self {
            Self::Token(TokenError::WrongSecret | TokenError::Unknown) => {
                (Code::Unauthenticated, "the token is not known, or not whole".to_owned())
            }
            Self::Token(error) => (Code::PermissionDenied, error.to_string()),
            Self::Name(error) => (Code::InvalidArgument, error.clone()),
            Self::Taken(reason) => (Code::AlreadyExists, (*reason).to_owned()),
            Self::Csr(error) => (Code::InvalidArgument, skerry_common::chain(error)),
            Self::KeyRevoked => (Code::PermissionDenied, "the key has been revoked".to_owned()),
            Self::NotItsKey => (Code::PermissionDenied, "the key is not one of the node's".to_owned()),
            Self::TooManyKeys => {
                (Code::ResourceExhausted, "the node has too many valid certificates; try again tomorrow".to_owned())
            }
            Self::Busy => (Code::ResourceExhausted, "too many joins at once; try again in a minute".to_owned()),
            Self::Api(_) => (Code::Unavailable, "the Kubernetes API cannot serve now".to_owned()),
            Self::Internal(_) => (Code::Internal, "the certificate could not be made".to_owned()),
        };
        let mut status = Status::new(code, text);
        status.metadata_mut().insert(CODE_HEADER, MetadataValue::from_static(self.code()));
        status
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<BindError> for Refusal {
    fn from(error: BindError) -> Self {
        match error {
            BindError::Taken(reason) => Self::Taken(reason),
            BindError::NotItsKey => Self::NotItsKey,
            BindError::TooMany => Self::TooManyKeys,
            BindError::Api(error) => Self::Api(error),
        }
    }
}

impl From<IdentityError> for Refusal {
    fn from(error: IdentityError) -> Self {
        if matches!(error, IdentityError::Csr(_)) { Self::Csr(error) } else { Self::Internal(error) }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct IssuerService {
    pub(crate) api: KubeApi,
    pub(crate) ca: Arc<Ca>,
    pub(crate) lifetime: Duration,
    pub(crate) revocations: RevocationList,
    pub(crate) rate: Arc<RateLimit>,
    pub(crate) metrics: Arc<Metrics>,
}

/// The rate of an issuer.
pub(crate) fn rate() -> RateLimit {
    RateLimit::new(PER_SECOND, BURST)
}

#[tonic::async_trait]
impl Issuer for IssuerService {
    async fn issue_for_join(
        &self,
        request: Request<IssueForJoinRequest>,
    ) -> Result<Response<IssueForJoinResponse>, Status> {
        skerry_rpc::require_service(&request, &[HUB_SERVICE])?;
        let request = request.into_inner();
        let token_id = Token::parse_proof(&request.token).map(|(id, _)| id.to_owned()).unwrap_or_default();
        let result = self.join(&request).await;
        self.audit(&request.node_name, &token_id, &request.remote, result.as_ref().map(|(c, _)| c));
        let (issued, labels) = result.map_err(|refusal| refusal.to_status())?;
        Ok(Response::new(IssueForJoinResponse { certificate: Some(self.certificate(&issued)), labels }))
    }

    async fn issue_for_renewal(
        &self,
        request: Request<IssueForRenewalRequest>,
    ) -> Result<Response<IssueForRenewalResponse>, Status> {
        skerry_rpc::require_service(&request, &[HUB_SERVICE])?;
        let request = request.into_inner();
        let result = self.renew(&request).await;
        self.audit(&request.node_name, "", "", result.as_ref());
        let issued = result.map_err(|refusal| refusal.to_status())?;
        Ok(Response::new(IssueForRenewalResponse { certificate: Some(self.certificate(&issued)) }))
    }
}

impl IssuerService {
    pub(crate) async fn join(
        &self,
        request: &IssueForJoinRequest,
    ) -> Result<(IssuedCertificate, std::collections::HashMap<String, String>), Refusal> {
        let node = NodeName::parse(&request.node_name).map_err(|e| Refusal::Name(e.to_string()))?;
        let (id, secret) = Token::parse_proof(&request.token).map_err(Refusal::Token)?;
        self.turn().await?;
        let now = Timestamp::now();
        let found = tokens::load(&self.api, id).await?.ok_or(Refusal::Token(TokenError::Unknown))?;
        // The secret first: without it nothing else is looked at, and nothing about the token is told.
        check(&found.record, secret, now, &node)?;
        let issued = self.ca.issue_node(&request.csr_der, &node, self.lifetime, now)?;
        let key = &issued.fingerprint;
        if self.revocations.is_key_revoked(key) {
            return Err(Refusal::KeyRevoked);
        }
        let again = found.joined.get(node.as_str()) == Some(key);
        if !again && found.record.uses_left == 0 {
            return Err(Refusal::Token(TokenError::UsedUp));
        }
        let named = found.record.node.as_ref() == Some(&node);
        let bound = bindings::join(&self.api, &node, key, issued.not_after, named, now).await?;
        match self.spend(found, id, secret, &node, key, now).await {
            Ok(labels) => {
                let replaced: BTreeMap<String, i64> =
                    bound.replaced.iter().map(|key| (key.clone(), issued.not_after.as_second())).collect();
                revocations::add(&self.api, &node, &replaced).await?;
                Ok((issued, labels))
            }
            Err(refusal) => {
                bindings::release(&self.api, &node, key, &bound).await;
                Err(refusal)
            }
        }
    }

    /// Counts one use. The first attempt works with what was read already.
    async fn spend(
        &self,
        found: tokens::Stored,
        id: &str,
        secret: &str,
        node: &NodeName,
        key: &str,
        now: Timestamp,
    ) -> Result<std::collections::HashMap<String, String>, Refusal> {
        let mut stored = found;
        for _ in 0..ATTEMPTS {
            let labels = stored.record.labels.clone().into_iter().collect();
            if stored.joined.get(node.as_str()).map(String::as_str) == Some(key) {
                check(&stored.record, secret, now, node)?;
                return Ok(labels);
            }
            stored.record.spend(secret, now, node).map_err(Refusal::Token)?;
            stored.joined.insert(node.to_string(), key.to_owned());
            match tokens::store(&self.api, stored).await {
                Ok(()) => return Ok(labels),
                Err(ApiError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
            stored = tokens::load(&self.api, id).await?.ok_or(Refusal::Token(TokenError::Unknown))?;
        }
        Err(Refusal::Busy)
    }

    pub(crate) async fn renew(&self, request: &IssueForRenewalRequest) -> Result<IssuedCertificate, Refusal> {
        let node = NodeName::parse(&request.node_name).map_err(|e| Refusal::Name(e.to_string()))?;
        let used = request.key_fingerprint.as_str();
        if self.revocations.is_key_revoked(used) {
            return Err(Refusal::KeyRevoked);
        }
        self.turn().await?;
        let now = Timestamp::now();
        let issued = self.ca.issue_node(&request.csr_der, &node, self.lifetime, now)?;
        if self.revocations.is_key_revoked(&issued.fingerprint) {
            return Err(Refusal::KeyRevoked);
        }
        bindings::renew(&self.api, &node, used, &issued.fingerprint, issued.not_after, now).await?;
        Ok(issued)
    }

    async fn turn(&self) -> Result<(), Refusal> {
        tokio::time::timeout(MAX_WAIT, self.rate.acquire()).await.map_err(|_| Refusal::Busy)
    }

    fn certificate(&self, issued: &IssuedCertificate) -> Certificate {
        let ca_pem = self.ca.certificate_pem();
        Certificate {
            chain_pem: format!("{}{ca_pem}", issued.pem()),
            ca_pem,
            trust_domain: self.ca.trust_domain().to_string(),
        }
    }

    fn audit(&self, node: &str, token_id: &str, remote: &str, result: Result<&IssuedCertificate, &Refusal>) {
        // What is not a name yet is shown short and escaped.
        let node = format!("{:?}", cut(node, 253));
        match result {
            Err(Refusal::Api(error)) => {
                tracing::warn!(error = skerry_common::chain(error), "the API cannot serve a join or renewal");
            }
            Err(Refusal::Internal(error)) => {
                tracing::error!(error = skerry_common::chain(error), "a certificate could not be made");
            }
            _ => {}
        }
        let issuance = Issuance {
            node: node.trim_matches('"'),
            token_id,
            remote,
            fingerprint: result.map_or("", |issued| issued.fingerprint.as_str()),
            refused: result.err().map(Refusal::code),
        };
        skerry_telemetry::emit(issuance, &self.metrics);
    }
}

/// Everything about a token but its uses.
fn check(record: &TokenRecord, secret: &str, now: Timestamp, node: &NodeName) -> Result<(), Refusal> {
    let unused = TokenRecord { uses_left: record.uses_left.max(1), ..record.clone() };
    unused.check(secret, now, node).map_err(Refusal::Token)
}
