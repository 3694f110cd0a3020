//! Node lifecycle: notices nodes that are gone, taints them, and evicts what does not tolerate that.
//!
//! [`health`] decides when a node is gone (pure, the time comes in); [`lifecycle`] writes conditions and
//! taints; [`eviction`] deletes pods whose toleration has run out. All three follow Kubernetes, so that
//! tolerations mean here what they mean there.

pub(crate) mod eviction;
pub(crate) mod health;
pub(crate) mod lifecycle;
