//! Which Services are the mesh's to carry.
//!
//! Two labels take a Service away from it: Kubernetes' own `service.kubernetes.io/service-proxy-name`, which
//! names another proxy, and EdgeMesh's, with the two modes that EdgeMesh has. Names of all Services are
//! answered in any case.

use std::collections::BTreeMap;

/// Kubernetes' label: the Service belongs to the proxy of that name, which is never the mesh.
pub const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// EdgeMesh's label; its value does not matter.
pub const EDGEMESH_PROXY_NAME: &str = "service.edgemesh.kubeedge.io/service-proxy-name";

/// `serviceFilterMode` of EdgeMesh: what [`EDGEMESH_PROXY_NAME`] means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filter {
    /// `FilterIfLabelExists`: Services with the label are left alone.
    #[default]
    IfLabelExists,
    /// `FilterIfLabelDoesNotExists`: only Services with the label are carried.
    IfLabelDoesNotExist,
}

impl Filter {
    /// Whether the mesh carries a Service with these labels.
    #[must_use]
    pub fn carries(self, labels: &BTreeMap<String, String>) -> bool {
        let marked = labels.contains_key(EDGEMESH_PROXY_NAME);
        !labels.contains_key(SERVICE_PROXY_NAME) && marked == (self == Self::IfLabelDoesNotExist)
    }
}
