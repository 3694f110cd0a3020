//! The rule of convergence by tables and by random histories, and what a value's quality says.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use skerry_common::kinds::desired_base;
use skerry_k8s_types::PropertyType;

use super::{CloudChange, Measured, Now, Overlay, Property, Quality, Sync};

fn cloud(value: &str) -> Property {
    Property { cloud: Some(value.into()), ..Property::default() }
}

fn set(property: &mut Property, value: &str) {
    let overlay = property.overlay_of(value);
    assert!(property.set_overlay(overlay));
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
    assert_eq!(property.set_cloud(Some("1".into())), CloudChange::Same);
    assert_eq!(property.desired(), Some("2"));
    // Accepted.
    assert_eq!(property.set_cloud(Some("2".into())), CloudChange::OverlayEnded);
    assert_eq!((property.desired(), &property.overlay), (Some("2"), &None));
    // Overruled, also by nothing.
    for value in [Some("9".to_owned()), None] {
        set(&mut property, "3");
        assert_eq!(property.set_cloud(value.clone()), CloudChange::OverlayEnded);
        assert_eq!(property.desired(), value.as_deref());
        property.set_cloud(Some("2".into()));
    }
    // Where the cloud wanted nothing.
    let mut property = Property::default();
    set(&mut property, "5");
    assert_eq!(property.overlay.as_ref().unwrap().base, "none");
    assert_eq!(property.set_cloud(None), CloudChange::Same);
    assert_eq!(property.desired(), Some("5"));
}

#[test]
fn a_later_write_is_not_undone_by_the_acceptance_of_an_earlier_one() {
    let mut property = cloud("1");
    set(&mut property, "2");
    set(&mut property, "3");
    set(&mut property, "4");
    assert_eq!(property.set_cloud(Some("2".into())), CloudChange::Rebased);
    assert_eq!(property.desired(), Some("4"));
    let overlay = property.overlay.clone().unwrap();
    assert_eq!((overlay.base, overlay.earlier), (desired_base(Some("2")), vec![desired_base(Some("3"))]));
    assert_eq!(property.set_cloud(Some("3".into())), CloudChange::Rebased);
    assert_eq!(property.set_cloud(Some("4".into())), CloudChange::OverlayEnded);
    assert_eq!(property.desired(), Some("4"));
}

#[test]
fn an_overlay_that_was_made_before_a_change_of_the_cloud_does_not_hold() {
    let mut property = cloud("1");
    let overlay = property.overlay_of("2");
    property.set_cloud(Some("3".into()));
    assert!(!property.set_overlay(overlay));
    assert_eq!(property.desired(), Some("3"));
    // Many writes in a row are bounded.
    for value in 0..100 {
        set(&mut property, &value.to_string());
    }
    assert!(property.overlay.unwrap().earlier.len() <= 8);
}

#[test]
fn a_desired_value_is_synced_when_the_device_has_it() {
    let int = Some(PropertyType::Int);
    let mut property = Property::default();
    assert_eq!(property.sync(int), Sync::Nothing);
    property.set_cloud(Some("40".into()));
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
    property.set_cloud(Some("41".into()));
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
    /// The cloud takes the oldest report that is on its way, as devicecontroller does.
    Report,
    /// The node hears of the newest value in the cloud.
    Deliver,
    /// The node loses what is not on disk.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..5_u8).prop_map(Step::EdgeSets),
        proptest::option::of(0..5_u8).prop_map(Step::CloudSets),
        Just(Step::Report),
        Just(Step::Deliver),
        Just(Step::Crash),
    ]
}

/// The node, the way up (the newest report of the key wins), and the cloud.
#[derive(Debug, Default)]
struct World {
    node: Property,
    /// The overlay on disk.
    disk: Option<Overlay>,
    outbox: Option<Overlay>,
    cloud: Option<String>,
    /// Changes with each write in the cloud, also back to an old value.
    generation: u64,
    seen: u64,
}

impl World {
    fn tell(&mut self) {
        self.outbox.clone_from(&self.node.overlay);
    }

    fn act(&mut self, step: &Step) {
        match step {
            Step::EdgeSets(value) => {
                let overlay = self.node.overlay_of(&value.to_string());
                self.node.set_overlay(overlay);
                self.disk.clone_from(&self.node.overlay);
                self.tell();
            }
            Step::CloudSets(value) => {
                self.cloud = value.map(|value| value.to_string());
                self.generation += 1;
            }
            Step::Report => {
                if let Some(report) = self.outbox.take()
                    && report.base == desired_base(self.cloud.as_deref())
                    && self.cloud.as_deref() != Some(&report.value)
                {
                    self.cloud = Some(report.value);
                    self.generation += 1;
                }
            }
            Step::Deliver => {
                let news = self.seen != self.generation;
                self.seen = self.generation;
                let change = self.node.set_cloud(self.cloud.clone());
                if self.node.overlay.is_none() {
                    self.disk = None;
                } else if news || change == CloudChange::Rebased {
                    self.tell();
                }
            }
            Step::Crash => {
                // Edgehub has the value that was delivered last.
                let known = self.node.cloud.clone();
                self.node = Property { cloud: known, ..Property::default() };
                if let Some(overlay) = self.disk.clone() {
                    self.node.set_overlay(overlay);
                    self.tell();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// However writes, losses and restarts are mixed: when everything has been heard, both ends want the same.
    #[test]
    fn every_history_converges(steps in proptest::collection::vec(step(), 0..40)) {
        let mut world = World::default();
        for step in &steps {
            world.act(step);
        }
        for _ in 0..8 {
            world.act(&Step::Deliver);
            world.act(&Step::Report);
        }
        world.act(&Step::Deliver);
        prop_assert_eq!(world.node.desired(), world.cloud.as_deref());
        prop_assert!(world.node.overlay.is_none() && world.disk.is_none());
    }

    /// A write at the edge holds as long as the cloud does not touch the property.
    #[test]
    fn the_last_write_at_the_edge_wins_where_the_cloud_is_silent(
        values in proptest::collection::vec(0..5_u8, 1..10),
        others in proptest::collection::vec(prop_oneof![Just(Step::Report), Just(Step::Deliver), Just(Step::Crash)], 0..30),
    ) {
        let mut world = World::default();
        let mut others = others.into_iter();
        for value in &values {
            world.act(&Step::EdgeSets(*value));
            for other in others.by_ref().take(3) {
                world.act(&other);
            }
        }
        for _ in 0..16 {
            world.act(&Step::Deliver);
            world.act(&Step::Report);
        }
        world.act(&Step::Deliver);
        let last = values.last().unwrap().to_string();
        prop_assert_eq!(world.cloud, Some(last));
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
