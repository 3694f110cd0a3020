//! Which requests read the points that are due: as few as the device can bear.
//!
//! No IO. Points of one kind are sorted by address and merged into one request while the request is not longer
//! than allowed, the registers between two points that nobody wants are few, and none of them is in a hole. A
//! point is never torn: the halves of a 32-bit value read one after the other may be of different times.
//!
//! Devices have holes that nobody wrote down. A merged request that is refused is split, at its widest gap or
//! else in the middle, and [`Learned`] remembers the outcome: a point that fails alone is read alone from then
//! on, ever less often; where the halves succeed, requests do not reach over that place again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Most registers in one read, by the specification.
const MAX_REGISTERS: u16 = 125;
/// Most coils or discrete inputs in one read, by the specification.
const MAX_COILS: u16 = 2_000;
/// Registers that are read and thrown away rather than asked for in a second request: on a line at 9600 baud a
/// request costs as much as 16 registers.
const DEFAULT_GAP: u16 = 16;
/// The same for coils, of which 16 are as long as a register.
const DEFAULT_COIL_GAP: u16 = 256;
/// Rounds in which a point that failed alone is not asked for, at most: a minute at a cycle of a second.
const MAX_PAUSE: u32 = 60;

/// What is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A bit that may be written.
    Coil,
    /// A bit that may not.
    DiscreteInput,
    /// A register that may be written.
    Holding,
    /// A register that may not.
    Input,
}

impl Kind {
    /// Whether it is one bit, not 16.
    pub fn is_bit(self) -> bool {
        matches!(self, Self::Coil | Self::DiscreteInput)
    }

    /// Whether it can be written.
    pub fn writable(self) -> bool {
        matches!(self, Self::Coil | Self::Holding)
    }

    /// Most of it in one read, by the specification.
    pub fn most(self) -> u16 {
        if self.is_bit() { MAX_COILS } else { MAX_REGISTERS }
    }
}

/// Where a point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// What is addressed.
    pub(crate) kind: Kind,
    /// The first address.
    pub(crate) start: u16,
    /// How many, at least 1.
    pub(crate) count: u16,
}

impl Span {
    /// The address after the last one.
    pub(crate) fn end(self) -> u32 {
        u32::from(self.start) + u32::from(self.count)
    }
}

/// Addresses that must not be read together with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// What is addressed.
    pub kind: Kind,
    /// The first address.
    pub start: u32,
    /// The address after the last one.
    pub end: u32,
}

/// What a device can bear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `maxRegisters`: in one request.
    pub registers: u16,
    /// `maxCoils`: in one request.
    pub coils: u16,
    /// `maxGap`: registers between two points that are read for nothing.
    pub gap: u16,
    /// `maxCoilGap`: the same for coils.
    pub coil_gap: u16,
    /// `holes`.
    pub holes: Vec<Hole>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            registers: MAX_REGISTERS,
            coils: MAX_COILS,
            gap: DEFAULT_GAP,
            coil_gap: DEFAULT_COIL_GAP,
            holes: Vec::new(),
        }
    }
}

impl Limits {
    /// Most of a kind in one request.
    pub(crate) fn most(&self, kind: Kind) -> u16 {
        if kind.is_bit() { self.coils } else { self.registers }
    }

    fn bridges(&self, kind: Kind, gap: Range<u32>) -> bool {
        let most = if kind.is_bit() { self.coil_gap } else { self.gap };
        gap.is_empty()
            || (gap.end - gap.start <= u32::from(most)
                && !self.holes.iter().any(|hole| hole.kind == kind && hole.start < gap.end && gap.start < hole.end))
    }
}

/// One request and the points that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// What is asked for.
    pub(crate) span: Span,
    /// Indices of the points, in the order of their addresses.
    pub(crate) points: Vec<usize>,
}

/// What the device has taught: see the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Learned {
    /// Addresses that no request reaches over.
    walls: BTreeSet<(Kind, u32)>,
    /// Points that were refused alone.
    bad: BTreeMap<Span, Pause>,
}

#[derive(Debug, Clone, Default)]
struct Pause {
    /// Rounds until it is asked for again.
    left: u32,
    /// How many there were the last time.
    last: u32,
    /// The device's words.
    problem: String,
}

/// The requests of one round.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What to ask for.
    pub(crate) blocks: Vec<Block>,
    /// Points that are not asked for in this round because the device refused them, and its words.
    pub(crate) paused: Vec<(usize, String)>,
}

