//! What the node's program weighs: memory with 10 and with 100 pods, processor time when idle, size.

use std::path::Path;
use std::time::Duration;

use skerry_bench::figures::Figures;
use skerry_bench::pods::names;
use skerry_bench::say;

use crate::Bench;

/// After this time nothing moves any more.
const SETTLE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Minutes over which the idle processor time is counted
    #[arg(long, default_value_t = 5)]
    idle: u64,
}

pub(crate) async fn run(bench: &Bench, args: &Args, program: &Path, figures: &mut Figures) -> anyhow::Result<()> {
    let (pods, spec) = (&bench.pods, bench.pods.plain());
    let agent = bench.machine.agent()?;
    figures.at_most("edge_binary", std::fs::metadata(program)?.len() as f64 / 1e6, "MB", 30.0);
    say("10 pods");
    pods.at_once(&names("ten", 10), &spec).await?;
    tokio::time::sleep(SETTLE).await;
    let before = agent.resident_kib()?;
    say(&format!("idle for {} minutes", args.idle));
    let share = agent.cpu_share(Duration::from_secs(args.idle * 60)).await?;
    let resident = before.max(agent.resident_kib()?);
    figures.at_most("edge_resident_10_pods", resident * 1.024e-3, "MB", 25.0);
    figures.info("edge_anonymous_10_pods", agent.anonymous_kib()? * 1.024e-3, "MB");
    figures.at_most("edge_idle_cpu", share * 100.0, "% of a core", 0.5);
    figures.info("edge_threads", agent.threads()? as f64, "");
    say("100 pods");
    pods.at_once(&names("hundred", 90), &spec).await?;
    tokio::time::sleep(SETTLE).await;
    figures.at_most("edge_resident_100_pods", agent.resident_kib()? * 1.024e-3, "MB", 45.0);
    figures.info("edge_anonymous_100_pods", agent.anonymous_kib()? * 1.024e-3, "MB");
    Ok(())
}
