//! How lists of the built-in kinds merge: by which key, as a set, or as a whole.
//!
//! Called by strategic merge and by server-side apply. The table holds what Kubernetes states in struct
//! tags (`patchMergeKey`, `listMapKey`). Invariant: what is not in the table is atomic, so an unknown list is replaced as a whole.
//! Limits: none. Pure: nothing to lose on a crash.

use std::collections::BTreeMap;

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

/// How the lists of one kind merge under server-side apply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lists<'l> {
    /// A built-in kind.
    pub(crate) kind: &'l str,
    /// Keys by the name of the list, for a custom resource; no keys for a set.
    pub(crate) custom: Option<&'l BTreeMap<String, Vec<String>>>,
}

/// [`ListKind`] with keys that may come from a schema.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Merge<'l> {
    Atomic,
    Set,
    Map(Vec<&'l str>),
}

impl<'l> Lists<'l> {
    pub(crate) fn merge(self, field: &str) -> Merge<'l> {
        match (list_kind(self.kind, field), self.custom.and_then(|custom| custom.get(field))) {
            (ListKind::Map(keys), _) => Merge::Map(keys.to_vec()),
            (ListKind::Set, _) => Merge::Set,
            (ListKind::Atomic, Some(keys)) if keys.is_empty() => Merge::Set,
            (ListKind::Atomic, Some(keys)) => Merge::Map(keys.iter().map(String::as_str).collect()),
            (ListKind::Atomic, None) => Merge::Atomic,
        }
    }
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
