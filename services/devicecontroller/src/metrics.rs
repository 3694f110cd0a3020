//! Metrics of this crate; what all controllers count is in `skerry-kubesync`, under the same prefix.
//!
//! Labels come from closed sets of ours only: names of nodes and objects are never labels.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use skerry_telemetry::Registry;

/// What every name begins with, after `skerry_`.
const PREFIX: &str = "devicecontroller";

/// All counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) sync: Arc<skerry_kubesync::Metrics>,
    pub(crate) devices: Gauge,
    pub(crate) status_writes: Counter,
    pub(crate) device_writes: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) admitted: Counter,
    pub(crate) denied: Counter,
}

impl Metrics {
    /// Registers everything under `skerry_devicecontroller_`.
    pub(crate) fn new(registry: &Registry) -> Self {
        let metrics = Self {
            sync: Arc::new(skerry_kubesync::Metrics::new(registry, PREFIX)),
            devices: Gauge::default(),
            status_writes: Counter::default(),
            device_writes: Counter::default(),
            coalesced: Counter::default(),
            admitted: Counter::default(),
            denied: Counter::default(),
        };
        registry.sub(PREFIX, |r| {
            r.register("devices", "Devices in the Kubernetes API", metrics.devices.clone());
            r.register("status_writes", "Writes of a DeviceStatus", metrics.status_writes.clone());
            r.register("device_writes", "Writes of the status of a Device", metrics.device_writes.clone());
            r.register("coalesced", "Reports of values that came too soon", metrics.coalesced.clone());
            r.register("admitted", "Devices and models that admission let through", metrics.admitted.clone());
            r.register("denied", "Devices and models that admission refused", metrics.denied.clone());
        });
        metrics
    }
}
