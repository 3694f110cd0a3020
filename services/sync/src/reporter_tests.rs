//! Tests of the reporter, and its properties against a sink that answers anything.
#![allow(missing_docs)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn later(after_ms: u64) -> Outcome {
    Outcome::RetryLater { after_ms }
}

#[test]
fn oldest_first_within_the_window() {
    let mut reporter = Reporter::new(2);
    for id in [3, 1, 2, 1] {
        reporter.offer(id);
    }
    assert_eq!([reporter.next(0), reporter.next(0), reporter.next(0)], [Some(1), Some(2), None]);
    assert_eq!((reporter.len(), reporter.in_flight_len()), (3, 2));
    reporter.offer(1);
    assert_eq!(reporter.outcome(1, Outcome::Committed, 0), Settled::Remove(1));
    assert_eq!(reporter.next(0), Some(3), "what is in flight is not offered twice");
    assert_eq!(reporter.outcome(1, Outcome::Committed, 0), Settled::Ignored(1));
    let rejected = Outcome::Rejected { reason: "no such pod".to_owned() };
    assert_eq!(reporter.outcome(2, rejected, 0), Settled::Rejected(2, "no such pod".to_owned()));
    assert_eq!(reporter.outcome(3, Outcome::Committed, 0), Settled::Remove(3));
    assert!(reporter.is_empty());
}

#[test]
fn retry_later_is_honoured_and_blocks_nobody() {
    let mut reporter = Reporter::new(1);
    reporter.offer(1);
    reporter.offer(2);
    assert_eq!(reporter.next(100), Some(1));
    assert_eq!(reporter.outcome(1, later(500), 100), Settled::Later { id: 1, at_ms: 600 });
    assert_eq!(reporter.wake_at(), None, "the second is ready");
    assert_eq!(reporter.next(100), Some(2));
    assert_eq!(reporter.wake_at(), Some(600));
    assert_eq!(reporter.outcome(2, Outcome::Committed, 110), Settled::Remove(2));
    assert_eq!(reporter.next(599), None);
    assert_eq!(reporter.next(600), Some(1));
    assert_eq!(reporter.outcome(1, later(u64::MAX), 600), Settled::Later { id: 1, at_ms: 600 + MAX_RETRY_AFTER_MS });
    assert_eq!(reporter.next(600 + MAX_RETRY_AFTER_MS), Some(1));
    assert_eq!(reporter.outcome(1, later(0), 0), Settled::Later { id: 1, at_ms: MIN_RETRY_AFTER_MS });
}

#[test]
fn what_was_in_flight_is_sent_again_after_the_stream_ended() {
    let mut reporter = Reporter::new(8);
    for id in 1..=4 {
        reporter.offer(id);
    }
    assert_eq!([reporter.next(0), reporter.next(0), reporter.next(0)], [Some(1), Some(2), Some(3)]);
    reporter.outcome(2, later(100), 0);
    reporter.superseded(1);
    reporter.disconnected();
    assert_eq!(reporter.in_flight_len(), 0);
    assert_eq!(reporter.outcome(3, Outcome::Committed, 0), Settled::Ignored(3), "an answer of the old stream");
    assert_eq!([reporter.next(0), reporter.next(0), reporter.next(0)], [Some(3), Some(4), None]);
    assert_eq!(reporter.next(100), Some(2));
}

#[test]
fn a_report_that_was_replaced_is_never_sent_again() {
    let mut reporter = Reporter::new(8);
    for id in 1..=3 {
        reporter.offer(id);
    }
    reporter.superseded(1);
    assert_eq!(reporter.next(0), Some(2), "replaced while it was ready");
    reporter.superseded(2);
    assert_eq!(reporter.outcome(2, later(10), 0), Settled::Remove(2), "replaced in flight");
    assert_eq!(reporter.next(0), Some(3));
    reporter.outcome(3, later(10), 0);
    reporter.superseded(3);
    assert_eq!(reporter.next(1000), None, "replaced while it waited");
    reporter.superseded(9);
    assert!(reporter.is_empty());
    assert_eq!(reporter.wake_at(), None);
}

#[test]
fn a_report_that_left_the_outbox_frees_its_place() {
    let mut reporter = Reporter::new(1);
    for id in 1..=3 {
        reporter.offer(id);
    }
    assert_eq!([reporter.next(0), reporter.next(0)], [Some(1), None]);
    reporter.gone(1);
    reporter.gone(1);
    assert_eq!((reporter.in_flight_len(), reporter.next(0)), (0, Some(2)));
    reporter.outcome(2, later(100), 0);
    reporter.gone(2);
    reporter.gone(3);
    assert_eq!((reporter.len(), reporter.wake_at(), reporter.next(1000)), (0, None, None));
}

