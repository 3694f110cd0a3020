//! `skerry reset`: undoes `join` on this machine.
//!
//! Stops the unit, ends the pods of the node, unmounts their volumes and removes the node's directory.
//! The Node object stays in the cluster until an operator deletes it: a machine cannot vanish unseen.
//! Safe to run twice.

use std::path::PathBuf;

use clap::Args;

use crate::edge::EdgeConfig;
use crate::failure::{Failure, Result};
use crate::ui::{self, Steps};
use crate::{check, files, places, pods, systemd};

/// Options of `skerry reset`.
#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// Directory of the node's state; removed at the end.
    #[arg(long, default_value = places::EDGE_DIR)]
    data_dir: PathBuf,
    /// Do not ask.
    #[arg(long)]
    force: bool,
}

/// Undoes `join`.
pub(crate) async fn run(args: ResetArgs) -> Result<()> {
    let dir = places::absolute(&args.data_dir)?;
    if !dir.exists() {
        ui::note(format!("{} does not exist: nothing to do", dir.display()));
        return systemd::remove().await;
    }
    let config = EdgeConfig::load(&dir).ok();
    if config.is_none() && !dir.join(places::EDGE_CREDENTIALS).exists() {
        return Err(Failure::usage(format!("{} is not the directory of a node", dir.display()))
            .cause("it has neither a configuration nor credentials")
            .cure("name the right directory with --data-dir"));
    }
    if !args.force {
        return Err(
            Failure::usage("this ends all pods of this node and removes its credentials").cure("skerry reset --force")
        );
    }
    let mut steps = Steps::new();
    systemd::remove().await?;
    steps.done("node services stopped");
    if let Some(config) = &config {
        let found = check::SOCKETS.iter().find(|socket| std::path::Path::new(socket).exists()).copied();
        if let Some(endpoint) = config.runtime_endpoint.as_deref().or(found) {
            let count = pods::remove(endpoint, config.node_name.as_str()).await?;
            steps.done(format!("{count} pods removed"));
        }
    }
    let removed = dir.clone();
    tokio::task::spawn_blocking(move || files::remove_dir(&removed))
        .await
        .map_err(|error| Failure::new("cannot remove the directory").because(&error))??;
    steps.done(format!("{} removed", dir.display()));
    if let Some(config) = config {
        ui::note(format!("the Node object is still there: kubectl delete node {}", config.node_name));
    }
    Ok(())
}
