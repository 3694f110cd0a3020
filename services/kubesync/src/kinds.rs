//! The kinds that controllers serve downwards, and how a node comes to see an object of each.
//!
//! One closed table: the informers, the cache, the views and the authorizer all read it, so that a new
//! kind is one line here and the compiler shows the rest.

use kube::api::ApiResource;
use skerry_common::kinds;

/// A kind that nodes can subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Bound pods.
    Pod,
    /// Referred to by pods.
    ConfigMap,
    /// Referred to by pods.
    Secret,
    /// The node's own.
    Node,
    /// Those of the node's pods.
    Namespace,
    /// All.
    Service,
    /// All.
    EndpointSlice,
    /// Bound to a claim of a pod.
    PersistentVolume,
    /// Referred to by pods.
    PersistentVolumeClaim,
    /// Named by pods.
    RuntimeClass,
    /// Derived from pods; not an object of the API.
    ServiceAccountToken,
    /// Assigned devices.
    Device,
    /// Referred to by devices.
    DeviceModel,
}

/// Which objects of a kind a node may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Pods or devices whose `spec.nodeName` is the node.
    Bound,
    /// Objects that those refer to.
    Referenced,
    /// The object whose name is the node's.
    Own,
    /// Every object.
    All,
    /// Made by EdgeController for the node's pods.
    Derived,
}

impl Kind {
    /// What DeviceController serves.
    pub const DEVICES: [Self; 2] = [Self::Device, Self::DeviceModel];

    /// What EdgeController serves, in the order in which it is watched.
    pub const CORE: [Self; 11] = [
        Self::Pod,
        Self::ConfigMap,
        Self::Secret,
        Self::Node,
        Self::Namespace,
        Self::Service,
        Self::EndpointSlice,
        Self::PersistentVolume,
        Self::PersistentVolumeClaim,
        Self::RuntimeClass,
        Self::ServiceAccountToken,
    ];

    /// All kinds.
    pub(crate) const ALL: [Self; 13] = {
        let [a, b, c, d, e, f, g, h, i, j, k] = Self::CORE;
        let [l, m] = Self::DEVICES;
        [a, b, c, d, e, f, g, h, i, j, k, l, m]
    };

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pod => kinds::POD,
            Self::ConfigMap => kinds::CONFIG_MAP,
            Self::Secret => kinds::SECRET,
            Self::Node => kinds::NODE,
            Self::Namespace => kinds::NAMESPACE,
            Self::Service => kinds::SERVICE,
            Self::EndpointSlice => kinds::ENDPOINT_SLICE,
            Self::PersistentVolume => kinds::PERSISTENT_VOLUME,
            Self::PersistentVolumeClaim => kinds::PERSISTENT_VOLUME_CLAIM,
            Self::RuntimeClass => kinds::RUNTIME_CLASS,
            Self::ServiceAccountToken => kinds::SERVICE_ACCOUNT_TOKEN,
            Self::Device => kinds::DEVICE,
            Self::DeviceModel => kinds::DEVICE_MODEL,
        }
    }

    /// The kind with this name on the wire.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub(crate) fn scope(self) -> Scope {
        match self {
            Self::Pod | Self::Device => Scope::Bound,
            Self::Node => Scope::Own,
            Self::Service | Self::EndpointSlice => Scope::All,
            Self::ServiceAccountToken => Scope::Derived,
            Self::ConfigMap
            | Self::Secret
            | Self::Namespace
            | Self::PersistentVolume
            | Self::PersistentVolumeClaim
            | Self::RuntimeClass
            | Self::DeviceModel => Scope::Referenced,
        }
    }

    /// Whether deltas of the kind may be many and large, and so wait behind the others.
    pub(crate) fn is_bulk(self) -> bool {
        self.scope() == Scope::All
    }

    /// Where the kind is in the Kubernetes API; `None` for what EdgeController derives.
    pub fn resource(self) -> Option<ApiResource> {
        let (group, plural) = match self {
            Self::Pod => ("", "pods"),
            Self::ConfigMap => ("", "configmaps"),
            Self::Secret => ("", "secrets"),
            Self::Node => ("", "nodes"),
            Self::Namespace => ("", "namespaces"),
            Self::Service => ("", "services"),
            Self::EndpointSlice => ("discovery.k8s.io", "endpointslices"),
            Self::PersistentVolume => ("", "persistentvolumes"),
            Self::PersistentVolumeClaim => ("", "persistentvolumeclaims"),
            Self::RuntimeClass => ("node.k8s.io", "runtimeclasses"),
            Self::Device => (DEVICES, "devices"),
            Self::DeviceModel => (DEVICES, "devicemodels"),
            Self::ServiceAccountToken => return None,
        };
        Some(api_resource(group, self.as_str(), plural))
    }

    /// Whether objects of the kind live in a namespace.
    pub(crate) fn is_namespaced(self) -> bool {
        !matches!(self, Self::Node | Self::Namespace | Self::PersistentVolume | Self::RuntimeClass)
    }
}

/// The group of devices, KubeEdge's.
pub(crate) const DEVICES: &str = "devices.kubeedge.io";

/// A resource; devices are at v1beta1, everything else at v1.
pub(crate) fn api_resource(group: &str, kind: &str, plural: &str) -> ApiResource {
    let version = if group == DEVICES { "v1beta1" } else { "v1" };
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
            assert_eq!(kind.resource().is_none(), kind.scope() == Scope::Derived);
        }
        assert_eq!(Kind::parse("Deployment"), None);
    }
}