#[test]
fn outcomes_from_the_wire() {
    use proto::outcome::Result as Wire;
    let wire = |id, result| Outcome::from_wire(proto::Outcome { id, node: String::new(), result });
    assert_eq!(wire(1, Some(Wire::Committed(proto::Committed {}))), Ok((1, Outcome::Committed)));
    assert_eq!(
        wire(1, Some(Wire::RetryLater(proto::RetryLater { after_ms: 7, reason: String::new() }))),
        Ok((1, later(7)))
    );
    let (_, rejected) =
        wire(1, Some(Wire::Rejected(proto::Rejected { reason: "x".repeat(1 << 20) }))).expect("a rejection");
    assert!(matches!(rejected, Outcome::Rejected { reason } if reason.len() == 1024));
    assert_eq!(wire(1, None).unwrap_err().code(), "missing");
    assert_eq!(wire(0, Some(Wire::Committed(proto::Committed {}))).unwrap_err().code(), "missing");
}

#[derive(Debug, Clone)]
enum Op {
    Offer,
    Supersede(usize),
    Send,
    Answer(usize, u8),
    Cut,
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::Offer),
        1 => any::<usize>().prop_map(Op::Supersede),
        6 => Just(Op::Send),
        4 => (any::<usize>(), 0..4_u8).prop_map(|(at, kind)| Op::Answer(at, kind)),
        1 => Just(Op::Cut),
        2 => (0..200_u64).prop_map(Op::Wait),
    ]
}

proptest! {
    /// Nothing is lost, nothing replaced is sent, the window holds, and every report ends settled.
    #[test]
    fn every_report_is_settled_or_replaced(window in 1..6_usize, ops in proptest::collection::vec(op(), 0..300)) {
        let mut reporter = Reporter::new(window);
        let (mut now, mut newest) = (0_u64, 0_u64);
        let mut open: BTreeSet<u64> = BTreeSet::new();
        let mut replaced: BTreeSet<u64> = BTreeSet::new();
        let mut flying: Vec<u64> = Vec::new();
        for op in ops {
            match op {
                Op::Offer => {
                    newest += 1;
                    open.insert(newest);
                    reporter.offer(newest);
                }
                Op::Supersede(at) => {
                    if let Some(id) = open.iter().nth(at % open.len().max(1)).copied() {
                        open.remove(&id);
                        replaced.insert(id);
                        reporter.superseded(id);
                    }
                }
                Op::Send => {
                    if let Some(id) = reporter.next(now) {
                        prop_assert!(open.contains(&id) && !replaced.contains(&id) && !flying.contains(&id));
                        flying.push(id);
                    }
                }
                Op::Answer(at, kind) => {
                    if flying.is_empty() {
                        continue;
                    }
                    let id = flying.swap_remove(at % flying.len());
                    let outcome = match kind {
                        0 => later(100),
                        1 => Outcome::Rejected { reason: String::new() },
                        _ => Outcome::Committed,
                    };
                    match reporter.outcome(id, outcome, now) {
                        Settled::Remove(settled) | Settled::Rejected(settled, _) => {
                            prop_assert_eq!(settled, id);
                            open.remove(&id);
                        }
                        Settled::Later { id: settled, at_ms } => {
                            prop_assert_eq!(settled, id);
                            prop_assert!(at_ms > now && open.contains(&id));
                        }
                        Settled::Ignored(_) => prop_assert!(false, "it was in flight"),
                    }
                }
                Op::Cut => {
                    reporter.disconnected();
                    flying.clear();
                }
                Op::Wait(ms) => now += ms,
            }
            prop_assert_eq!(reporter.in_flight_len(), flying.len());
            prop_assert!(flying.len() <= window);
            let gone = flying.iter().filter(|id| replaced.contains(id)).count();
            prop_assert_eq!(reporter.len(), open.len() + gone);
        }
        // Faults end: all that is left goes through.
        reporter.disconnected();
        while !reporter.is_empty() {
            match reporter.next(now) {
                Some(id) => {
                    prop_assert_eq!(reporter.outcome(id, Outcome::Committed, now), Settled::Remove(id));
                    prop_assert!(open.remove(&id));
                }
                None => now = reporter.wake_at().ok_or_else(|| TestCaseError::fail("stuck"))?,
            }
        }
        prop_assert!(open.is_empty());
    }
}
