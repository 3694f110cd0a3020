//! The simulation's own control: each planted bug must be found within 1,000 seeds, and repeat.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use skerry_sim::{Bug, Invariant, run_many, run_seed};

const SEEDS: u64 = 1000;

/// Finds the bug and says how long it took.
fn found(bug: Bug) -> Invariant {
    let summary = run_many(0, SEEDS, Some(bug), 1, |_, _| {});
    let Some(failure) = summary.failure else { panic!("{bug} was not found within {SEEDS} seeds") };
    println!("{bug}: found after {} seeds: {}", failure.seed + 1, failure.violation);
    let again = run_seed(failure.seed, Some(bug), true);
    assert_eq!(again.violation.as_ref(), Some(&failure.violation), "the seed repeats it");
    assert!(!again.trace.is_empty());
    assert!(failure.command(Some(bug)).ends_with(&format!("--seed {} --bug {bug}", failure.seed)));
    assert_eq!(run_seed(failure.seed, None, false).violation, None, "without the bug the seed is clean");
    failure.violation.invariant
}

macro_rules! planted {
    ($($test:ident: $bug:ident => $($invariant:ident)|+;)*) => {
        $(#[test]
        fn $test() {
            let invariant = found(Bug::$bug);
            assert!(matches!(invariant, $(Invariant::$invariant)|+), "{invariant}");
        })*

        #[test]
        fn every_bug_has_its_test() {
            assert_eq!([$(Bug::$bug),*], Bug::ALL);
        }
    };
}

planted! {
    ack_before_commit: AckBeforeCommit => Honest;
    resume_from_a_wrong_version: ResumeWrongVersion => Converge;
    lost_delete: LostDelete => Converge | NoGhost;
    two_epochs: TwoEpochs => Forward | Conserve;
    unbounded_queue: UnboundedQueue => Bounded;
    an_empty_list_deletes: EmptyListDeletes => NoGhost;
    a_stale_replica: StaleReplica => Forward | NoGhost;
    held_read_too_early: HeldTooEarly => Converge | NoGhost | Forward;
    shown_before_commit: LocalBeforeCommit => Forward | NoGhost;
    an_empty_store_deletes: EmptyStoreDeletes => NoGhost;
    a_replaced_status_is_sent_again: SupersededResent => Forward | Conserve;
    committed_before_the_api_has_it: CommittedBeforeApi => Honest;
    a_fence_that_forgets: FenceForgotten => Forward | Conserve;
    opened_anew_under_the_same_number: ReopenSameId => Protocol | NoGhost | Forward | Converge | Honest;
    complete_despite_a_refusal: CompleteDespiteRefusal => NoGhost;
}

#[test]
fn names_on_the_command_line() {
    for bug in Bug::ALL {
        assert_eq!(bug.name().parse::<Bug>(), Ok(bug));
    }
    assert!("no-such-bug".parse::<Bug>().unwrap_err().contains("lost-delete"));
}
