//! Generates the CustomResourceDefinitions in `k8s/crds` from the types of `skerry-k8s-types`.
//!
//! Names, types and descriptions come from the types; what Rust cannot say (bounds, list keys, rules, printer
//! columns) is added here, by path. Used by its test alone, which compares the committed files or writes them
//! (`SKERRY_REGENERATE=1`). Invariants: the schemas are structural; whatever KubeEdge's schemas accept and
//! works with KubeEdge is accepted; every field has a description. Pure.

mod definition;
mod structural;

pub use definition::{device, device_model, device_status};
