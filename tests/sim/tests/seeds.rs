//! One hundred seeds without a violation, every fault in them, and every run repeatable.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use skerry_sim::{run_many, run_seed};

const SEEDS: u64 = 100;

#[test]
fn every_invariant_holds() {
    let summary = run_many(0, SEEDS, None, 2, |_, _| {});
    if let Some(failure) = summary.failure {
        panic!("SEED={} {}\nrepeat: {}", failure.seed, failure.violation, failure.command(None));
    }
    println!("{} seeds, {} steps, {:?}", summary.seeds, summary.steps, summary.counters.0);
    assert_eq!(summary.seeds, SEEDS);

    // A fault that never happened proves nothing.
    for name in [
        "api down",
        "confirm",
        "cut",
        "delete",
        "delta",
        "disk full",
        "duplicate",
        "edged restart",
        "fenced",
        "hub pause",
        "hub restart",
        "list",
        "lying list",
        "nack",
        "node crash",
        "open",
        "partial list",
        "report committed",
        "report later",
        "report rejected",
        "session",
        "sink restart",
        "source restart",
        "store lost",
        "tombstone",
    ] {
        let count = summary.counters.0.get(name).copied().unwrap_or(0);
        assert!(count >= 10, "{name} happened {count} times");
    }
}

#[test]
fn a_seed_gives_the_same_run_again_traced_or_not() {
    for seed in 0..20 {
        let (plain, traced) = (run_seed(seed, None, false), run_seed(seed, None, true));
        assert_eq!((plain.steps, plain.digest), (traced.steps, traced.digest), "seed {seed}");
        assert_eq!(plain.counters, traced.counters);
        assert_eq!(plain.violation, traced.violation);
        assert!(plain.trace.is_empty() && !traced.trace.is_empty());
    }
    assert_ne!(run_seed(1, None, false).digest, run_seed(2, None, false).digest);
}
