//! Bytes by kind, of one session or of the whole replica.
//!
//! Counted are the bytes of our messages, without framing and TLS: that is what tells a user which
//! objects cost a link. The number of kinds is bounded by the configuration.

use std::sync::{Mutex, PoisonError};

use skerry_proto::hub::v1::KindUsage;

/// Counts of one kind.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    down_bytes: u64,
    down_messages: u64,
    up_bytes: u64,
    up_messages: u64,
}

/// Counts of all kinds. The index of a kind is given by the routes.
#[derive(Debug, Default)]
pub(crate) struct Usage(Mutex<Vec<(u16, Counts)>>);

impl Usage {
    /// Something of this kind went to the node.
    pub(crate) fn down(&self, kind: u16, bytes: usize) {
        self.with(kind, |counts| {
            counts.down_bytes += bytes as u64;
            counts.down_messages += 1;
        });
    }

    /// Something of this kind came from the node.
    pub(crate) fn up(&self, kind: u16, bytes: usize) {
        self.with(kind, |counts| {
            counts.up_bytes += bytes as u64;
            counts.up_messages += 1;
        });
    }

    /// The counts with the names of their kinds.
    pub(crate) fn report(&self, name: impl Fn(u16) -> String) -> Vec<KindUsage> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts
            .iter()
            .map(|(kind, c)| KindUsage {
                kind: name(*kind),
                down_bytes: c.down_bytes,
                down_messages: c.down_messages,
                up_bytes: c.up_bytes,
                up_messages: c.up_messages,
            })
            .collect()
    }

    fn with(&self, kind: u16, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A handful of kinds: a list is smaller than a map and as fast.
        if let Some((_, found)) = counts.iter_mut().find(|(k, _)| *k == kind) {
            change(found);
        } else {
            let mut fresh = Counts::default();
            change(&mut fresh);
            counts.push((kind, fresh));
        }
    }
}
