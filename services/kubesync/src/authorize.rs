//! The node authorizer: what a node may do, as one pure table.
//!
//! Derived from the rules of Kubernetes' Node authorizer and the NodeRestriction admission plugin, cut down
//! to what Skerry's protocol can ask: a node reads its own Node, the pods bound to it, what those refer to,
//! and what every kubelet may read (Services, EndpointSlices); it writes its own Node and its status, the
//! status of its pods, deletes its pods, and records Events about itself and its pods. Of devices it reads
//! those that are assigned to it and their models, reports how they are, and may set their desired values.
//!
//! Called for every report and every subscription; the views of the cache decide reads by the same rules
//! (`a_view_shows_only_what_the_authorizer_allows` compares them). Doubt means refuse: what the graph does
//! not know is [`Decision::Unknown`], and the caller has to ask the API server before it goes on.

use skerry_common::{Key, NodeName};

use crate::kinds::{Kind, Scope};

/// What a node wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Get, list or watch.
    Read,
    /// Create the object, or change what its owner declares.
    Register,
    /// Write the status subresource.
    UpdateStatus,
    /// Delete the object.
    Delete,
    /// Write an Event about the object.
    Record,
    /// Request a service account token bound to the object.
    RequestToken,
    /// Set a desired value of the device.
    SetDesired,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Go on.
    Allow,
    /// Refuse, with a stable reason.
    Deny(&'static str),
    /// The graph does not know the object: ask the API server, or refuse.
    Unknown,
}

/// What the authorizer must know about the cluster.
pub trait Graph {
    /// The node that the pod or device is bound to. `None`: it is not known.
    fn bound_node(&self, kind: Kind, key: &Key) -> Option<NodeName>;
    /// Whether a pod or device that is bound to the node refers to the object, directly or over a claim.
    fn refers(&self, node: &NodeName, kind: Kind, key: &Key) -> bool;
}

/// Not the node's own Node.
pub const OTHER_NODE: &str = "other_node";
/// The pod is bound to another node.
pub const OTHER_NODES_POD: &str = "pod_of_other_node";
/// The device is assigned to another node.
pub const OTHER_NODES_DEVICE: &str = "device_of_other_node";
/// Nothing of the node refers to it.
pub const NOT_REFERENCED: &str = "not_referenced";
/// No node may do this.
pub const NOT_ALLOWED: &str = "not_allowed";

/// Decides. See the module.
pub fn authorize(node: &NodeName, verb: Verb, kind: Kind, key: &Key, graph: &dyn Graph) -> Decision {
    match (verb, kind) {
        (Verb::Read | Verb::Register | Verb::UpdateStatus | Verb::Record, Kind::Node) => own(node, key),
        // Register: a mirror pod, under a name that is free or the node's own.
        (
            Verb::Read | Verb::Register | Verb::UpdateStatus | Verb::Delete | Verb::Record | Verb::RequestToken,
            Kind::Pod,
        ) => bound(node, kind, key, graph),
        (Verb::Read | Verb::UpdateStatus | Verb::SetDesired | Verb::Record, Kind::Device) => {
            bound(node, kind, key, graph)
        }
        (Verb::Read, kind) => match kind.scope() {
            Scope::All => Decision::Allow,
            Scope::Referenced if graph.refers(node, kind, key) => Decision::Allow,
            Scope::Referenced => Decision::Deny(NOT_REFERENCED),
            // Decided by the pod that it was made for.
            Scope::Derived => Decision::Unknown,
            Scope::Own | Scope::Bound => Decision::Deny(NOT_ALLOWED),
        },
        _ => Decision::Deny(NOT_ALLOWED),
    }
}

fn own(node: &NodeName, key: &Key) -> Decision {
    if key.namespace.is_empty() && &*key.name == node.as_str() { Decision::Allow } else { Decision::Deny(OTHER_NODE) }
}

fn bound(node: &NodeName, kind: Kind, key: &Key, graph: &dyn Graph) -> Decision {
    match graph.bound_node(kind, key) {
        Some(owner) if owner == *node => Decision::Allow,
        Some(_) if kind == Kind::Device => Decision::Deny(OTHER_NODES_DEVICE),
        Some(_) => Decision::Deny(OTHER_NODES_POD),
        None => Decision::Unknown,
    }
}

impl Graph for crate::cache::Cache {
    fn bound_node(&self, _: Kind, key: &Key) -> Option<NodeName> {
        self.read().bound(key).map(|(_, facts)| facts.node.clone())
    }

    fn refers(&self, node: &NodeName, kind: Kind, key: &Key) -> bool {
        self.read().refers(node, kind, key)
    }
}

#[cfg(test)]
#[path = "authorize_tests.rs"]
mod tests;
