//! Runs seeds: one, or many on several threads, and says how to repeat one that failed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::bug::Bug;
use crate::invariant::Violation;
use crate::world::{Counters, World};

/// What one seed gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Steps taken.
    pub steps: u64,
    /// What happened in them.
    pub counters: Counters,
    /// Equal for equal runs.
    pub digest: u64,
    /// What did not hold.
    pub violation: Option<Violation>,
    /// One line for each thing that happened, if asked for.
    pub trace: Vec<String>,
}

/// Runs one seed.
#[must_use]
pub fn run_seed(seed: u64, bug: Option<Bug>, traced: bool) -> Run {
    let mut world = World::new(seed, bug, traced);
    let violation = world.run().err();
    Run {
        steps: world.steps,
        counters: world.counters.clone(),
        digest: world.digest(),
        violation,
        trace: world.take_trace(),
    }
}

/// A seed that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What did not hold.
    pub violation: Violation,
}

impl Failure {
    /// The command that repeats it, with its trace.
    #[must_use]
    pub fn command(&self, bug: Option<Bug>) -> String {
        let bug = bug.map(|bug| format!(" --bug {bug}")).unwrap_or_default();
        format!("cargo run -p skerry-sim --release -- --seed {}{bug}", self.seed)
    }
}

/// What many seeds gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// Steps in all.
    pub steps: u64,
    /// What happened in them.
    pub counters: Counters,
    /// The failure with the lowest seed.
    pub failure: Option<Failure>,
}

/// Runs the seeds from `first` on, until one fails. `progress` is called from any thread with the
/// number of seeds done so far.
pub fn run_many(first: u64, seeds: u64, bug: Option<Bug>, jobs: usize, progress: impl Fn(u64, u64) + Sync) -> Summary {
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let steps = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let found: Mutex<(Counters, Option<Failure>)> = Mutex::new((Counters::default(), None));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= seeds {
                        break;
                    }
                    let seed = first.wrapping_add(at);
                    let run = run_seed(seed, bug, false);
                    let all_steps = steps.fetch_add(run.steps, Ordering::Relaxed) + run.steps;
                    let mut found = found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    found.0.merge(&run.counters);
                    if let Some(violation) = run.violation {
                        stop.store(true, Ordering::Relaxed);
                        if found.1.as_ref().is_none_or(|other| seed < other.seed) {
                            found.1 = Some(Failure { seed, violation });
                        }
                    }
                    drop(found);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, all_steps);
                }
            });
        }
    });
    let (counters, failure) = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Summary { seeds: done.into_inner(), steps: steps.into_inner(), counters, failure }
}
