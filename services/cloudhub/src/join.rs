//! Joining and renewing, as nodes see it.
//!
//! The hub holds no key of the CA: it passes the request on to the issuer, together with what only it
//! knows, which is who calls. Joining is the one call that needs no certificate, so an address that
//! fails [`MAX_FAILURES`] times within a minute is refused until the minute is over.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use skerry_proto::identity::v1 as pb;
use skerry_proto::identity::v1::identity_server::Identity;
use skerry_proto::identity::v1::issuer_client::IssuerClient;
use tonic::{Code, Request, Response, Status};

use crate::metrics::Metrics;

/// Failed joins of one address within [`WINDOW`].
const MAX_FAILURES: u32 = 5;

/// See [`MAX_FAILURES`].
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered; beyond it, joins of further addresses wait for the next minute.
const MAX_ADDRESSES: usize = 4096;

/// How long the issuer may take.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(15);

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    issuer: skerry_rpc::Channel,
    failures: Arc<Failures>,
    metrics: Metrics,
}

impl Join {
    pub(crate) fn new(issuer: skerry_rpc::Channel, metrics: Metrics) -> Self {
        Self { issuer, failures: Arc::default(), metrics }
    }

    fn client(&self) -> IssuerClient<skerry_rpc::Channel> {
        IssuerClient::new(self.issuer.clone())
    }
}

#[tonic::async_trait]
impl Identity for Join {
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        let address = skerry_rpc::peer(&request)?.remote.map(|remote| remote.ip());
        if let Some(address) = address
            && !self.failures.may_try(address, Instant::now())
        {
            self.metrics.joins_refused.inc();
            return Err(Status::resource_exhausted("too many failed joins from this address; try again in a minute"));
        }
        let request = request.into_inner();
        let issue = pb::IssueForJoinRequest {
            token: request.token,
            node_name: request.node_name,
            csr_der: request.csr_der,
            remote: address.map(|a| a.to_string()).unwrap_or_default(),
        };
        match self.client().issue_for_join(skerry_rpc::deadline(issue, ISSUE_TIMEOUT)).await {
            Ok(response) => {
                self.metrics.joins.inc();
                let response = response.into_inner();
                Ok(Response::new(pb::JoinResponse { certificate: response.certificate, labels: response.labels }))
            }
            Err(status) => {
                self.metrics.joins_refused.inc();
                if let Some(address) = address
                    && guesses(status.code())
                {
                    self.failures.failed(address, Instant::now());
                }
                Err(public(status))
            }
        }
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        let node = skerry_rpc::require_node(&request)?;
        let key_fingerprint = skerry_rpc::peer(&request)?.key_fingerprint().unwrap_or_default().to_owned();
        let issue = pb::IssueForRenewalRequest {
            node_name: node.to_string(),
            key_fingerprint,
            csr_der: request.into_inner().csr_der,
        };
        let response =
            self.client().issue_for_renewal(skerry_rpc::deadline(issue, ISSUE_TIMEOUT)).await.map_err(public)?;
        Ok(Response::new(pb::RenewResponse { certificate: response.into_inner().certificate }))
    }
}

/// Whether the refusal is one that a guesser of tokens sees.
fn guesses(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument | Code::NotFound)
}

/// What the caller may know: refusals of the issuer word for word, and of its failures only that it
/// cannot be reached.
fn public(status: Status) -> Status {
    match status.code() {
        Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::ResourceExhausted => Status::new(status.code(), status.message()),
        _ => {
            tracing::warn!(code = ?status.code(), message = status.message(), "the issuer failed");
            Status::unavailable("certificates cannot be issued now; try again later")
        }
    }
}

/// Failed joins by address.
#[derive(Debug, Default)]
struct Failures(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl Failures {
    fn may_try(&self, address: IpAddr, now: Instant) -> bool {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match failures.get(&address) {
            Some((since, count)) => *count < MAX_FAILURES || now.duration_since(*since) >= WINDOW,
            None if failures.len() < MAX_ADDRESSES => true,
            None => {
                failures.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
                failures.len() < MAX_ADDRESSES
            }
        }
    }

    fn failed(&self, address: IpAddr, now: Instant) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = failures.entry(address).or_insert((now, 0));
        if now.duration_since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_guesses_is_refused_for_a_minute() {
        let failures = Failures::default();
        let (guesser, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let start = Instant::now();
        for _ in 0..MAX_FAILURES {
            assert!(failures.may_try(guesser, start));
            failures.failed(guesser, start);
        }
        assert!(!failures.may_try(guesser, start));
        assert!(failures.may_try(other, start));
        assert!(failures.may_try(guesser, start + WINDOW));
    }

    #[test]
    fn addresses_are_bounded() {
        let failures = Failures::default();
        let start = Instant::now();
        for n in 0..MAX_ADDRESSES as u32 {
            failures.failed(IpAddr::from(n.to_be_bytes()), start);
        }
        let fresh = IpAddr::from([255, 0, 0, 1]);
        assert!(!failures.may_try(fresh, start));
        assert!(failures.may_try(fresh, start + WINDOW));
    }
}
