//! How many sandboxes and containers are made at a time, and which of them first.
//!
//! Making one is mostly work of the processor: `make bench-pod-start` shows that more at a time take
//! longer for all. A pod that has begun goes before one that has not: the first of many pods run
//! sooner, and there are fewer half-made ones, whose mounts the runtime reads at each further start.
//! So a pod has a slot from its volumes to its sandbox, there are fewer slots than places at the
//! runtime, and both are given in the order of asking: a container waits for few sandboxes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Places per processor.
const PER_CPU: usize = 2;
/// Places that containers have for themselves, where there are more than [`FEWEST`].
const OF_CONTAINERS: usize = 1;
/// Slots at least: a sandbox whose network plugin hangs must not stop all others.
const FEWEST: usize = 2;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Starts {
    places: Semaphore,
    slots: Arc<Semaphore>,
}

/// Held from the volumes of a pod without a sandbox until it has one.
#[derive(Debug)]
pub(crate) struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// Held while the runtime makes a sandbox or a container.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    _permit: SemaphorePermit<'a>,
}

impl Starts {
    /// As many as are good for this machine.
    pub(crate) fn of_machine() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let places = PER_CPU * cpus;
        Self::new(places, places.saturating_sub(OF_CONTAINERS).max(FEWEST))
    }

    fn new(places: usize, slots: usize) -> Self {
        Self { places: Semaphore::new(places), slots: Arc::new(Semaphore::new(slots)) }
    }

    /// Waits for a slot; `None` when the agent stops.
    pub(crate) async fn slot(&self) -> Option<Slot> {
        Some(Slot { _permit: Arc::clone(&self.slots).acquire_owned().await.ok()? })
    }

    /// Waits for a place at the runtime; `None` when the agent stops.
    pub(crate) async fn place(&self) -> Option<Place<'_>> {
        Some(Place { _permit: self.places.acquire().await.ok()? })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn sandboxes_leave_a_place_to_containers() {
        let starts = Starts::new(3, 2);
        let slots: Vec<_> = (0..2).map(|_| starts.slot().now_or_never().flatten().expect("free")).collect();
        let sandboxes: Vec<_> = (0..2).map(|_| starts.place().now_or_never().flatten().expect("free")).collect();
        assert!(starts.slot().now_or_never().is_none(), "two pods at a time");
        let container = starts.place().now_or_never().flatten();
        assert!(container.is_some(), "one place is left");
        assert!(starts.place().now_or_never().is_none(), "places are limited");
        drop((slots, sandboxes));
        assert!(starts.slot().now_or_never().flatten().is_some(), "slots come back");
        assert!(starts.place().now_or_never().flatten().is_some(), "places come back");
    }

    #[test]
    fn a_machine_has_places_for_sandboxes_that_hang() {
        let starts = Starts::of_machine();
        assert!(starts.slots.available_permits() >= FEWEST);
        assert!(starts.places.available_permits() >= starts.slots.available_permits());
    }
}
