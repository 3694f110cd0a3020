//! The CustomResourceDefinitions of the kinds, as YAML: `k8s/crds`, which `k8s/crdgen` generates.

/// Each definition, as a document of YAML.
pub const DEFINITIONS: [&str; 3] = [
    include_str!("../../crds/devicemodels.yaml"),
    include_str!("../../crds/devices.yaml"),
    include_str!("../../crds/devicestatuses.yaml"),
];
