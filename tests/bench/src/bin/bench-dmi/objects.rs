//! The devices of the benchmark: ten properties each, of one model, dealt out to the mappers.

use serde_json::{Value, json};

/// Properties of a device.
pub(crate) const PROPERTIES: u64 = 10;
/// Namespace of all objects.
pub(crate) const NAMESPACE: &str = "plant";
/// Name of the model.
pub(crate) const MODEL: &str = "gauge";

/// How many of each there are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plant {
    /// Devices of the node.
    pub(crate) devices: u64,
    /// Mappers of each interface.
    pub(crate) mappers: u64,
}

impl Plant {
    /// The first half of the devices is of mappers of v1beta1, the other of streams. A protocol is a mapper here.
    fn protocol(self, device: u64) -> String {
        let kind = if device < self.devices / 2 { "beta" } else { "stream" };
        format!("{kind}-{}", device % self.mappers)
    }

    /// The devices of one mapper.
    pub(crate) fn of(self, kind: &str, mapper: u64) -> Vec<u64> {
        let own = format!("{kind}-{mapper}");
        (0..self.devices).filter(|device| self.protocol(*device) == own).collect()
    }

    /// A Device.
    pub(crate) fn device(self, device: u64, node: &str) -> Value {
        let protocol = self.protocol(device);
        let property = |n| {
            json!({ "name": format!("p{n}"), "reportToCloud": true, "collectCycle": 1000, "reportCycle": 1000,
                "visitors": { "protocolName": protocol,
                    "configData": { "register": "HoldingRegister", "offset": n, "scale": 0.1 } } })
        };
        json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            // The API gives a uid and a generation of its own; an edgehub without it needs these.
            "metadata": {
                "name": name(device), "namespace": NAMESPACE, "uid": format!("uid-{device}"), "generation": 1,
            },
            "spec": {
                "deviceModelRef": { "name": MODEL }, "nodeName": node,
                "protocol": { "protocolName": protocol,
                    "configData": { "address": "10.0.0.1:502", "unit": device % 250 } },
                "properties": (0..PROPERTIES).map(property).collect::<Vec<_>>(),
            },
        })
    }
}

/// The DeviceModel.
pub(crate) fn model() -> Value {
    let property = |n| json!({ "name": format!("p{n}"), "type": "DOUBLE", "accessMode": "ReadOnly" });
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": { "name": MODEL, "namespace": NAMESPACE, "uid": "uid-model", "generation": 1 },
        "spec": { "properties": (0..PROPERTIES).map(property).collect::<Vec<_>>() },
    })
}

/// The name of a device.
pub(crate) fn name(device: u64) -> String {
    format!("gauge-{device}")
}
