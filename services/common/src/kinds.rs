//! The kinds that travel over the sync protocol.
//!
//! Most are Kubernetes kinds. The others carry what Kubernetes has no object for; their bodies are
//! described here, because both ends must agree on them.

/// Pods bound to the node.
pub const POD: &str = "Pod";
/// ConfigMaps that the node's pods refer to.
pub const CONFIG_MAP: &str = "ConfigMap";
/// Secrets that the node's pods refer to.
pub const SECRET: &str = "Secret";
/// The node's own Node.
pub const NODE: &str = "Node";
/// Namespaces of the node's pods.
pub const NAMESPACE: &str = "Namespace";
/// All Services.
pub const SERVICE: &str = "Service";
/// All EndpointSlices.
pub const ENDPOINT_SLICE: &str = "EndpointSlice";
/// DestinationRules (`networking.istio.io`).
pub const DESTINATION_RULE: &str = "DestinationRule";
/// PersistentVolumes bound to claims of the node's pods.
pub const PERSISTENT_VOLUME: &str = "PersistentVolume";
/// PersistentVolumeClaims of the node's pods.
pub const PERSISTENT_VOLUME_CLAIM: &str = "PersistentVolumeClaim";
/// RuntimeClasses that the node's pods name.
pub const RUNTIME_CLASS: &str = "RuntimeClass";
/// A token for a pod's service account. The body is JSON: `pod`, `podUid`, `serviceAccount`,
/// `audience`, `expirationSeconds`, `token`, `expirationTimestamp`.
pub const SERVICE_ACCOUNT_TOKEN: &str = "ServiceAccountToken";
/// Devices of the node (`devices.kubeedge.io`), without their legacy status.
pub const DEVICE: &str = "Device";
/// DeviceModels that the node's devices name.
pub const DEVICE_MODEL: &str = "DeviceModel";
/// EdgeHub's own object about the link, only on the node itself. Key: `link`. The body is JSON:
/// `connected` (bool), `session`, `reason`, `since` (RFC 3339), `storeProblem`.
pub const LINK: &str = "Link";

/// Up: the Node as the node wants it registered (JSON of a Node).
pub const NODE_REGISTRATION: &str = "NodeRegistration";
/// Up: the Node's status (JSON of a Node; only `status` counts). The newest wins.
pub const NODE_STATUS: &str = "NodeStatus";
/// Up: a pod's status (JSON of a Pod; only `metadata.uid` and `status` count). The newest wins.
pub const POD_STATUS: &str = "PodStatus";
/// Up: the pod is gone from the node; delete the object with this uid. No body.
pub const POD_DELETION: &str = "PodDeletion";
/// Up: a pod that the node runs from a file of its own, to be shown in the API (JSON of a Pod). The newest
/// wins.
pub const MIRROR_POD: &str = "MirrorPod";
/// Up: how a Device is (JSON: `metadata` of the Device with its uid, `status` of a DeviceStatus: `twins`,
/// `state`, `lastOnlineTime`, `conditions`, `extensions`). The newest wins.
pub const DEVICE_STATUS: &str = "DeviceStatus";
/// Up: a desired value that was set on the node. Key: namespace of the Device and [`desired_name`]; uid: the
/// Device's. The body is JSON: `device`, `property`, `value`, `base` ([`desired_base`] of the cloud's value that
/// it replaces), `earlier` (the same of values that were set on the node before and may have been taken meanwhile),
/// `id` (of this write, for its answer: see [`crate::desired`]). The newest wins.
pub const DEVICE_DESIRED: &str = "DeviceDesired";
/// Up: a core/v1 Event. All arrive, in order.
pub const EVENT: &str = "Event";

/// What a node needs at once: pods and what they refer to.
pub const CONTROL: [&str; 9] = [
    POD,
    CONFIG_MAP,
    SECRET,
    NODE,
    NAMESPACE,
    SERVICE_ACCOUNT_TOKEN,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    RUNTIME_CLASS,
];
/// What a node with devices needs as well; DeviceController is their source.
pub const DEVICES: [&str; 2] = [DEVICE, DEVICE_MODEL];
/// What may be large in number and is never urgent. It travels on streams of its own, so that
/// [`CONTROL`] never waits for it.
pub const BULK: [&str; 2] = [SERVICE, ENDPOINT_SLICE];
/// What a node reports about itself and its pods.
pub const REPORTS: [&str; 6] = [NODE_REGISTRATION, NODE_STATUS, POD_STATUS, POD_DELETION, MIRROR_POD, EVENT];

/// What a node reports about its devices; DeviceController takes it.
pub const DEVICE_REPORTS: [&str; 2] = [DEVICE_STATUS, DEVICE_DESIRED];

/// Every kind that a node may be sent.
pub fn down() -> impl Iterator<Item = &'static str> {
    CONTROL.into_iter().chain(DEVICES).chain(BULK)
}

/// Whether a node may report the kind.
pub fn is_report(kind: &str) -> bool {
    REPORTS.contains(&kind) || DEVICE_REPORTS.contains(&kind)
}

/// Whether reports of the kind may be many and are never urgent. They travel on streams of their own, so that
/// the others, which say what runs, never wait for them.
pub fn is_bulk_report(kind: &str) -> bool {
    matches!(kind, EVENT | DEVICE_STATUS)
}

/// Whether only the newest report of a key matters.
pub fn coalesces(kind: &str) -> bool {
    matches!(
        kind,
        NODE_REGISTRATION | NODE_STATUS | POD_STATUS | POD_DELETION | MIRROR_POD | DEVICE_STATUS | DEVICE_DESIRED
    )
}

/// Whether the kind may be dropped, oldest first, when the edge store is full.
pub fn droppable(kind: &str) -> bool {
    kind == EVENT
}

/// Name in the key of a [`DEVICE_DESIRED`]: one for each property of a device. A property's own name may hold
/// what a key may not.
#[must_use]
pub fn desired_name(device: &str, property: &str) -> String {
    format!("{:016x}", crate::fnv1a(&[device, property]))
}

/// What names a desired value of the cloud in a [`DEVICE_DESIRED`]; `None`: there is none.
#[must_use]
pub fn desired_base(value: Option<&str>) -> String {
    value.map_or_else(|| "none".into(), |value| format!("{:016x}", crate::fnv1a(&[value])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bases_never_change() {
        assert_eq!(desired_base(None), "none");
        assert_ne!(desired_base(Some("")), desired_base(None));
        assert_eq!(desired_base(Some("21.5")), "26ce250289b51302");
        assert_ne!(desired_name("ab", "c"), desired_name("a", "bc"));
    }
}
