//! `skerry node revoke`: throws nodes out.
//!
//! The node's key is refused from then on, its sessions end on every hub, and no token lets that key
//! in again. The Node object and the pods stay: what becomes of them is the operator's decision.

use clap::{Args, Subcommand};
use skerry_common::{NodeName, exit};

use crate::cluster;
use crate::failure::{Failure, Result};
use crate::kubernetes::ClusterArgs;
use crate::ui;

/// The commands about nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Refuse the node's key and end its sessions.
    Revoke(RevokeArgs),
}

/// Options of `skerry node revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Names of the nodes.
    #[arg(required = true)]
    names: Vec<String>,
    /// Which cluster.
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Does it.
pub(crate) async fn run(command: NodeCommand) -> Result<()> {
    let NodeCommand::Revoke(args) = command;
    let mut names = Vec::new();
    for name in &args.names {
        let parsed = NodeName::parse(name);
        names.push(parsed.map_err(|error| Failure::usage(format!("{name:?} is not a node name")).because(&error))?);
    }
    let client = args.cluster.client().await?;
    for name in names {
        if cluster::revoke_node(&client, &name).await? == 0 {
            return Err(Failure::new(format!("node {name} has no keys: it never joined")).code(exit::NOT_FOUND));
        }
        ui::note(format!("node {name} is revoked; remove what is left of it with: kubectl delete node {name}"));
    }
    Ok(())
}
