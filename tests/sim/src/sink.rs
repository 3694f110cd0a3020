//! The sink: it checks each report against the fence, in the moment of the write, and answers when
//! the API has it.
//!
//! Reports wait in order of arrival for each node; a write takes its time, and a newer session may
//! appear meanwhile. A new process seeds its fence from what is durable (the leases) and all streams
//! to the old one end with it.

use std::collections::{BTreeMap, VecDeque};

use skerry_common::NodeName;
use skerry_sync::{Admit, Dedup, Fence, IncomingReport};

use crate::api::{Api, Said};
use crate::bug::Bug;

/// Reports that wait for their write, for each node; then streams are not read.
pub(crate) const PENDING: usize = 6;

/// A report on its way into the API.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) session: u64,
    pub(crate) number: u64,
    pub(crate) report: IncomingReport,
    pub(crate) said: Said,
}

#[derive(Debug, Default)]
pub(crate) struct Sink {
    fence: Fence,
    pub(crate) pending: BTreeMap<usize, VecDeque<Pending>>,
    dedup: BTreeMap<usize, Dedup>,
}

impl Sink {
    /// A new process.
    pub(crate) fn restart(&mut self, api: &Api, names: &[NodeName], bug: Option<Bug>) {
        *self = Self::default();
        if bug == Some(Bug::FenceForgotten) {
            return;
        }
        for (node, session) in &api.leases {
            self.fence.seed(names[*node].clone(), *session);
        }
    }

    /// May this session write? The newest session is durable before anything is written for it.
    pub(crate) fn admit(&mut self, api: &mut Api, node: usize, name: &NodeName, number: u64, bug: Option<Bug>) -> bool {
        match self.fence.admit(name, number) {
            Ok(Admit::Same) => true,
            Ok(Admit::Newer) => {
                let lease = api.leases.entry(node).or_insert(number);
                *lease = number.max(*lease);
                true
            }
            Err(_) => bug == Some(Bug::TwoEpochs),
        }
    }

    pub(crate) fn newest(&self, name: &NodeName) -> u64 {
        self.fence.newest(name).unwrap_or(0)
    }

    pub(crate) fn has_room(&self, node: usize) -> bool {
        self.pending.get(&node).is_none_or(|pending| pending.len() < PENDING)
    }

    pub(crate) fn dedup(&mut self, node: usize) -> &mut Dedup {
        self.dedup.entry(node).or_insert_with(|| Dedup::new(8))
    }
}
