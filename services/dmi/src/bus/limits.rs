//! How much of the event bus one device may take.
//!
//! A flood costs its author answers: messages above the rate are not done, and one in a second is told so. Requests
//! for the node's members share one rate, and those about no device of the node another. Bounded by [`MAX_DEVICES`]: where so many have come
//! and gone, all rates begin anew.

use std::collections::BTreeMap;

use skerry_common::Key;

use crate::fleet::{Bucket, MAX_DEVICES};

/// Whom a message is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum About<'k> {
    /// A device of the node.
    Device(&'k Key),
    /// All of them.
    Members,
    /// No device of the node.
    Nobody,
}

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Do it.
    Admitted,
    /// Say that it is too much.
    Refused,
    /// Do nothing.
    Ignored,
}

#[derive(Debug)]
struct Rate {
    messages: Bucket,
    refusals: Bucket,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Limits {
    per_second: u32,
    devices: BTreeMap<Key, Rate>,
    members: Option<Rate>,
    nobody: Option<Rate>,
}

impl Limits {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, devices: BTreeMap::new(), members: None, nobody: None }
    }

    /// Counts a message.
    pub(super) fn admit(&mut self, about: About<'_>, now_us: u64) -> Admission {
        let new = || Rate { messages: Bucket::new(self.per_second, now_us), refusals: Bucket::new(1, now_us) };
        let rate = match about {
            About::Device(key) => {
                if self.devices.len() >= MAX_DEVICES && !self.devices.contains_key(key) {
                    self.devices.clear();
                }
                self.devices.entry(key.clone()).or_insert_with(new)
            }
            About::Members => self.members.get_or_insert_with(new),
            About::Nobody => self.nobody.get_or_insert_with(new),
        };
        if rate.messages.take(1, now_us).is_ok() {
            Admission::Admitted
        } else if rate.refusals.take(1, now_us).is_ok() {
            Admission::Refused
        } else {
            Admission::Ignored
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_flood_takes_nothing_from_others_and_is_told_once_a_second() {
        let key = |name| Key::checked("plant", name).unwrap();
        let mut limits = Limits::new(10);
        let mut flood = |now| (0..1000).map(|_| limits.admit(About::Device(&key("a")), now)).collect::<Vec<_>>();
        let count = |all: &[Admission], what| all.iter().filter(|one| **one == what).count();
        let first = flood(0);
        assert_eq!((count(&first, Admission::Admitted), count(&first, Admission::Refused)), (10, 1));
        let later = flood(1_000_000);
        assert_eq!((count(&later, Admission::Admitted), count(&later, Admission::Refused)), (10, 1));
        assert_eq!(limits.admit(About::Device(&key("b")), 1_000_000), Admission::Admitted);
        while limits.admit(About::Nobody, 1_000_000) != Admission::Ignored {}
        assert_eq!(limits.admit(About::Members, 1_000_000), Admission::Admitted);
    }

    #[test]
    fn devices_that_come_and_go_take_no_more_memory_than_a_full_node() {
        let mut limits = Limits::new(10);
        for at in 0..=MAX_DEVICES {
            let key = Key::checked("plant", &format!("d{at}")).unwrap();
            assert_eq!(limits.admit(About::Device(&key), 0), Admission::Admitted);
            assert!(limits.devices.len() <= MAX_DEVICES);
        }
    }
}
