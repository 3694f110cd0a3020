//! What the other end can do wrong.
//!
//! Every machine of this crate returns [`ProtocolError`] for a message that a correct peer never
//! sends. The caller ends the stream with the error's text (towards a client: `INVALID_ARGUMENT`,
//! towards a server: a new attempt after backoff) and counts it under [`ProtocolError::code`]. A
//! message that is refused has changed nothing in the machine.

use thiserror::Error;

/// A message that a correct peer never sends. End the stream and count it; both ends start again
/// from what is held, so nothing is lost by it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The message names another subscription than the one that it was given to. The multiplexer of
    /// the peer (or ours) is wrong.
    #[error("message for subscription {got} arrived at subscription {expected}")]
    UnknownSubscription {
        /// The subscription of the machine.
        expected: u64,
        /// What the message said.
        got: u64,
    },
    /// A delta, `InSync`, `Held` or acknowledgement came before the subscription was opened, or a
    /// `Held` after its list had ended.
    #[error("{message} came at the wrong time")]
    OutOfOrder {
        /// The kind of message.
        message: &'static str,
    },
    /// A delta's nonce is not greater than the one before: the stream repeats itself or two streams
    /// are mixed up.
    #[error("nonce {got} after nonce {last}")]
    NonceNotGrowing {
        /// The last nonce taken.
        last: u64,
        /// What the delta said.
        got: u64,
    },
    /// An acknowledgement for a delta that is not in flight: never sent, or acknowledged before.
    #[error("nonce {nonce} is not in flight")]
    UnknownNonce {
        /// What the acknowledgement said.
        nonce: u64,
    },
    /// The source sent more deltas than the window allows without an acknowledgement.
    #[error("more than {window} deltas without an acknowledgement")]
    WindowExceeded {
        /// The subscriber's window.
        window: usize,
    },
    /// A count or size is over its limit.
    #[error("{what} is {got}, the limit is {limit}")]
    TooLarge {
        /// What was counted or measured.
        what: &'static str,
        /// The value.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// A delta without any change, perhaps from a peer that speaks a newer protocol. It is not
    /// guessed what it meant.
    #[error("the delta carries no change")]
    EmptyDelta,
    /// One delta names a key twice, or upserts and deletes it.
    #[error("the delta names {key} twice")]
    DuplicateKey {
        /// `namespace/name`.
        key: String,
    },
    /// A `Nack` names a key that its delta did not carry.
    #[error("{key} is not in delta {nonce}")]
    ForeignFailure {
        /// `namespace/name`.
        key: String,
        /// The delta.
        nonce: u64,
    },
    /// A required field is missing.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A name, version or enum value that no correct peer sends. The value itself is not repeated:
    /// it may hold control characters.
    #[error("{field} is not valid: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The rule that it broke.
        reason: &'static str,
    },
}

impl ProtocolError {
    /// Stable name, for metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownSubscription { .. } => "unknown_subscription",
            Self::OutOfOrder { .. } => "out_of_order",
            Self::NonceNotGrowing { .. } => "nonce_not_growing",
            Self::UnknownNonce { .. } => "unknown_nonce",
            Self::WindowExceeded { .. } => "window_exceeded",
            Self::TooLarge { .. } => "too_large",
            Self::EmptyDelta => "empty_delta",
            Self::DuplicateKey { .. } => "duplicate_key",
            Self::ForeignFailure { .. } => "foreign_failure",
            Self::Missing { .. } => "missing",
            Self::Invalid { .. } => "invalid",
        }
    }
}
