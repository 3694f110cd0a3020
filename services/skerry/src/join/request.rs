//! The one exchange of a join: the token for a certificate.
//!
//! The hub is trusted only when its CA has the key that the token names; only then is the token sent.
//! What comes back is checked as if it came from a stranger: it must be for our key and our name, from
//! that same CA, and valid now.

use std::collections::BTreeMap;
use std::time::Duration;

use skerry_common::{NodeName, exit};
use skerry_identity::{Clock, Credentials, Identity, NodeKey, Token, TrustDomain, pin};
use skerry_proto::identity::v1 as pb;
use skerry_proto::identity::v1::identity_client::IdentityClient;
use tonic::{Code, Request, Status};

use crate::dial;
use crate::failure::{Failure, Result};

/// The hub asks another service, which asks the Kubernetes API.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most labels that a token may give.
const MAX_LABELS: usize = 64;

/// What a hub granted.
#[derive(Debug)]
pub(super) struct Granted {
    /// Checked: for our key and name, from the pinned CA.
    pub(super) credentials: Credentials,
    /// The trust domain of the system.
    pub(super) trust_domain: String,
    /// Labels that the token gives to its nodes.
    pub(super) labels: BTreeMap<String, String>,
}

/// Gets a certificate for the node.
pub(super) async fn certificate(hubs: &[String], token: &Token, node: &NodeName) -> Result<Granted> {
    let unusable = |error: &skerry_identity::IdentityError| Failure::new("cannot make a key").because(error);
    let key = NodeKey::generate().map_err(|error| unusable(&error))?;
    let csr_der = key.csr().map_err(|error| unusable(&error))?;
    let tls = pin::client_config(token.ca_hash()).map_err(|error| unusable(&error))?;
    let connection = dial::hub(hubs, tls).await?;
    let request = pb::JoinRequest { token: token.proof(), node_name: node.to_string(), csr_der };
    let answer = IdentityClient::new(connection.channel())
        .join(skerry_rpc::deadline(Request::new(request), PATIENCE))
        .await
        .map_err(|status| refused(&status, node))?
        .into_inner();
    check(answer, token, node, &key)
}

fn check(answer: pb::JoinResponse, token: &Token, node: &NodeName, key: &NodeKey) -> Result<Granted> {
    let bad = |why: &str| {
        Failure::new("the hub's answer is not good, nothing was stored")
            .cause(why)
            .code(exit::REFUSED)
            .cure("check the clock of this machine and the version of the hub")
    };
    let certificate = answer.certificate.ok_or_else(|| bad("it has no certificate"))?;
    let credentials = Credentials::from_answer(&certificate.chain_pem, &certificate.ca_pem, key)
        .map_err(|error| bad(&skerry_common::chain(&error)))?;
    if !credentials.ca().contains_key(token.ca_hash()) {
        return Err(bad("it names another CA than the token"));
    }
    let domain = TrustDomain::parse(&certificate.trust_domain).map_err(|error| bad(&skerry_common::chain(&error)))?;
    let identity =
        credentials.validate(&domain, Clock::system().now()).map_err(|error| bad(&skerry_common::chain(&error)))?;
    if !matches!(&identity, Identity::Node(name) if name == node) {
        return Err(bad("the certificate is for somebody else"));
    }
    if answer.labels.len() > MAX_LABELS {
        return Err(bad("it has too many labels"));
    }
    Ok(Granted { credentials, trust_domain: certificate.trust_domain, labels: answer.labels.into_iter().collect() })
}

/// A refusal in the words of the hub, with what to do about it.
fn refused(status: &Status, node: &NodeName) -> Failure {
    let failure = Failure::new(format!("cannot join as {node}")).cause(status.message().to_owned());
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated | Code::NotFound => {
            failure.code(exit::REFUSED).cure("make a new token: skerry token create")
        }
        Code::AlreadyExists => {
            failure.cure("choose another --node-name; if it is the same machine: kubectl delete node, then join again")
        }
        Code::InvalidArgument => failure.code(exit::USAGE),
        Code::FailedPrecondition => failure.code(exit::REFUSED),
        Code::ResourceExhausted => failure.code(exit::REFUSED).cure("wait a minute"),
        _ => failure.code(exit::UNREACHABLE).cure("check that the hub and edgecontroller run, then try again"),
    }
}
