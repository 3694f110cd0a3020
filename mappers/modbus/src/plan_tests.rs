//! Tables and properties of the planner.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn span(kind: Kind, start: u16, count: u16) -> Span {
    Span { kind, start, count }
}

fn holding(start: u16, count: u16) -> Span {
    span(Kind::Holding, start, count)
}

fn requests(points: &[Span], limits: &Limits) -> Vec<Span> {
    plan(points, limits, &mut Learned::default()).blocks.into_iter().map(|block| block.span).collect()
}

/// Reads like a device that has no register where `missing` says so. Gives the requests, and the points that got
/// an answer.
fn round(
    points: &[Span],
    limits: &Limits,
    learned: &mut Learned,
    refuses: impl Fn(Span) -> bool,
) -> (usize, BTreeSet<usize>) {
    let plan = plan(points, limits, learned);
    let (mut blocks, mut asked, mut read, mut split) = (plan.blocks, 0, BTreeSet::new(), Vec::new());
    while let Some(block) = blocks.pop() {
        asked += 1;
        if !refuses(block.span) {
            read.extend(block.points.iter().copied());
            if block.points.len() == 1 {
                learned.healed(block.span);
            }
        } else if let Some(halves) = learned.refused(&block, points, "no") {
            split.push(block.span);
            blocks.extend(halves);
        }
    }
    split.iter().for_each(|span| learned.settled(*span));
    (asked, read)
}

#[test]
fn five_hundred_registers_are_four_requests() {
    let points: Vec<Span> = (0..500).rev().map(|at| holding(at, 1)).collect();
    let expected = [holding(0, 125), holding(125, 125), holding(250, 125), holding(375, 125)];
    assert_eq!(requests(&points, &Limits::default()), expected);
    let coils: Vec<Span> = (0..4000).map(|at| span(Kind::Coil, at, 1)).collect();
    let expected = [span(Kind::Coil, 0, 2000), span(Kind::Coil, 2000, 2000)];
    assert_eq!(requests(&coils, &Limits::default()), expected);
}

#[test]
fn gaps_holes_kinds_and_limits_end_a_request() {
    let limits = Limits { registers: 10, gap: 3, ..Limits::default() };
    let table: &[(&[Span], &[Span])] = &[
        (&[holding(0, 1), holding(4, 1)], &[holding(0, 5)]),
        (&[holding(0, 1), holding(5, 1)], &[holding(0, 1), holding(5, 1)]),
        (&[holding(0, 2), span(Kind::Input, 2, 2)], &[holding(0, 2), span(Kind::Input, 2, 2)]),
        (&[holding(0, 8), holding(8, 2)], &[holding(0, 10)]),
        // A value is never torn.
        (&[holding(0, 8), holding(8, 4)], &[holding(0, 8), holding(8, 4)]),
        // Two points in one register, and one that holds the other.
        (&[holding(3, 1), holding(3, 1), holding(2, 4)], &[holding(2, 4)]),
        (&[holding(65_534, 2), holding(65_530, 2)], &[holding(65_530, 6)]),
    ];
    for (points, expected) in table {
        assert_eq!(requests(points, &limits), *expected, "{points:?}");
    }
    let hole = Hole { kind: Kind::Holding, start: 2, end: 3 };
    let limits = Limits { holes: vec![hole], ..limits };
    assert_eq!(requests(&[holding(0, 1), holding(4, 1)], &limits).len(), 2);
    assert_eq!(requests(&[holding(0, 1), holding(2, 1)], &limits).len(), 1, "who asks for it gets it");
}

#[test]
fn one_missing_register_costs_its_neighbours_nothing() {
    let points: Vec<Span> = (0..125).map(|at| holding(at, 1)).collect();
    let missing = |span: Span| (u32::from(span.start)..span.end()).contains(&40);
    let mut learned = Learned::default();
    let (asked, read) = round(&points, &Limits::default(), &mut learned, missing);
    assert_eq!(read.len(), 124);
    assert!(asked <= 15, "two for each halving, {asked}");
    // From then on: left, right, and now and then the missing one alone.
    let later: Vec<usize> = (0..100).map(|_| round(&points, &Limits::default(), &mut learned, missing).0).collect();
    assert!(later.iter().all(|asked| *asked == 2 || *asked == 3), "{later:?}");
    assert!(later.iter().sum::<usize>() < 210, "ever less often: {later:?}");
    // The register appears.
    let mut healed = None;
    for again in 0..=MAX_PAUSE {
        if round(&points, &Limits::default(), &mut learned, |_| false).1.len() == 125 {
            healed = Some(again);
            break;
        }
    }
    assert!(healed.is_some());
    assert_eq!(round(&points, &Limits::default(), &mut learned, |_| false), (1, (0..125).collect()));
}

