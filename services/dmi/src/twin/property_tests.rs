//! The rule of convergence by tables and by random histories, and what a value's quality says.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use skerry_common::desired::Answer;
use skerry_common::kinds::desired_base;
use skerry_k8s_types::PropertyType;

use super::{CloudChange, Earlier, Measured, Now, Overlay, Property, Quality, Sync};

fn cloud(value: &str) -> Property {
    Property { cloud: Some(value.into()), ..Property::default() }
}

/// Sets a value in a write of that name.
fn set(property: &mut Property, value: &str) {
    let overlay = property.overlay_of(value, &format!("set {value}"));
    assert!(property.set_overlay(overlay));
}

fn taken(id: &str) -> Answer {
    Answer { id: id.into(), refused: None }
}

fn measured(value: &str, at: u64) -> Measured {
    Measured {
        value: value.into(),
        quality: Quality::Good,
        source_ms: 0,
        at: Some(at),
        problem: String::new(),
        to_cloud: true,
    }
}

#[test]
fn a_write_at_the_edge_holds_until_the_cloud_changes_the_value() {
    let mut property = cloud("1");
    set(&mut property, "2");
    assert_eq!(property.desired(), Some("2"));
    // What the cloud wants anyway is no overlay.
    let mut same = cloud("1");
    set(&mut same, "1");
    assert_eq!((same.desired(), &same.overlay), (Some("1"), &None));
    // The same value again, as with any change of another property: it holds.
    assert_eq!(property.set_cloud(Some("1".into()), None), CloudChange::Same);
    assert_eq!(property.desired(), Some("2"));
    // Accepted.
    assert_eq!(property.set_cloud(Some("2".into()), None), CloudChange::OverlayEnded);
    assert_eq!((property.desired(), &property.overlay), (Some("2"), &None));
    // Overruled, also by nothing.
    for value in [Some("9".to_owned()), None] {
        set(&mut property, "3");
        assert_eq!(property.set_cloud(value.clone(), None), CloudChange::OverlayEnded);
        assert_eq!(property.desired(), value.as_deref());
        property.set_cloud(Some("2".into()), None);
    }
    // Where the cloud wanted nothing.
    let mut property = Property::default();
    set(&mut property, "5");
    assert_eq!(property.overlay.as_ref().unwrap().base, "none");
    assert_eq!(property.set_cloud(None, None), CloudChange::Same);
    assert_eq!(property.desired(), Some("5"));
}

#[test]
fn a_later_write_is_not_undone_by_the_acceptance_of_an_earlier_one() {
    let mut property = cloud("1");
    set(&mut property, "2");
    set(&mut property, "3");
    set(&mut property, "4");
    assert_eq!(property.set_cloud(Some("2".into()), None), CloudChange::Rebased);
    assert_eq!(property.desired(), Some("4"));
    let overlay = property.overlay.clone().unwrap();
    let earlier = Earlier { id: "set 3".into(), version: desired_base(Some("3")) };
    assert_eq!((overlay.base, overlay.earlier), (desired_base(Some("2")), vec![earlier]));
    assert_eq!(property.set_cloud(Some("3".into()), None), CloudChange::Rebased);
    assert_eq!(property.set_cloud(Some("4".into()), None), CloudChange::OverlayEnded);
    assert_eq!(property.desired(), Some("4"));
}

#[test]
fn an_overlay_that_was_made_before_a_change_of_the_cloud_does_not_hold() {
    let mut property = cloud("1");
    let overlay = property.overlay_of("2", "a");
    property.set_cloud(Some("3".into()), None);
    assert!(!property.set_overlay(overlay));
    assert_eq!(property.desired(), Some("3"));
    // Many writes in a row are bounded.
    for value in 0..100 {
        set(&mut property, &value.to_string());
    }
    assert_eq!(property.overlay.as_ref().unwrap().earlier.len(), 16);
    // The first of them was on its way when the link was lost, and was taken.
    assert_eq!(property.set_cloud(Some("0".into()), Some(&taken("set 0"))), CloudChange::Rebased);
    assert_eq!(property.desired(), Some("99"));
}

