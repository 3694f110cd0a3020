//! How many sandboxes and containers are made at a time, and which of them first.
//!
//! Making one is mostly work of the processor: `make bench-pod-start` shows that more at a time take
//! longer for all. A pod that has its sandbox goes before one that has none: the first of many pods
//! run sooner, and the runtime has fewer half-made ones, whose mounts each further start reads. For
//! that only a part of the places may be asked for by sandboxes; places are given in the order of
//! asking, so a container never waits for more than that part.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Places per processor.
const PER_CPU: usize = 2;
/// Places that containers have for themselves, where there are more than [`FEWEST`].
const OF_CONTAINERS: usize = 1;
/// Sandboxes at a time at least: one whose network plugin hangs must not stop all others.
const FEWEST: usize = 2;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Starts {
    places: Semaphore,
    sandboxes: Semaphore,
}

/// Held while the runtime makes a sandbox or a container.
pub(crate) struct Place<'a> {
    _place: SemaphorePermit<'a>,
    _sandbox: Option<SemaphorePermit<'a>>,
}

impl Starts {
    /// Places for this machine.
    pub(crate) fn of_machine() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let places = PER_CPU * cpus;
        let sandboxes = places.saturating_sub(OF_CONTAINERS).max(FEWEST);
        Self { places: Semaphore::new(places), sandboxes: Semaphore::new(sandboxes) }
    }

    /// Waits for a container's turn; `None` when the agent stops.
    pub(crate) async fn container(&self) -> Option<Place<'_>> {
        Some(Place { _place: self.places.acquire().await.ok()?, _sandbox: None })
    }

    /// Waits for a sandbox's turn; `None` when the agent stops.
    pub(crate) async fn sandbox(&self) -> Option<Place<'_>> {
        let sandbox = self.sandboxes.acquire().await.ok()?;
        Some(Place { _place: self.places.acquire().await.ok()?, _sandbox: Some(sandbox) })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn starts(places: usize, sandboxes: usize) -> Starts {
        Starts { places: Semaphore::new(places), sandboxes: Semaphore::new(sandboxes) }
    }

    #[test]
    fn a_container_goes_before_sandboxes_that_asked_earlier() {
        let starts = starts(3, 2);
        let running: Vec<_> = (0..2).map(|_| starts.sandbox().now_or_never().flatten().expect("free")).collect();
        assert!(starts.sandbox().now_or_never().is_none(), "two sandboxes at a time");
        assert!(starts.container().now_or_never().flatten().is_some(), "one place is left for containers");
        drop(running);
        assert!(starts.sandbox().now_or_never().flatten().is_some(), "places come back");
    }

    #[test]
    fn places_are_limited_for_containers_too() {
        let starts = starts(2, 2);
        let _one = starts.container().now_or_never().flatten().expect("free");
        let _two = starts.container().now_or_never().flatten().expect("free");
        assert!(starts.container().now_or_never().is_none());
        assert!(starts.sandbox().now_or_never().is_none());
    }
}
