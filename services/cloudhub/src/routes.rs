//! Which service serves which kind.
//!
//! Built once from the configuration. The index of a kind is small and stands for it wherever a
//! session counts.

use std::collections::HashMap;
use std::sync::Arc;

use crate::lane::Lane;
use crate::report_lane::ReportLane;

/// Where subscriptions and reports of a kind go.
#[derive(Debug)]
pub(crate) struct Routes {
    names: Vec<String>,
    down: HashMap<String, Down>,
    up: HashMap<String, Up>,
}

/// Where subscriptions of a kind go.
#[derive(Debug, Clone)]
pub(crate) struct Down {
    pub(crate) kind: u16,
    pub(crate) lane: Arc<Lane>,
}

/// Where reports of a kind go.
#[derive(Debug, Clone)]
pub(crate) struct Up {
    pub(crate) kind: u16,
    pub(crate) lane: Arc<ReportLane>,
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self { names: Vec::new(), down: HashMap::new(), up: HashMap::new() }
    }

    pub(crate) fn add_down(&mut self, kind: &str, lane: Arc<Lane>) {
        let index = self.index(kind);
        self.down.insert(kind.to_owned(), Down { kind: index, lane });
    }

    pub(crate) fn add_up(&mut self, kind: &str, lane: Arc<ReportLane>) {
        let index = self.index(kind);
        self.up.insert(kind.to_owned(), Up { kind: index, lane });
    }

    pub(crate) fn down(&self, kind: &str) -> Option<&Down> {
        self.down.get(kind)
    }

    pub(crate) fn up(&self, kind: &str) -> Option<&Up> {
        self.up.get(kind)
    }

    pub(crate) fn name(&self, kind: u16) -> String {
        self.names.get(usize::from(kind)).cloned().unwrap_or_default()
    }

    fn index(&mut self, kind: &str) -> u16 {
        let known = self.names.iter().position(|name| name == kind);
        let index = known.unwrap_or_else(|| {
            self.names.push(kind.to_owned());
            self.names.len() - 1
        });
        // The configuration cannot name that many kinds within its size limit.
        u16::try_from(index).unwrap_or(u16::MAX)
    }
}
