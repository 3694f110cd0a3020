//! A mapper as the node knows it: who it is, what it may do, and what it has yet to hear.
//!
//! Limits: [`Limits`] for each mapper, and [`MAX_MAPPERS`]; what a mapper has yet to hear is a set of names.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skerry_common::Key;
use tokio::sync::Notify;

/// Mappers of a node. A mapper is a program that somebody installed; hundreds are a mistake.
pub(crate) const MAX_MAPPERS: usize = 128;
/// Longest names of mappers and protocols, as of objects in the API.
const MAX_NAME_BYTES: usize = 253;

/// What names a mapper.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(String, String)", into = "(String, String)")]
pub(crate) struct MapperId {
    pub(crate) protocol: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl From<(String, String)> for MapperId {
    fn from((protocol, name): (String, String)) -> Self {
        Self { protocol: protocol.into(), name: name.into() }
    }
}

impl From<MapperId> for (String, String) {
    fn from(id: MapperId) -> Self {
        (id.protocol.to_string(), id.name.to_string())
    }
}

impl MapperId {
    /// Checks names that came from outside: they end in logs, messages and keys of the store.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub(crate) fn checked(protocol: &str, name: &str) -> Result<Self, String> {
        for (what, text) in [("name", name), ("protocol", protocol)] {
            if text.is_empty() {
                return Err(format!("the mapper's {what} is empty"));
            }
            if text.len() > MAX_NAME_BYTES || text.chars().any(|c| c.is_control() || c == '/') {
                return Err(format!(
                    "the mapper's {what} must be shorter than 254 bytes, without '/' and control characters"
                ));
            }
        }
        Ok(Self { protocol: protocol.into(), name: name.into() })
    }
}

impl fmt::Display for MapperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.name)
    }
}

/// How a mapper speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    /// KubeEdge's unary calls.
    V1beta1,
    /// Our stream.
    V1,
}

/// The process that speaks for a mapper, by the kernel's word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) pid: Option<i32>,
    /// Control group of its container; empty for a process outside of containers.
    #[serde(default)]
    pub(crate) container: String,
}

impl Caller {
    /// Whether another process may speak for the mapper of this one: the same process, or one of the same
    /// container, of the same user. A mapper that runs as root may be replaced by root alone.
    pub(crate) fn may_act_for(&self, owner: &Self) -> bool {
        let same_container = !self.container.is_empty() && self.container == owner.container;
        self.uid == owner.uid && (same_container || (self.pid.is_some() && self.pid == owner.pid))
    }
}

/// What one mapper may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Values in one second, in the long run.
    pub(crate) values_per_second: u32,
    /// Unary calls in one second, in the long run.
    pub(crate) calls_per_second: u32,
}

/// Tokens of a rate, by the clock that only runs forward: a second's worth may come at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    per_second: u64,
    /// Millionths of tokens.
    micro: u64,
    at_us: u64,
}

impl Bucket {
    const MICROS: u64 = 1_000_000;

    pub(crate) fn new(per_second: u32, now_us: u64) -> Self {
        let per_second = u64::from(per_second.max(1));
        Self { per_second, micro: per_second.saturating_mul(Self::MICROS), at_us: now_us }
    }

    /// Takes `count` tokens, or says after how many microseconds to ask again. More than a second's worth is
    /// taken as a second's worth: it must not wait for ever.
    pub(crate) fn take(&mut self, count: u64, now_us: u64) -> Result<(), u64> {
        let full = self.per_second.saturating_mul(Self::MICROS);
        let passed = now_us.saturating_sub(self.at_us);
        self.micro = self.micro.saturating_add(passed.saturating_mul(self.per_second)).min(full);
        self.at_us = self.at_us.max(now_us);
        let wanted = count.saturating_mul(Self::MICROS).min(full);
        if self.micro >= wanted {
            self.micro -= wanted;
            return Ok(());
        }
        Err((wanted - self.micro).div_ceil(self.per_second))
    }
}

/// Whether a mapper is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// It is, since this time of the wall clock.
    Connected {
        /// Milliseconds since the epoch.
        since_ms: i64,
    },
    /// It has been away since this time of the clock that only runs forward.
    Away {
        /// Milliseconds since the start.
        since: u64,
        /// The same by the wall clock.
        since_ms: i64,
    },
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Mapper {
    pub(crate) id: MapperId,
    pub(crate) api: Api,
    pub(crate) version: String,
    pub(crate) caller: Caller,
    /// Namespaces that it takes; empty: all.
    pub(crate) namespaces: BTreeSet<String>,
    pub(crate) link: Link,
    /// Counts connections, so that the end of an old one says nothing about the new one.
    pub(crate) epoch: u64,
    /// Devices whose spec, desired values or assignment the mapper has yet to hear of.
    pub(crate) dirty: BTreeSet<Key>,
    /// Everything there is was marked dirty once, so that the mapper can be told that this is all.
    pub(crate) complete: bool,
    pub(crate) wake: Arc<Notify>,
    pub(crate) values_bucket: Bucket,
    pub(crate) calls_bucket: Bucket,
    /// Calls that wait for their turn.
    pub(crate) waiting: usize,
    /// Devices that it has.
    pub(crate) devices: usize,
    pub(crate) values: u64,
    pub(crate) refused: u64,
    pub(crate) problem: String,
}

impl Mapper {
    /// Whether it may serve a device.
    pub(crate) fn takes(&self, protocol: &str, namespace: &str) -> bool {
        *self.id.protocol == *protocol && (self.namespaces.is_empty() || self.namespaces.contains(namespace))
    }

    /// Whether it is there.
    pub(crate) fn connected(&self) -> bool {
        matches!(self.link, Link::Connected { .. })
    }

    /// Marks a device and wakes the mapper's task.
    pub(crate) fn mark(&mut self, key: &Key) {
        self.dirty.insert(key.clone());
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_burst_of_a_second_and_then_the_rate() {
        let mut bucket = Bucket::new(1000, 0);
        assert!(bucket.take(1000, 0).is_ok());
        assert_eq!(bucket.take(1, 0), Err(1000));
        assert!(bucket.take(1, 1000).is_ok());
        assert_eq!(bucket.take(500, 1000), Err(500_000));
        // The clock may stand still, and does not run backward.
        assert!(bucket.take(1, 500).is_err());
        // More than a second's worth passes when the bucket is full.
        assert!(bucket.take(1_000_000, 2_000_000).is_ok());
    }

    #[test]
    fn who_may_speak_for_a_mapper() {
        let caller = |uid, pid, container: &str| Caller { uid, pid, container: container.into() };
        let owner = caller(10, Some(7), "");
        assert!(caller(10, Some(7), "").may_act_for(&owner));
        assert!(!caller(10, Some(8), "").may_act_for(&owner));
        assert!(!caller(0, Some(8), "").may_act_for(&owner));
        assert!(!caller(10, None, "").may_act_for(&caller(10, None, "")));
        assert!(caller(10, Some(8), "/pod/c").may_act_for(&caller(10, Some(7), "/pod/c")));
        assert!(!caller(10, Some(8), "/pod/d").may_act_for(&caller(10, Some(7), "/pod/c")));
    }

    #[test]
    fn names_are_checked() {
        assert!(MapperId::checked("modbus", "modbus-mapper").is_ok());
        for (protocol, name) in
            [("", "m"), ("p", ""), ("p", "a/b"), ("p", "a\n"), ("p\u{1b}", "a"), ("p", &"x".repeat(254))]
        {
            assert!(MapperId::checked(protocol, name).is_err(), "{protocol:?} {name:?}");
        }
    }
}
