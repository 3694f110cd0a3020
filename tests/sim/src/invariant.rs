//! What must hold, by name. The ids are those of the project's list of properties; a violation is
//! reported under the same name wherever it is found.

use std::fmt;

/// A property that no fault may break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// N1
    Conserve,
    /// N2
    NoInvention,
    /// N3
    Intact,
    /// N4
    Forward,
    /// N5
    NoGhost,
    /// N6
    Converge,
    /// N7
    Honest,
    /// The bounds of memory.
    Bounded,
    /// Neither end may refuse what a correct peer sends.
    Protocol,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Conserve,
        Self::NoInvention,
        Self::Intact,
        Self::Forward,
        Self::NoGhost,
        Self::Converge,
        Self::Honest,
        Self::Bounded,
        Self::Protocol,
    ];

    /// Short name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Conserve => "N1 conserve",
            Self::NoInvention => "N2 no invention",
            Self::Intact => "N3 intact",
            Self::Forward => "N4 forward",
            Self::NoGhost => "N5 no ghost",
            Self::Converge => "N6 converge",
            Self::Honest => "N7 honest",
            Self::Bounded => "bounded",
            Self::Protocol => "protocol",
        }
    }

    /// What it says.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Conserve => "every report that was durable at the edge reaches the API once faults end",
            Self::NoInvention => "nothing arrives that nobody wrote for this node",
            Self::Intact => "what arrives has the content that was written",
            Self::Forward => "per object, versions never go back, at the edge or in the API",
            Self::NoGhost => "a deleted object does not return, and silence deletes nothing",
            Self::Converge => "after the last fault both sides hold the same",
            Self::Honest => "an acknowledgement is sent only after the commit that makes it true",
            Self::Bounded => "memory is bounded by the number of objects, not of changes",
            Self::Protocol => "neither end refuses what the other sends",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.text())
    }
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
}

impl Violation {
    pub(crate) fn new(invariant: Invariant, detail: impl Into<String>) -> Self {
        Self { invariant, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// The result of a step.
pub(crate) type Check = Result<(), Violation>;

/// `Err` with this invariant unless the condition holds.
pub(crate) fn check(holds: bool, invariant: Invariant, detail: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Violation::new(invariant, detail())) }
}
