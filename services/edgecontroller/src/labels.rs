//! Which labels a node may set on its own Node, as the NodeRestriction admission plugin has it.
//!
//! Pure; called for every label of a registration.

/// Labels of the kubernetes.io and k8s.io domains that NodeRestriction lets a kubelet set on its Node.
const ALLOWED_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Whether a node may set this label on its own Node.
///
/// As NodeRestriction: the reserved domains are closed but for a list and the prefixes
/// `kubelet.kubernetes.io` and `node.kubernetes.io`. Two choices of our own: the role label
/// `node-role.kubernetes.io/edge` is allowed, because it marks the node as an edge node and no scheduler
/// rule protects anything with it; and `skerry.io` is closed, because it is where identity is recorded.
pub(crate) fn node_may_set_label(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return true };
    let within = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|d| d.ends_with('.'));
    if within("skerry.io") || within("node-restriction.kubernetes.io") {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    label == "node-role.kubernetes.io/edge"
        || ALLOWED_LABELS.contains(&label)
        || within("kubelet.kubernetes.io")
        || within("node.kubernetes.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_node_are_restricted_as_by_node_restriction() {
        for allowed in [
            "kubernetes.io/hostname",
            "kubernetes.io/arch",
            "topology.kubernetes.io/zone",
            "node.kubernetes.io/anything",
            "sub.node.kubernetes.io/x",
            "kubelet.kubernetes.io/x",
            "node-role.kubernetes.io/edge",
            "example.com/x",
            "plain",
        ] {
            assert!(node_may_set_label(allowed), "{allowed}");
        }
        for refused in [
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/x",
            "x.node-restriction.kubernetes.io/y",
            "kubernetes.io/other",
            "k8s.io/x",
            "sub.k8s.io/x",
            "skerry.io/key",
            "a.skerry.io/b",
        ] {
            assert!(!node_may_set_label(refused), "{refused}");
        }
    }
}
