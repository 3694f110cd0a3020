//! From the creation of a pod to Running, as a watcher of the API sees it; and what of that is the runtime.

use skerry_bench::cri::Runtime;
use skerry_bench::figures::{Figures, percentile};
use skerry_bench::pods::names;
use skerry_bench::say;

use crate::Bench;

/// How many pods the runtime alone may start at a time, to find out what is best for it.
const AT_A_TIME: [usize; 4] = [2, 4, 8, 16];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pods one after another, and at once
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// How often the pods at once are measured, in turn with the runtime alone
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

pub(crate) async fn run(bench: &Bench, args: &Args, figures: &mut Figures) -> anyhow::Result<()> {
    let (pods, spec) = (&bench.pods, bench.pods.plain());
    say("warming up");
    let warm = names("warm", 5);
    pods.at_once(&warm, &spec).await?;
    pods.delete(&warm).await?;

    say(&format!("{} pods one after another", args.pods));
    let single = names("single", args.pods);
    let mut took = Vec::new();
    for name in &single {
        let began = pods.create(name, &spec).await?;
        let running = pods.running(name).await?;
        took.push(running.duration_since(began).as_secs_f64() * 1e3);
    }
    figures.at_most("pod_start_p50", percentile(&mut took, 0.5), "ms", 400.0);
    figures.at_most("pod_start_p99", percentile(&mut took, 0.99), "ms", 1000.0);
    figures.info("pod_start_worst", percentile(&mut took, 1.0), "ms");
    pods.delete(&single).await?;

    say("the runtime alone");
    let runtime = Runtime::new(&bench.machine.containerd.socket(), &bench.machine.containerd.dir().join("direct"))?;
    let mut one = Vec::new();
    for _ in 0..args.pods.div_ceil(5) {
        one.push(runtime.pods(1, 1).await? * 1e3);
    }
    figures.info("runtime_alone_start_p50", percentile(&mut one, 0.5), "ms");
    let (mut best, mut fastest) = (1, f64::INFINITY);
    for at_a_time in AT_A_TIME {
        let seconds = runtime.pods(args.pods, at_a_time).await?;
        figures.info(&format!("runtime_alone_{at_a_time}_at_a_time"), seconds, "s");
        if seconds < fastest {
            (best, fastest) = (at_a_time, seconds);
        }
    }

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        say(&format!("{} pods at once, round {}", args.pods, round + 1));
        let all = names(&format!("many{round}"), args.pods);
        ours.push(pods.at_once(&all, &spec).await?);
        pods.delete(&all).await?;
        theirs.push(runtime.pods(args.pods, best).await?);
    }
    let (all, alone) = (percentile(&mut ours, 0.5), percentile(&mut theirs, 0.5));
    figures.info("pods_at_once", all, "s");
    figures.info("runtime_alone", alone, "s");
    figures.at_most("pods_at_once_over_runtime", all / alone, "", 1.3);
    Ok(())
}
