//! `skerry-sim`: runs the simulation from the command line; see the library.
#![allow(clippy::print_stdout, reason = "a command line tool speaks on its standard output")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use skerry_sim::{Bug, Failure, Invariant, run_many, run_seed};

/// Lines of the trace that are shown for a failure; `--seed` shows all.
const TAIL: usize = 60;

/// Simulates the sync protocol with random faults and checks its invariants.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Run this one seed and print everything that happens.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Plant a bug; the run succeeds when it is found.
    #[arg(long)]
    bug: Option<Bug>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => one(seed, arguments.bug),
        None => many(&arguments),
    }
}

fn one(seed: u64, bug: Option<Bug>) -> ExitCode {
    let run = run_seed(seed, bug, true);
    for line in &run.trace {
        println!("{line}");
    }
    println!("SEED={seed} steps={} digest={:016x}", run.steps, run.digest);
    match run.violation {
        None => {
            println!("every invariant holds");
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("VIOLATED {violation}");
            ExitCode::FAILURE
        }
    }
}

fn many(arguments: &Arguments) -> ExitCode {
    let begin = Instant::now();
    let shown = AtomicU64::new(0);
    let every = (arguments.seeds / 10).max(1);
    let summary = run_many(arguments.first, arguments.seeds, arguments.bug, arguments.jobs, |done, steps| {
        if done / every > shown.fetch_max(done / every, Ordering::Relaxed) {
            let rate = steps as f64 / begin.elapsed().as_secs_f64().max(0.001);
            println!("{done}/{} seeds, {steps} steps, {rate:.0} steps/s", arguments.seeds);
        }
    });
    let seconds = begin.elapsed().as_secs_f64().max(0.001);
    let rate = summary.steps as f64 / seconds;
    println!("{} seeds, {} steps in {seconds:.1} s, {rate:.0} steps/s", summary.seeds, summary.steps);
    for (name, count) in &summary.counters.0 {
        println!("  {count:>9} {name}");
    }
    match (summary.failure, arguments.bug) {
        (None, None) => {
            for invariant in Invariant::ALL {
                println!("held: {invariant}");
            }
            ExitCode::SUCCESS
        }
        (None, Some(bug)) => {
            println!("NOT FOUND: {bug}");
            ExitCode::FAILURE
        }
        (Some(failure), bug) => {
            report(&failure, bug);
            if bug.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

fn report(failure: &Failure, bug: Option<Bug>) {
    let run = run_seed(failure.seed, bug, true);
    for line in run.trace.iter().skip(run.trace.len().saturating_sub(TAIL)) {
        println!("{line}");
    }
    println!("SEED={}", failure.seed);
    println!("VIOLATED {}", failure.violation);
    println!("repeat: {}", failure.command(bug));
}