#[test]
fn a_gap_that_nobody_wrote_down_is_found_and_remembered() {
    let points: Vec<Span> = (0..20).chain(30..50).map(|at| holding(at, 1)).collect();
    let missing = |span: Span| u32::from(span.start) < 30 && span.end() > 20;
    let mut learned = Learned::default();
    assert_eq!(round(&points, &Limits::default(), &mut learned, missing), (3, (0..40).collect()));
    assert_eq!(round(&points, &Limits::default(), &mut learned, missing).0, 2);
}

#[test]
fn a_device_that_bears_less_than_it_should_is_asked_for_less() {
    let points: Vec<Span> = (0..120).map(|at| holding(at, 1)).collect();
    let mut learned = Learned::default();
    let (asked, read) = round(&points, &Limits::default(), &mut learned, |span| span.count > 60);
    assert_eq!((asked, read.len()), (3, 120));
    assert_eq!(round(&points, &Limits::default(), &mut learned, |span| span.count > 60).0, 2);
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Coil), Just(Kind::DiscreteInput), Just(Kind::Holding), Just(Kind::Input)]
}

fn spans() -> impl Strategy<Value = Vec<Span>> {
    let one = (kinds(), prop_oneof![0_u16..400, any::<u16>()], 1_u16..9)
        .prop_map(|(kind, start, count)| span(kind, start.min(u16::MAX - count), count));
    proptest::collection::vec(one, 0..200)
}

fn limits() -> impl Strategy<Value = Limits> {
    let hole =
        (kinds(), 0_u32..400, 1_u32..20).prop_map(|(kind, start, count)| Hole { kind, start, end: start + count });
    (8_u16..=125, 8_u16..=2000, 0_u16..=125, 0_u16..=300, proptest::collection::vec(hole, 0..5))
        .prop_map(|(registers, coils, gap, coil_gap, holes)| Limits { registers, coils, gap, coil_gap, holes })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_point_is_read_once_and_no_request_is_beyond_a_limit(points in spans(), limits in limits()) {
        let mut learned = Learned::default();
        let plan = plan(&points, &limits, &mut learned);
        let mut seen = BTreeSet::new();
        for block in &plan.blocks {
            prop_assert!(block.span.count <= limits.most(block.span.kind));
            let mut wanted = BTreeSet::new();
            for index in &block.points {
                prop_assert!(seen.insert(*index), "{index} is read twice");
                prop_assert!(within(points[*index], block.span));
                wanted.extend(u32::from(points[*index].start)..points[*index].end());
            }
            let mut gap = 0_u32;
            for address in u32::from(block.span.start)..block.span.end() {
                gap = if wanted.contains(&address) { 0 } else { gap + 1 };
                let most = if block.span.kind.is_bit() { limits.coil_gap } else { limits.gap };
                prop_assert!(gap <= u32::from(most));
                let hole = |hole: &Hole| hole.kind == block.span.kind && hole.start <= address && address < hole.end;
                prop_assert!(gap == 0 || !limits.holes.iter().any(hole), "{address} is in a hole");
            }
        }
        prop_assert_eq!(seen.len(), points.len());
        prop_assert!(plan.paused.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_a_device_lacks_takes_down_nothing_else(
        points in spans(), limits in limits(), missing in proptest::collection::btree_set(0_u32..400, 0..12), longest in 8_u16..125
    ) {
        let refuses = |span: Span| {
            span.count > longest || (u32::from(span.start)..span.end()).any(|address| missing.contains(&address))
        };
        let mut learned = Learned::default();
        for _ in 0..4 {
            let (asked, read) = round(&points, &limits, &mut learned, refuses);
            for (index, point) in points.iter().enumerate() {
                prop_assert_eq!(read.contains(&index), !refuses(*point), "point {}", index);
            }
            // A binary tree over the points.
            prop_assert!(asked <= 2 * points.len());
        }
    }
}
