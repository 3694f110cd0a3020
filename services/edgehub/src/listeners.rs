//! Who wants to know that objects changed.
//!
//! Each local subscription has a [`Listener`]: a set of keys that changed and a signal. An object that
//! changes ten times before its subscriber looks is in the set once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use skerry_common::Key;
use tokio::sync::Notify;

/// What changed for one subscription.
#[derive(Debug)]
pub(crate) struct Listener {
    kind: String,
    changed: Mutex<BTreeSet<Key>>,
    // Shared by the subscriptions of one stream.
    signal: Arc<Notify>,
}

impl Listener {
    /// Takes the keys that changed.
    pub(crate) fn take(&self) -> BTreeSet<Key> {
        std::mem::take(&mut self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All listeners.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Mutex<Vec<Weak<Listener>>>);

impl Listeners {
    /// Adds a listener for a kind; it lasts as long as the returned value.
    pub(crate) fn listen(&self, kind: &str, signal: Arc<Notify>) -> Arc<Listener> {
        let listener = Arc::new(Listener { kind: kind.to_owned(), changed: Mutex::default(), signal });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&listener));
        listener
    }

    /// Tells that objects of a kind changed.
    pub(crate) fn changed(&self, kind: &str, keys: &[Key]) {
        for listener in self.of(kind) {
            listener.changed.lock().unwrap_or_else(PoisonError::into_inner).extend(keys.iter().cloned());
            listener.signal.notify_one();
        }
    }

    /// Wakes the listeners of a kind although no object changed: the kind became complete.
    pub(crate) fn wake(&self, kind: &str) {
        for listener in self.of(kind) {
            listener.signal.notify_one();
        }
    }

    fn of(&self, kind: &str) -> Vec<Arc<Listener>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).filter(|listener| listener.kind == kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_once_and_only_for_its_kind() {
        let listeners = Listeners::default();
        let signal = Arc::new(Notify::new());
        let pods = listeners.listen("Pod", signal.clone());
        let secrets = listeners.listen("Secret", signal);
        let key = Key::new("default", "web");
        listeners.changed("Pod", std::slice::from_ref(&key));
        listeners.changed("Pod", std::slice::from_ref(&key));
        assert_eq!(pods.take().into_iter().collect::<Vec<_>>(), [key]);
        assert!(pods.take().is_empty() && secrets.take().is_empty());
    }
}
