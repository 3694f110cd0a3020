//! What Skerry keeps in the cluster, as the commands use it: the CA, join tokens, revocations.
//!
//! The objects belong to edgecontroller; this module gives its errors words for people. Every write has
//! a precondition there, so commands may run at the same time. Who may read the CA's Secret may do
//! everything here: Kubernetes' own access control decides who that is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kube::Client;
use skerry_common::{NodeName, chain, exit};
use skerry_edgecontroller as controller;
use skerry_identity::{Ca, Token, TokenRecord, TokenRequest};

use crate::failure::{Failure, Result};

/// Name of the hub in its certificate.
pub(crate) const CLOUDHUB: &str = "cloudhub";
/// Name of the embedded API server in its certificate, with which it reaches kubelets.
pub(crate) const APISERVER: &str = "apiserver";
/// Name of edgecontroller in its certificate.
pub(crate) const EDGECONTROLLER: &str = "edgecontroller";
/// Name of devicecontroller in its certificate.
pub(crate) const DEVICECONTROLLER: &str = "devicecontroller";
/// The services of one machine that edgecontroller keeps certificates for, with their folders.
pub(crate) fn kept_credentials(dir: &Path) -> BTreeMap<String, PathBuf> {
    [CLOUDHUB, APISERVER, DEVICECONTROLLER].map(|service| (service.to_owned(), credentials_of(dir, service))).into()
}

/// The CA of the cluster.
pub(crate) async fn ca(client: &Client) -> Result<Ca> {
    let what = "cannot read the CA";
    let found = controller::existing_ca(client.clone()).await.map_err(|error| failed(what, &error))?;
    found.ok_or_else(|| {
        Failure::new(what)
            .cause("there is none yet")
            .code(exit::NOT_FOUND)
            .cure("start edgecontroller: it makes the CA")
    })
}

/// Makes a join token.
pub(crate) async fn create_token(client: &Client, request: TokenRequest) -> Result<(Token, TokenRecord)> {
    controller::tokens::create(client.clone(), request).await.map_err(|error| failed("cannot make a token", &error))
}

/// All tokens.
pub(crate) async fn tokens(client: &Client) -> Result<Vec<TokenRecord>> {
    controller::tokens::list(client.clone()).await.map_err(|error| failed("cannot list the tokens", &error))
}

/// Revokes a token; says whether there is one of this id.
pub(crate) async fn revoke_token(client: &Client, id: &str) -> Result<bool> {
    controller::tokens::revoke(client.clone(), id).await.map_err(|error| failed("cannot revoke the token", &error))
}

/// Revokes every key of a node; says how many that are.
pub(crate) async fn revoke_node(client: &Client, node: &NodeName) -> Result<usize> {
    controller::nodes::revoke(client.clone(), node).await.map_err(|error| failed("cannot revoke the node", &error))
}

/// Where edgecontroller keeps the credentials of a service of `up` fresh.
pub(crate) fn credentials_of(dir: &Path, service: &str) -> PathBuf {
    dir.join("credentials").join(service)
}

fn failed(what: &str, error: &controller::ControllerError) -> Failure {
    let cause = chain(error);
    let failure = Failure::new(what).cause(cause.clone());
    // The API's own words tell a refusal from a control plane that is away.
    if cause.contains("(403)") || cause.contains("(401)") {
        failure.code(exit::REFUSED).cure("use a kubeconfig whose user may use Secrets in skerry-system")
    } else if cause.contains("cannot serve now") {
        failure.code(exit::UNREACHABLE).cure("check that the control plane runs")
    } else {
        failure
    }
}