#[test]
fn an_answer_says_what_values_cannot() {
    // Taken, and then changed back to what it was: there is nothing to see but the answer.
    let mut property = cloud("1");
    set(&mut property, "2");
    assert_eq!(property.set_cloud(Some("1".into()), Some(&taken("set 2"))), CloudChange::OverlayEnded);
    assert_eq!((property.desired(), &property.not_taken), (Some("1"), &None));
    // The same answer again says nothing about a new write.
    set(&mut property, "3");
    assert_eq!(property.set_cloud(Some("1".into()), Some(&taken("set 2"))), CloudChange::Same);
    assert_eq!(property.desired(), Some("3"));
    // Refused: it ends, and people read why.
    let refused = Answer { id: "set 3".into(), refused: Some("too hot".into()) };
    assert_eq!(property.set_cloud(Some("1".into()), Some(&refused)), CloudChange::OverlayEnded);
    assert_eq!(property.desired(), Some("1"));
    assert!(property.not_taken.as_ref().unwrap().contains("too hot"), "{property:?}");
    // Until the next word about it.
    property.set_cloud(Some("1".into()), Some(&refused));
    assert!(property.not_taken.is_some());
    property.set_cloud(Some("4".into()), Some(&refused));
    assert_eq!(property.not_taken, None);

    // An earlier one of two was taken, and changed in the cloud, also back to the first value: the cloud wins.
    for now in ["9", "1"] {
        let mut property = cloud("1");
        set(&mut property, "2");
        set(&mut property, "3");
        assert_eq!(property.set_cloud(Some(now.into()), Some(&taken("set 2"))), CloudChange::OverlayEnded);
        assert_eq!(property.desired(), Some(now));
        assert!(property.not_taken.unwrap().contains("replaced"));
    }
    // An earlier one was refused, and not because of the cloud's value: the later one goes on.
    let mut property = cloud("1");
    set(&mut property, "2");
    set(&mut property, "3");
    let refused = Answer { id: "set 2".into(), refused: Some("too cold".into()) };
    assert_eq!(property.set_cloud(Some("1".into()), Some(&refused)), CloudChange::Same);
    assert_eq!(property.desired(), Some("3"));
    // After a restart the row on disk meets its answer.
    let overlay = property.overlay.clone().unwrap();
    let mut again = cloud("1");
    again.set_cloud(Some("1".into()), Some(&taken("set 3")));
    assert!(!again.set_overlay(overlay));
    assert_eq!(again.desired(), Some("1"));
}

#[test]
fn a_desired_value_is_synced_when_the_device_has_it() {
    let int = Some(PropertyType::Int);
    let mut property = Property::default();
    assert_eq!(property.sync(int), Sync::Nothing);
    property.set_cloud(Some("40".into()), None);
    assert_eq!(property.sync(int), Sync::Pending);
    let version = property.version().unwrap();
    property.outcome(&version, Some("too hot"));
    assert_eq!(property.sync(int), Sync::Refused("too hot"));
    // Words about another value say nothing about this one.
    property.outcome("old", Some("never"));
    property.outcome("old", None);
    assert_eq!(property.sync(int), Sync::Refused("too hot"));
    property.report(measured("040", 1));
    assert_eq!(property.sync(int), Sync::Yes);
    property.report(measured("39", 2));
    assert_eq!(property.sync(int), Sync::Refused("too hot"));
    property.outcome(&version, None);
    assert_eq!(property.sync(int), Sync::Yes);
    property.set_cloud(Some("41".into()), None);
    assert_eq!(property.sync(int), Sync::Pending);
    // What was there before a restart is no proof.
    property.report(Measured { at: None, ..measured("41", 0) });
    assert_eq!(property.sync(int), Sync::Pending);
}

#[test]
fn a_value_that_is_not_fresh_is_never_good() {
    let mut property = Property::default();
    let now = |mono| Now { mono, wall: 0 };
    assert_eq!(property.quality(now(0), 1000, true), None);
    property.report(measured("1", 5000));
    for (at, served, quality) in [
        (5000, true, Quality::Good),
        (6000, true, Quality::Good),
        (6001, true, Quality::Uncertain),
        (5000, false, Quality::Uncertain),
    ] {
        assert_eq!(property.quality(now(at), 1000, served), Some(quality), "{at} {served}");
    }
    property.report(Measured { quality: Quality::Bad, ..measured("1", 5000) });
    assert_eq!(property.quality(now(9000), 1000, true), Some(Quality::Bad));
    property.report(Measured { at: None, ..measured("1", 0) });
    assert_eq!(property.quality(now(0), 1000, true), Some(Quality::Uncertain));
}

/// One step of a history between a node and the cloud.
#[derive(Debug, Clone)]
enum Step {
    EdgeSets(u8),
    CloudSets(Option<u8>),
    /// The cloud takes the report that is on its way, as devicecontroller does; whether the outcome is lost, so that
    /// it comes again.
    Report {
        again: bool,
    },
    /// The node hears of the newest Device, if it is another one than it has.
    Deliver,
    /// The node loses what is not on disk.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8).prop_map(Step::EdgeSets),
        proptest::option::of(0..4_u8).prop_map(Step::CloudSets),
        any::<bool>().prop_map(|again| Step::Report { again }),
        Just(Step::Deliver),
        Just(Step::Crash),
    ]
}

/// A property in the API: what is wanted, and the answer beside it.
type InCloud = (Option<String>, Option<Answer>);

/// The node, the way up (the newest report of the key wins), and the cloud. Values are few, so that they come back.
#[derive(Debug, Default)]
struct World {
    node: Property,
    /// The overlay on disk.
    disk: Option<Overlay>,
    outbox: Option<Overlay>,
    cloud: InCloud,
    /// What edgehub has.
    held: InCloud,
    ids: u64,
    /// Values that are not taken at all, whatever the base.
    invalid: Option<u8>,
}

impl World {
    fn tell(&mut self) {
        if let Some(overlay) = &self.node.overlay {
            self.outbox = Some(overlay.clone());
        }
    }

