//! Bugs that can be planted, to prove that the simulation would see them.
//!
//! Each lives in the harness around the state machines, at the place where a service could make
//! the same mistake; no production code knows of them. A simulation that misses one within 1,000
//! seeds is blind, and the test that counts the seeds fails.

use std::fmt;
use std::str::FromStr;

/// A mistake that a service could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The node acknowledges a delta when it has it in memory.
    AckBeforeCommit,
    /// The node says that it holds what it received, not what it has on disk.
    ResumeWrongVersion,
    /// The source is told of a deletion as an event and forgets it while the key is in flight.
    LostDelete,
    /// The sink has no fence: an older session of a node may write.
    TwoEpochs,
    /// The source keeps a queue of changes instead of a set of dirty keys.
    UnboundedQueue,
    /// The source takes a key that is missing in a list as deleted.
    EmptyListDeletes,
    /// A replica of the source serves a node from a cache that is older than what the node saw.
    StaleReplica,
    /// The node reads what it holds while changes of the old stream are still being written.
    HeldTooEarly,
    /// The node shows its services what is not on disk yet.
    LocalBeforeCommit,
    /// After its store was lost, the node tells its services that all objects are gone.
    EmptyStoreDeletes,
    /// The node sends a status again that a newer one has replaced.
    SupersededResent,
    /// The sink answers before the API has the report.
    CommittedBeforeApi,
    /// A new process of the sink does not know which sessions the old one fenced, and a hub attaches
    /// an old node stream to it.
    FenceForgotten,
    /// The node opens a subscription anew under its old number while the old one still answers.
    ReopenSameId,
    /// The node calls a rebuilt store complete though objects were refused on the way.
    CompleteDespiteRefusal,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::AckBeforeCommit,
        Self::ResumeWrongVersion,
        Self::LostDelete,
        Self::TwoEpochs,
        Self::UnboundedQueue,
        Self::EmptyListDeletes,
        Self::StaleReplica,
        Self::HeldTooEarly,
        Self::LocalBeforeCommit,
        Self::EmptyStoreDeletes,
        Self::SupersededResent,
        Self::CommittedBeforeApi,
        Self::FenceForgotten,
        Self::ReopenSameId,
        Self::CompleteDespiteRefusal,
    ];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeCommit => "ack-before-commit",
            Self::ResumeWrongVersion => "resume-wrong-version",
            Self::LostDelete => "lost-delete",
            Self::TwoEpochs => "two-epochs",
            Self::UnboundedQueue => "unbounded-queue",
            Self::EmptyListDeletes => "empty-list-deletes",
            Self::StaleReplica => "stale-replica",
            Self::HeldTooEarly => "held-too-early",
            Self::LocalBeforeCommit => "local-before-commit",
            Self::EmptyStoreDeletes => "empty-store-deletes",
            Self::SupersededResent => "superseded-resent",
            Self::CommittedBeforeApi => "committed-before-api",
            Self::FenceForgotten => "fence-forgotten",
            Self::ReopenSameId => "reopen-same-id",
            Self::CompleteDespiteRefusal => "complete-despite-refusal",
        }
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|bug| bug.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|bug| bug.name()).collect();
            format!("no such bug; there are: {}", names.join(", "))
        })
    }
}
