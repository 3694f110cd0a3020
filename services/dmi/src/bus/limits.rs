//! How much of the event bus one device may take.
//!
//! A flood costs its author answers: messages above the rate are not done, and one in a second is told so. All
//! requests that are about no device of the node share one rate. Bounded by [`MAX_DEVICES`]: where so many have come
//! and gone, all rates begin anew.

use std::collections::BTreeMap;

use skerry_common::Key;

use crate::fleet::{Bucket, MAX_DEVICES};

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
    others: Option<Rate>,
}

impl Limits {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, devices: BTreeMap::new(), others: None }
    }

    /// Counts a message about a device of the node, or about none.
    pub(super) fn admit(&mut self, device: Option<&Key>, now_us: u64) -> Admission {
        if self.devices.len() >= MAX_DEVICES && device.is_some_and(|key| !self.devices.contains_key(key)) {
            self.devices.clear();
        }
        let new = || Rate { messages: Bucket::new(self.per_second, now_us), refusals: Bucket::new(1, now_us) };
        let rate = match device {
            Some(key) => self.devices.entry(key.clone()).or_insert_with(new),
            None => self.others.get_or_insert_with(new),
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
        let mut flood = |now| (0..1000).map(|_| limits.admit(Some(&key("a")), now)).collect::<Vec<_>>();
        let count = |all: &[Admission], what| all.iter().filter(|one| **one == what).count();
        let first = flood(0);
        assert_eq!((count(&first, Admission::Admitted), count(&first, Admission::Refused)), (10, 1));
        let later = flood(1_000_000);
        assert_eq!((count(&later, Admission::Admitted), count(&later, Admission::Refused)), (10, 1));
        assert_eq!(limits.admit(Some(&key("b")), 1_000_000), Admission::Admitted);
        assert_eq!(limits.admit(None, 1_000_000), Admission::Admitted);
    }

    #[test]
    fn devices_that_come_and_go_take_no_more_memory_than_a_full_node() {
        let mut limits = Limits::new(10);
        for at in 0..=MAX_DEVICES {
            let key = Key::checked("plant", &format!("d{at}")).unwrap();
            assert_eq!(limits.admit(Some(&key), 0), Admission::Admitted);
            assert!(limits.devices.len() <= MAX_DEVICES);
        }
    }
}