    /// As devicecontroller judges.
    fn answer(&mut self, report: &Overlay) {
        if self.cloud.1.as_ref().is_some_and(|answer| answer.id == report.id) {
            return;
        }
        let now = desired_base(self.cloud.0.as_deref());
        let knows = report.base == now || report.earlier.iter().any(|earlier| earlier.version == now);
        let is_invalid = self.invalid.is_some_and(|invalid| report.value == invalid.to_string());
        let refused = if is_invalid || !knows && self.cloud.0.as_deref() != Some(&report.value) {
            Some("no".to_owned())
        } else {
            self.cloud.0 = Some(report.value.clone());
            None
        };
        self.cloud.1 = Some(Answer { id: report.id.clone(), refused });
    }

    fn act(&mut self, step: &Step) {
        match step {
            Step::EdgeSets(value) => {
                self.ids += 1;
                let overlay = self.node.overlay_of(&value.to_string(), &self.ids.to_string());
                self.node.set_overlay(overlay);
                self.disk.clone_from(&self.node.overlay);
                self.tell();
            }
            Step::CloudSets(value) => self.cloud.0 = value.map(|value| value.to_string()),
            Step::Report { again } => {
                if let Some(report) = self.outbox.take() {
                    self.answer(&report);
                    if *again {
                        self.outbox = Some(report);
                    }
                }
            }
            Step::Deliver => {
                // What is equal is not sent: nobody can tell it from what it was.
                if self.held == self.cloud {
                    return;
                }
                self.held.clone_from(&self.cloud);
                let change = self.node.set_cloud(self.held.0.clone(), self.held.1.as_ref());
                self.disk.clone_from(&self.node.overlay);
                if change == CloudChange::Rebased {
                    self.tell();
                }
            }
            Step::Crash => {
                // Edgehub has what was delivered last.
                self.node = Property::default();
                self.node.set_cloud(self.held.0.clone(), self.held.1.as_ref());
                if let Some(overlay) = self.disk.clone() {
                    self.node.set_overlay(overlay);
                    self.disk.clone_from(&self.node.overlay);
                    self.tell();
                }
            }
        }
    }

    fn rest(&mut self) {
        for _ in 0..16 {
            self.act(&Step::Deliver);
            self.act(&Step::Report { again: false });
        }
        self.act(&Step::Deliver);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// However writes, losses, duplicates and restarts are mixed, and whatever is refused: when everything has been
    /// heard, both ends want the same.
    #[test]
    fn every_history_converges(
        steps in proptest::collection::vec(step(), 0..40),
        invalid in proptest::option::of(0..4_u8),
    ) {
        let mut world = World { invalid, ..World::default() };
        for step in &steps {
            world.act(step);
        }
        world.rest();
        prop_assert_eq!(world.node.desired(), world.cloud.0.as_deref());
        prop_assert!(world.node.overlay.is_none() && world.disk.is_none());
    }

    /// A write at the edge holds as long as the cloud does not touch the property.
    #[test]
    fn the_last_write_at_the_edge_wins_where_the_cloud_is_silent(
        values in proptest::collection::vec(0..5_u8, 1..10),
        others in proptest::collection::vec(
            prop_oneof![any::<bool>().prop_map(|again| Step::Report { again }), Just(Step::Deliver), Just(Step::Crash)],
            0..30,
        ),
    ) {
        let mut world = World::default();
        let mut others = others.into_iter();
        for value in &values {
            world.act(&Step::EdgeSets(*value));
            for other in others.by_ref().take(3) {
                world.act(&other);
            }
        }
        world.rest();
        let last = values.last().unwrap().to_string();
        prop_assert_eq!(world.cloud.0, Some(last));
    }

    /// A write of the cloud after everything was heard is the last word, however often old reports come again.
    #[test]
    fn what_was_taken_is_not_taken_twice(values in proptest::collection::vec(0..4_u8, 1..6), last in 0..4_u8) {
        let mut world = World::default();
        for value in &values {
            world.act(&Step::EdgeSets(*value));
            world.act(&Step::Report { again: true });
        }
        world.act(&Step::CloudSets(Some(last)));
        world.rest();
        let last = last.to_string();
        prop_assert_eq!(world.node.desired(), Some(last.as_str()));
        prop_assert_eq!(world.cloud.0, Some(last));
    }

    /// Whatever the clock that runs forward says: Good is only what was reported within the limit.
    #[test]
    fn good_is_only_what_is_fresh(reports in proptest::collection::vec((0..100_000_u64, 0..3_u8), 0..20), at in 0..200_000_u64, limit in 1..50_000_u64, wall in any::<i64>()) {
        let mut property = Property::default();
        let mut last = None;
        let mut times: Vec<_> = reports;
        times.sort_unstable();
        for (time, quality) in times {
            let quality = [Quality::Good, Quality::Uncertain, Quality::Bad][usize::from(quality)];
            property.report(Measured { quality, source_ms: wall, ..measured("1", time) });
            last = Some(time);
        }
        if property.quality(Now { mono: at, wall }, limit, true) == Some(Quality::Good) {
            prop_assert!(at.saturating_sub(last.unwrap()) <= limit);
        }
    }
}