/// Merges the points into requests. Each is in exactly one block, or is paused.
pub(crate) fn plan(points: &[Span], limits: &Limits, learned: &mut Learned) -> Plan {
    let mut plan = Plan::default();
    let mut alone = Vec::new();
    let mut order: Vec<(Span, usize)> = Vec::with_capacity(points.len());
    for (index, point) in points.iter().copied().enumerate() {
        match learned.bad.get_mut(&point) {
            None => order.push((point, index)),
            Some(pause) if pause.left > 0 => {
                pause.left -= 1;
                plan.paused.push((index, pause.problem.clone()));
            }
            Some(_) => alone.push(Block { span: point, points: vec![index] }),
        }
    }
    order.sort_unstable();
    for (point, index) in order {
        let merged = plan.blocks.last_mut().and_then(|block| {
            let span = merge(block.span, point, limits, learned)?;
            Some((block, span))
        });
        match merged {
            Some((block, span)) => {
                block.span = span;
                block.points.push(index);
            }
            None => plan.blocks.push(Block { span: point, points: vec![index] }),
        }
    }
    plan.blocks.extend(alone);
    plan
}

/// Both as one, if the device can bear it. `next` does not begin before `span`.
fn merge(span: Span, next: Span, limits: &Limits, learned: &Learned) -> Option<Span> {
    let end = span.end().max(next.end());
    let count = u16::try_from(end - u32::from(span.start)).ok()?;
    let gap = span.end()..u32::from(next.start);
    let walls = (span.kind, u32::from(span.start) + 1)..(span.kind, end);
    let fits = span.kind == next.kind
        && count <= limits.most(span.kind)
        && limits.bridges(span.kind, gap)
        && learned.walls.range(walls).next().is_none();
    fits.then_some(Span { count, ..span })
}

impl Learned {
    /// A request was refused, as one for an address that is not there. The two halves to ask for instead; if it
    /// was one point only, nothing, and the point is remembered with the device's words.
    pub(crate) fn refused(&mut self, block: &Block, points: &[Span], problem: &str) -> Option<[Block; 2]> {
        let spans: Vec<(usize, Span)> =
            block.points.iter().filter_map(|index| Some((*index, *points.get(*index)?))).collect();
        let Some(at) = cut(&spans) else {
            self.pause(block.span, problem);
            return None;
        };
        let (left, right) = spans.split_at_checked(at)?;
        let halves = [union(left)?, union(right)?];
        for half in &halves {
            // The end too: between two halves there may be a gap that no point wants.
            self.walls.insert((half.span.kind, u32::from(half.span.start)));
            self.walls.insert((half.span.kind, half.span.end()));
        }
        Some(halves)
    }

    /// After all parts of a refused request were asked for: where single points were the reason, they alone are
    /// remembered, and their neighbours are read together again.
    pub(crate) fn settled(&mut self, refused: Span) {
        let kind = refused.kind;
        let bad: Vec<Span> = self.bad.keys().copied().filter(|span| within(*span, refused)).collect();
        if bad.is_empty() {
            return;
        }
        let inside: Vec<_> =
            self.walls.range((kind, u32::from(refused.start))..=(kind, refused.end())).copied().collect();
        for wall in inside {
            self.walls.remove(&wall);
        }
        for span in bad {
            self.walls.insert((kind, u32::from(span.start)));
            self.walls.insert((kind, span.end()));
        }
    }

    /// A point that had been refused was read.
    pub(crate) fn healed(&mut self, span: Span) {
        if self.bad.remove(&span).is_some() {
            self.walls.remove(&(span.kind, u32::from(span.start)));
            self.walls.remove(&(span.kind, span.end()));
        }
    }

    fn pause(&mut self, span: Span, problem: &str) {
        let pause = self.bad.entry(span).or_default();
        pause.last = (pause.last * 2).clamp(1, MAX_PAUSE);
        pause.left = pause.last;
        pause.problem.clear();
        pause.problem.push_str(problem);
    }
}

fn within(inner: Span, outer: Span) -> bool {
    inner.kind == outer.kind && inner.start >= outer.start && inner.end() <= outer.end()
}

/// Where to split: before the point after the widest gap, else in the middle. Points at the same address stay
/// together as long as there is another place.
fn cut(spans: &[(usize, Span)]) -> Option<usize> {
    if spans.len() < 2 {
        return None;
    }
    let mut widest = (0, 0);
    let mut end = 0;
    for (at, (_, span)) in spans.iter().enumerate() {
        let gap = u32::from(span.start).saturating_sub(end);
        if at > 0 && gap > widest.0 {
            widest = (gap, at);
        }
        end = end.max(span.end());
    }
    Some(if widest.0 > 0 { widest.1 } else { spans.len() / 2 })
}

fn union(spans: &[(usize, Span)]) -> Option<Block> {
    let first = spans.first()?.1;
    let end = spans.iter().map(|(_, span)| span.end()).max()?;
    let count = u16::try_from(end - u32::from(first.start)).ok()?;
    Some(Block { span: Span { count, ..first }, points: spans.iter().map(|(index, _)| *index).collect() })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
