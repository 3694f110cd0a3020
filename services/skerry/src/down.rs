//! `skerry down`: ends what `up` started and removes every trace of it.
//!
//! It trusts nothing to be whole: processes are found by their records, the runtime by the directory's
//! name, mounts in the mount table. Each step is done whether or not the one before had anything to
//! do, so it also works after a crash, twice, and when half is missing already. Only things below the
//! directory, or named after it, are touched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use skerry_edged::private_runtime::PrivateRuntime;

use crate::failure::{Context as _, Failure, Result};
use crate::files::remove_dir;
use crate::supervise::Places;
use crate::ui::{self, Steps};
use crate::up::state::State;
use crate::{places, runtime};

/// The supervisor stops every process in order, each with a deadline of its own.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(90);
/// For a process whose supervisor is gone.
const PROCESS_PATIENCE: Duration = Duration::from_secs(10);

/// Options of `skerry down`.
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// Directory of `skerry up`; removed at the end.
    #[arg(long, default_value = places::UP_DIR)]
    dir: PathBuf,
}

/// Stops and removes everything.
pub(crate) async fn run(args: DownArgs) -> Result<()> {
    let dir = places::absolute(&args.dir)?;
    if !dir.exists() {
        ui::note(format!("{} does not exist: nothing to do", dir.display()));
        return Ok(());
    }
    if !is_ours(&dir) {
        return Err(Failure::usage(format!("{} was not made by skerry up", dir.display()))
            .cause("it has neither units nor logs nor run")
            .cure("name the right directory with --dir"));
    }
    let mut steps = Steps::new();
    let supervisor = Places { dir: dir.clone() };
    stop_processes(&supervisor).await?;
    steps.done("processes stopped");

    let state = State::read(&dir).unwrap_or_default();
    remove_runtime(&dir, &state).await?;
    steps.done("containers, network and mounts removed");

    if state.ports.usual() {
        remove_mappers_socket();
    }
    let removed = dir.clone();
    tokio::task::spawn_blocking(move || remove_dir(&removed))
        .await
        .or_fail(|| "cannot remove the directory".into())??;
    steps.done(format!("{} removed", dir.display()));
    Ok(())
}

/// A directory that `up` made has at least one of these.
fn is_ours(dir: &Path) -> bool {
    ["units", "logs", "run"].iter().any(|sub| dir.join(sub).is_dir())
        || std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

async fn stop_processes(places: &Places) -> Result<()> {
    let mut records = places.records();
    // The supervisor first, or it would start the others again.
    records.sort_by_key(|record| record.name != crate::up::SUPERVISOR);
    for record in records {
        let is_supervisor = record.name == crate::up::SUPERVISOR;
        let patience = if is_supervisor { SUPERVISOR_PATIENCE } else { PROCESS_PATIENCE };
        if !record.end(patience).await {
            return Err(Failure::new(format!("{} (pid {}) does not end", record.name, record.pid))
                .cure("it hangs in the kernel: see dmesg, then run skerry down again"));
        }
    }
    Ok(())
}

/// The one thing that is not below the directory, because mappers expect it elsewhere. Its folder goes when
/// nobody else has anything in it.
fn remove_mappers_socket() {
    let socket = Path::new(skerry_dmi::DEFAULT_SOCKET);
    let _ = std::fs::remove_file(socket);
    if let Some(folder) = socket.parent() {
        let _ = std::fs::remove_dir(folder);
    }
}

async fn remove_runtime(dir: &Path, state: &State) -> Result<()> {
    if let Some(endpoint) = &state.runtime_endpoint {
        return crate::pods::remove(endpoint, &state.node).await.map(drop);
    }
    let options = runtime::options(dir);
    tokio::task::spawn_blocking(move || PrivateRuntime::remove(&options))
        .await
        .or_fail(|| "cannot remove the container runtime".into())?
        .or_fail(|| "cannot remove the container runtime".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(dir: &Path) -> DownArgs {
        DownArgs { dir: dir.to_owned() }
    }

    #[tokio::test]
    async fn a_directory_that_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("precious"), "x").unwrap();
        let failure = run(args(dir.path())).await.unwrap_err();
        assert_eq!(failure.code, skerry_common::exit::USAGE);
        assert!(dir.path().join("precious").exists());
    }

    #[tokio::test]
    async fn nothing_to_do_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        run(args(&dir.path().join("none"))).await.unwrap();
    }
}
