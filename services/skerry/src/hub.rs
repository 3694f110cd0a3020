//! The hub as the commands use it: which one, and a client for it.
//!
//! The `Hub` service is for operators. Who may read the CA's key in the cluster is one: the command
//! gives itself a certificate for [`OPERATOR`] that lives for minutes and is never stored.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use skerry_common::exit;
use skerry_identity::{CredentialOptions, CredentialWatch};
use skerry_proto::hub::v1 as pb;
use skerry_proto::hub::v1::hub_client::HubClient;
use tonic::{Code, Request, Status};

use crate::cluster;
use crate::failure::{Failure, Result};
use crate::kubernetes::ClusterArgs;
use crate::places;
use crate::up::state::State;

/// The identity that may use the `Hub` service.
pub(crate) const OPERATOR: &str = "admin";
/// Life of the certificate: longer than any command, and than the clocks differ.
const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Sessions in one answer.
const PAGE: u32 = 1000;
/// Most pages that are read: a replica with more sessions is asked for one node at a time.
const MAX_PAGES: usize = 200;

/// Which hub.
#[derive(Debug, Clone, Args)]
pub(crate) struct HubArgs {
    /// The cluster that the hub belongs to.
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// The hub, as host:port; found by itself for a system of `skerry up`.
    #[arg(long)]
    pub(crate) hub: Option<String>,
}

impl HubArgs {
    fn address(&self) -> Result<String> {
        if let Some(hub) = &self.hub {
            return Ok(hub.clone());
        }
        // The kubeconfig of `up` lies next to its state.
        let file = self.cluster.file();
        let state = file.as_deref().and_then(Path::parent).and_then(State::read);
        state
            .map(|state| state.ports.local_hub().to_string())
            .ok_or_else(|| Failure::usage("which hub?").cure(format!("name it with --hub <host>:{}", places::HUB_PORT)))
    }

    /// A client with an operator's certificate.
    pub(crate) async fn connect(&self) -> Result<HubClient<skerry_rpc::Channel>> {
        let address = self.address()?;
        let client = self.cluster.client().await?;
        let ca = cluster::ca(&client).await?;
        let refused = |error: &skerry_identity::IdentityError| {
            Failure::new("cannot make an operator's certificate").because(error).code(exit::REFUSED)
        };
        let credentials =
            ca.service_credentials(OPERATOR, &[], LIFETIME, jiff::Timestamp::now()).map_err(|error| refused(&error))?;
        let options = CredentialOptions::new(ca.trust_domain().clone());
        let watch = CredentialWatch::fixed(options, credentials).map_err(|error| refused(&error))?;
        let connection = crate::dial::hub(&[address], watch).await?;
        Ok(HubClient::new(connection.channel()))
    }
}

/// All sessions of the replica, or those of one node.
pub(crate) async fn sessions(
    client: &mut HubClient<skerry_rpc::Channel>,
    node: &str,
) -> Result<Vec<pb::SessionStatus>> {
    let mut found = Vec::new();
    let mut after = String::new();
    for _ in 0..MAX_PAGES {
        let request = pb::ListSessionsRequest { node: node.to_owned(), limit: PAGE, after };
        let request = skerry_rpc::deadline(Request::new(request), PATIENCE);
        let page =
            client.list_sessions(request).await.map_err(|s| failed("cannot list the sessions", &s))?.into_inner();
        found.extend(page.sessions);
        after = page.next;
        if after.is_empty() {
            break;
        }
    }
    Ok(found)
}

/// A refused or failed call as a failure.
pub(crate) fn failed(what: &str, status: &Status) -> Failure {
    let failure = Failure::new(what).cause(status.message().to_owned());
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => {
            failure.code(exit::UNREACHABLE).cure("check the address of the hub, and that it runs")
        }
        Code::Unauthenticated | Code::PermissionDenied => failure.code(exit::REFUSED),
        Code::NotFound => failure.code(exit::NOT_FOUND),
        _ => failure,
    }
}
