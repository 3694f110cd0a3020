//! Where a driver puts values that a device tells by itself.
//!
//! The newest sample of each point is kept until the SDK takes it, so it is bounded by the number of points
//! whatever the device sends, and putting never waits: it may be called from a callback of a library.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::{DeviceKey, Sample};

/// The samples of one bus that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Pending {
    samples: Mutex<BTreeMap<(DeviceKey, String), Sample>>,
    /// Why the line is lost, and which device noticed it.
    lost: Mutex<Option<(DeviceKey, String)>>,
    wake: Notify,
}

/// The updates of one device. Clones are the same.
#[derive(Debug, Clone)]
pub struct Updates {
    device: DeviceKey,
    /// Names of the points that were subscribed: nothing else is taken.
    points: Arc<[String]>,
    pending: Arc<Pending>,
}

impl Updates {
    /// Updates of these points of a device, to be taken from `pending`.
    pub fn new(device: DeviceKey, points: Arc<[String]>, pending: Arc<Pending>) -> Self {
        Self { device, points, pending }
    }

    /// A sample of the property `point`. One that nobody took yet is replaced; an unknown name is ignored.
    pub fn put(&self, point: &str, sample: Sample) {
        if !self.points.iter().any(|known| known == point) {
            return;
        }
        let key = (self.device.clone(), point.to_owned());
        self.pending.samples.lock().unwrap_or_else(PoisonError::into_inner).insert(key, sample);
        self.pending.wake.notify_one();
    }

    /// The line is lost: nothing comes any more. For drivers that notice it by themselves, as with
    /// [`Fault::Lost`](crate::Fault::Lost) of a call; the first word counts.
    pub fn lost(&self, words: impl Into<String>) {
        let mut lost = self.pending.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get_or_insert_with(|| (self.device.clone(), words.into()));
        self.pending.wake.notify_one();
    }
}

impl Pending {
    /// Waits until there is something.
    pub async fn changed(&self) {
        while self.is_empty() {
            self.wake.notified().await;
        }
    }

    fn is_empty(&self) -> bool {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        !lost && self.samples.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Which device noticed that the line is lost, and why it is.
    pub fn take_lost(&self) -> Option<(DeviceKey, String)> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes what is there.
    pub fn take(&self) -> BTreeMap<(DeviceKey, String), Sample> {
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_of_each_known_point_is_kept() {
        let pending = Arc::new(Pending::default());
        let key = DeviceKey { namespace: "default".into(), name: "a".into() };
        let updates = Updates::new(key.clone(), ["t".to_owned()].into(), Arc::clone(&pending));
        for number in 0..1000_i64 {
            updates.put("t", Sample::good(number));
            updates.put("unknown", Sample::good(number));
        }
        pending.changed().await;
        let taken = pending.take();
        assert!(pending.take().is_empty());
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[&(key, "t".to_owned())], Sample::good(999_i64));
    }

    #[tokio::test]
    async fn a_lost_line_is_told_once() {
        let pending = Arc::new(Pending::default());
        let key = DeviceKey::new("default", "a");
        let updates = Updates::new(key.clone(), ["t".to_owned()].into(), Arc::clone(&pending));
        updates.lost("closed");
        updates.lost("later");
        pending.changed().await;
        assert_eq!(pending.take_lost(), Some((key, "closed".to_owned())));
        assert_eq!(pending.take_lost(), None);
    }
}
