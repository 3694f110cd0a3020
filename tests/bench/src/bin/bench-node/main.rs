//! `make bench-pod-start`, `bench-edge`, `bench-restart`, `bench-wear`: a node with real containers.
//!
//! Each part starts a cloud and one node and takes both away again.

mod pod_start;
mod restart;
mod wear;
mod weight;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use skerry_bench::cluster::{Cluster, Ports};
use skerry_bench::figures::Figures;
use skerry_bench::machine::Machine;
use skerry_bench::pods::Pods;
use skerry_bench::say;

/// First port of the processes of this benchmark.
const PORTS: u16 = 22_400;
/// Admin port of the node's first service.
const NODE_PORT: u16 = 22_450;

/// Measures a node with real containers.
#[derive(Parser)]
struct Args {
    /// The node's program; the one beside this benchmark when not given
    #[arg(long, global = true)]
    program: Option<PathBuf>,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// From the creation of a pod to Running
    PodStart(pod_start::Args),
    /// Memory, processor time and size of the node's program
    Edge(weight::Args),
    /// A restart of the agent without the cloud
    Restart(restart::Args),
    /// Many pods through one node
    Wear(wear::Args),
}

fn main() -> ExitCode {
    skerry_bench::exit(skerry_bench::run(bench(Args::parse())))
}

/// A cloud, a node, and the pods on it.
struct Bench {
    pods: Pods,
    machine: Machine,
    cluster: Cluster,
}

async fn bench(args: Args) -> anyhow::Result<()> {
    let program = args.program.map_or_else(Machine::shipped, Ok)?;
    say("starting the cloud and a node");
    let cluster = Cluster::start(Ports(PORTS)).await?;
    let machine = Machine::start(&cluster, "bench-node", NODE_PORT, &program).await?;
    let pods = Pods::new(cluster.client.clone(), machine.name.clone());
    let mut bench = Bench { pods, machine, cluster };
    let mut figures = Figures::default();
    let measured = match args.part {
        Part::PodStart(args) => pod_start::run(&bench, &args, &mut figures).await,
        Part::Edge(args) => weight::run(&bench, &args, &program, &mut figures).await,
        Part::Restart(args) => restart::run(&mut bench, &args, &mut figures).await,
        Part::Wear(args) => wear::run(&bench, &args, &mut figures).await,
    };
    if measured.is_err() {
        say(&format!("the node's log ends with:\n{}", bench.machine.log()));
    }
    measured?;
    figures.verdict()
}
