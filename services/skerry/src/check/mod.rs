//! `skerry check`: what is missing on this machine, and how to mend it.
//!
//! Each probe looks at one thing, changes nothing, and gives a [`Finding`]. A failed probe means that
//! an edge node cannot work here; a warning means that it works less well. The probes read /proc and
//! /sys and try sockets; none takes longer than [`PATIENCE`].

mod credentials;
mod host;
mod network;
mod runtime;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use skerry_common::exit;

use crate::failure::{Failure, Result};
use crate::ui::{self, Output, column, wide};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where a machine stands with one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Good.
    Ok,
    /// Works, but not well.
    Warning,
    /// Does not work.
    Failed,
}

/// The result of one probe.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: &'static str,
    /// How it is.
    pub(crate) result: Verdict,
    /// What was found.
    pub(crate) detail: String,
    /// What to do; empty when nothing is to be done.
    pub(crate) fix: String,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, result: Verdict::Ok, detail: detail.into(), fix: String::new() }
    }
    pub(crate) fn warning(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, result: Verdict::Warning, detail: detail.into(), fix: fix.into() }
    }
    pub(crate) fn failed(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, result: Verdict::Failed, detail: detail.into(), fix: fix.into() }
    }
}

#[cfg(feature = "cloud")]
pub(crate) use runtime::find as find_program;
pub(crate) use runtime::{SOCKETS, socket_path};

/// Options of `skerry check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Hub that the node shall reach, as host:port; DNS and the way to it are tried.
    #[arg(long)]
    hub: Option<String>,
    /// CRI socket; found by itself when not given.
    #[arg(long)]
    runtime_endpoint: Option<String>,
    /// Directory of the node's state.
    #[arg(long, default_value = crate::places::EDGE_DIR)]
    data_dir: PathBuf,
    /// Ports of this machine that must be free, for example 10000 on a machine that runs the hub.
    #[arg(long, value_delimiter = ',')]
    free_ports: Vec<u16>,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Runs all probes and prints them; fails when one of them failed.
pub(crate) async fn run(args: CheckArgs) -> Result<()> {
    let mut findings = host::probes(&args.data_dir);
    findings.push(runtime::socket(args.runtime_endpoint.as_deref()).await);
    findings.extend(runtime::programs());
    findings.extend(network::probes(args.hub.as_deref(), &args.free_ports).await);
    findings.push(credentials::certificate(&args.data_dir));
    let columns =
        [column("CHECK", "/check"), column("RESULT", "/result"), column("DETAIL", "/detail"), wide("FIX", "/fix")];
    ui::print_list(args.output, &columns, &findings, "nothing was checked")?;
    let failed: Vec<_> = findings.iter().filter(|f| f.result == Verdict::Failed).collect();
    if args.output == Output::Table {
        for finding in findings.iter().filter(|f| !f.fix.is_empty()) {
            ui::note(format!("{}: {}", finding.check, finding.fix));
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = failed.iter().map(|f| f.check).collect();
    Err(Failure::new("this machine is not ready").cause(names.join(", ")).code(exit::FAILED))
}

/// The probes that `skerry join` refuses to go on without.
pub(crate) async fn preflight(runtime_endpoint: Option<&str>, data_dir: &std::path::Path) -> Vec<Finding> {
    let mut findings = host::probes(data_dir);
    findings.push(runtime::socket(runtime_endpoint).await);
    findings.retain(|f| f.result == Verdict::Failed);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_finding_that_is_not_good_says_what_to_do() {
        let dir = std::env::temp_dir();
        let mut findings = host::probes(&dir);
        findings.push(runtime::socket(Some("unix:///nonexistent/cri.sock")).await);
        findings.extend(runtime::programs());
        findings.extend(network::probes(Some("hub.invalid:10000"), &[]).await);
        findings.push(credentials::certificate(&dir.join("no-such-node")));
        assert!(findings.len() >= 12, "{findings:?}");
        for finding in findings {
            assert_eq!(finding.result == Verdict::Ok, finding.fix.is_empty(), "{finding:?}");
        }
    }
}
