//! How many streams are open, and that there are not too many.
//!
//! Every log that is read and every exec, attach and port-forward holds an [`OpenStream`] for its life;
//! the metric `streams` counts them by kind. Beyond [`MAX_STREAMS`] a new one is refused.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::claim::Claims;
use super::limits::MAX_STREAMS;

/// A kind of stream: `logs`, `exec`, `attach`, `portforward`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    places: Arc<Semaphore>,
    open: Family<KindLabel, Gauge>,
    pub(super) claims: Claims,
}

impl Streams {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let streams =
            Self { places: Arc::new(Semaphore::new(MAX_STREAMS)), open: Family::default(), claims: Claims::default() };
        registry.register("streams", "Open streams of the kubelet API by kind", streams.open.clone());
        streams
    }

    /// A place for one more. `None`: there are too many.
    pub(super) fn open(&self, kind: &'static str) -> Option<OpenStream> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let gauge = self.open.get_or_create_owned(&KindLabel { kind });
        gauge.inc();
        Some(OpenStream { gauge, _permit: permit })
    }
}

/// One open stream; it ends with this value.
#[derive(Debug)]
pub(super) struct OpenStream {
    gauge: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_stream_ends() {
        let streams = Streams::new(&mut Registry::default());
        let mut all: Vec<_> = (0..MAX_STREAMS).map(|_| streams.open("exec").unwrap()).collect();
        assert!(streams.open("logs").is_none());
        let gauge = streams.open.get_or_create_owned(&KindLabel { kind: "exec" });
        assert_eq!(gauge.get(), i64::try_from(MAX_STREAMS).unwrap());
        all.pop();
        assert!(streams.open("logs").is_some());
        all.clear();
        assert_eq!(gauge.get(), 0);
    }
}
