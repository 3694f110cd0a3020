//! How lists of the built-in kinds merge: by which key, as a set, or as a whole.
//!
//! Called by strategic merge and by server-side apply. The table holds what Kubernetes states in struct
//! tags (`patchMergeKey`, `listMapKey`). Invariant: what is not in the table is atomic, so an unknown list is replaced as a whole.
//! Limits: none. Pure: nothing to lose on a crash.

/// How a list merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind {
    /// Replaced as a whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Items are identified by these keys; the first alone is the strategic merge key.
    Map(&'static [&'static str]),
}

/// How the list `field` of a `kind` merges. Custom resources have only atomic lists here.
pub fn list_kind(kind: &str, field: &str) -> ListKind {
    use ListKind::{Atomic, Map, Set};
    match field {
        // Metadata, in every kind.
        "finalizers" => Set,
        "ownerReferences" => Map(&["uid"]),
        _ if !is_builtin(kind) => Atomic,
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims" => Map(&["name"]),
        "secrets" if kind == "ServiceAccount" => Map(&["name"]),
        "volumeMounts" => Map(&["mountPath"]),
        "volumeDevices" => Map(&["devicePath"]),
        "ports" => match kind {
            "Service" => Map(&["port", "protocol"]),
            "EndpointSlice" | "Endpoints" | "NetworkPolicy" => Atomic,
            _ => Map(&["containerPort", "protocol"]),
        },
        "topologySpreadConstraints" => Map(&["topologyKey", "whenUnsatisfiable"]),
        "hostAliases" | "podIPs" | "hostIPs" => Map(&["ip"]),
        "conditions" if kind != "EndpointSlice" => Map(&["type"]),
        "addresses" if kind == "Node" => Map(&["type"]),
        "podCIDRs" => Set,
        _ => Atomic,
    }
}

fn is_builtin(kind: &str) -> bool {
    matches!(
        kind,
        "Pod"
            | "Node"
            | "Service"
            | "ServiceAccount"
            | "Deployment"
            | "ReplicaSet"
            | "DaemonSet"
            | "StatefulSet"
            | "Job"
            | "CronJob"
            | "Namespace"
            | "PersistentVolume"
            | "PersistentVolumeClaim"
            | "EndpointSlice"
            | "Endpoints"
            | "PodDisruptionBudget"
            | "NetworkPolicy"
            | "CertificateSigningRequest"
            | "CustomResourceDefinition"
    )
}

/// The value that an absent merge key stands for.
pub(crate) fn key_default(key: &str) -> Option<&'static str> {
    (key == "protocol").then_some("TCP")
}
