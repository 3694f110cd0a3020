//! What [`Watcher`] and [`admit`] promise, by tables and properties.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::super::threshold::Amount;
use super::*;

fn threshold(signal: Signal, value: u64, grace_ms: i64, reclaim: u64) -> Threshold {
    Threshold { signal, value: Amount::Absolute(value), grace_ms, min_reclaim: Amount::Absolute(reclaim) }
}

fn seen(signal: Signal, available: u64) -> Observations {
    Observations::from([(signal, Observation { available, capacity: 1_000 })])
}

#[test]
fn hard_at_once_soft_after_its_grace_and_reclaim_must_be_met() {
    let signal = Signal::MemoryAvailable;
    let hard = threshold(signal, 100, 0, 50);
    let soft = threshold(signal, 200, 1_000, 0);
    let mut watcher = Watcher::new(vec![hard, soft], 5_000);
    assert_eq!(watcher.observe(&seen(signal, 500), 0), Verdict::default());
    let verdict = watcher.observe(&seen(signal, 150), 100);
    assert!(verdict.starved.is_empty() && verdict.crossed && verdict.pressure.memory, "soft has time");
    assert_eq!(watcher.observe(&seen(signal, 150), 1_100).starved, [soft]);
    assert_eq!(watcher.observe(&seen(signal, 90), 1_200).starved, [hard, soft]);
    assert_eq!(watcher.observe(&seen(signal, 120), 1_300).starved, [hard, soft], "50 more must be free");
    assert_eq!(watcher.observe(&seen(signal, 160), 1_400).starved, [soft]);
    assert!(!watcher.is_resolved(&seen(signal, 160)));
    assert!(watcher.is_resolved(&seen(signal, 200)));
    assert!(watcher.observe(&seen(signal, 200), 1_500).starved.is_empty());
    // Crossed again: the soft threshold's time begins anew.
    assert!(watcher.observe(&seen(signal, 150), 1_600).starved.is_empty());
}

#[test]
fn a_condition_stays_for_the_transition_period() {
    let signal = Signal::NodeFsInodesFree;
    let mut watcher = Watcher::new(vec![threshold(signal, 100, 0, 0)], 5_000);
    let disk = |watcher: &mut Watcher, available, now| watcher.observe(&seen(signal, available), now).pressure.disk;
    assert!(!disk(&mut watcher, 100, 0));
    assert!(disk(&mut watcher, 99, 1_000));
    assert!(disk(&mut watcher, 500, 5_999));
    assert!(!disk(&mut watcher, 500, 6_000));
}

#[test]
fn memory_goes_first_and_silence_crosses_nothing() {
    let thresholds = vec![threshold(Signal::PidAvailable, 10, 0, 0), threshold(Signal::MemoryAvailable, 10, 0, 0)];
    let mut watcher = Watcher::new(thresholds.clone(), 0);
    let mut both = seen(Signal::PidAvailable, 1);
    both.extend(seen(Signal::MemoryAvailable, 1));
    let order: Vec<Signal> = watcher.observe(&both, 0).starved.iter().map(|t| t.signal).collect();
    assert_eq!(order, [Signal::MemoryAvailable, Signal::PidAvailable]);
    assert_eq!(watcher.observe(&Observations::new(), 1), Verdict::default());
}

#[test]
fn admission_follows_the_conditions() {
    let pod = |spec: serde_json::Value| -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    };
    let plain = pod(json!({"containers": [{"name": "c"}]}));
    let asking = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]}));
    let tolerant = pod(json!({"containers": [{"name": "c"}],
        "tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]}));
    let critical = pod(json!({"containers": [], "priority": 2_000_000_000}));
    let memory = Pressure { memory: true, ..Pressure::default() };
    let both = Pressure { disk: true, ..memory };
    assert_eq!(admit(&plain, Pressure::default()), None);
    assert_eq!(admit(&plain, memory).unwrap(), "The node had condition: [MemoryPressure]. ");
    assert_eq!(admit(&asking, memory), None);
    assert_eq!(admit(&tolerant, memory), None);
    assert_eq!(admit(&asking, both).unwrap(), "The node had condition: [MemoryPressure DiskPressure]. ");
    assert_eq!(admit(&critical, both), None);
}

proptest! {
    /// Whatever is observed: what is starved is crossed and was so for its grace period, and while
    /// something is crossed its condition is shown.
    #[test]
    fn verdicts_are_sound(looks in prop::collection::vec((0_u64..300, 0_u64..300, 0_i64..700), 1..60)) {
        let thresholds = vec![
            threshold(Signal::MemoryAvailable, 100, 0, 20),
            threshold(Signal::MemoryAvailable, 150, 1_000, 0),
            threshold(Signal::NodeFsAvailable, 100, 500, 0),
        ];
        let mut watcher = Watcher::new(thresholds, 2_000);
        let (mut now, mut well_since) = (0, Some(0));
        for (memory, disk, step) in looks {
            now += step;
            let mut observed = seen(Signal::MemoryAvailable, memory);
            observed.extend(seen(Signal::NodeFsAvailable, disk));
            let verdict = watcher.observe(&observed, now);
            for t in &verdict.starved {
                prop_assert!(is_crossed(t, &observed, true));
            }
            let hard = verdict.starved.iter().any(|t| t.is_hard() && t.signal == Signal::MemoryAvailable);
            prop_assert!(hard || memory >= 100);
            prop_assert!(!hard || memory < 120);
            prop_assert!(verdict.pressure.memory || memory >= 150);
            prop_assert!(verdict.pressure.disk || disk >= 100);
            well_since = if disk < 100 { None } else { well_since.or(Some(now)) };
            if let Some(since) = well_since.filter(|s| now - s >= 2_700) {
                prop_assert!(!verdict.pressure.disk, "well since {}", since);
            }
        }
    }
}
