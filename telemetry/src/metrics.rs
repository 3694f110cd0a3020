//! The process's metrics registry.
//!
//! Crates register their counters once at start, under the prefix `skerry_`; `/metrics` prints them.
//! No label may come from outside without a bound: node and device names are never labels.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::Registry as Inner;

/// A registry that can be shared. Clones are the same registry.
#[derive(Clone)]
pub struct Registry(Arc<Mutex<Inner>>);

impl Registry {
    /// An empty registry with the prefix `skerry`.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner::with_prefix("skerry"))))
    }

    /// Registers metrics.
    pub fn register<T>(&self, with: impl FnOnce(&mut Inner) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Registers metrics under one more prefix.
    pub fn sub<T>(&self, prefix: &str, with: impl FnOnce(&mut Inner) -> T) -> T {
        self.register(|registry| with(registry.sub_registry_with_prefix(prefix)))
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail; what a custom collector could not say is left out.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}
