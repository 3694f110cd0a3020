//! The counters of this crate, as one struct. No label names a device: a node may have thousands.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// See the module documentation. Names begin with `skerry_dmi_`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) devices: Gauge,
    pub(crate) mappers: Gauge,
    pub(crate) values: Counter,
    pub(crate) values_refused: Counter,
    pub(crate) calls_limited: Counter,
    pub(crate) mapper_calls_failed: Counter,
    pub(crate) statuses: Counter,
    pub(crate) desired: Counter,
    pub(crate) objects_refused: Counter,
    pub(crate) reports_rejected: Counter,
    pub(crate) hub_reconnects: Counter,
    pub(crate) bus_connected: Gauge,
    pub(crate) bus_messages: Counter,
    pub(crate) bus_refused: Counter,
    pub(crate) bus_dropped: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let m = Self::default();
        registry.register("devices", "Devices of this node", m.devices.clone());
        registry.register("mappers", "Mappers that are connected", m.mappers.clone());
        registry.register("values", "Values that mappers reported", m.values.clone());
        registry.register("values_refused", "Reported values that were refused", m.values_refused.clone());
        registry.register("calls_limited", "Calls of mappers refused for their rate", m.calls_limited.clone());
        registry.register("mapper_calls_failed", "Calls to mappers that failed", m.mapper_calls_failed.clone());
        registry.register("statuses", "Statuses of devices given to edgehub", m.statuses.clone());
        registry.register("desired_set", "Desired values set on the node", m.desired.clone());
        registry.register("objects_refused", "Objects that could not be taken", m.objects_refused.clone());
        registry.register("reports_rejected", "Reports that edgehub refused", m.reports_rejected.clone());
        registry.register("hub_reconnects", "Connections to edgehub that ended", m.hub_reconnects.clone());
        registry.register("bus_connected", "Whether the broker of the event bus is there", m.bus_connected.clone());
        registry.register("bus_messages", "Requests over the event bus", m.bus_messages.clone());
        registry.register("bus_refused", "Requests over the event bus that were not done", m.bus_refused.clone());
        registry.register(
            "bus_dropped",
            "Messages of the event bus that were thrown away: too many, retained, no request, or too long to send",
            m.bus_dropped.clone(),
        );
        m
    }
}
