//! Who may depend on whom: the table of ARCHITECTURE.md as a test over `cargo metadata`.
//!
//! A dependency that is not listed here fails, also a harmless one: adding it is a decision that
//! a reviewer shall see in this file. Development dependencies are free, except on other tests.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::DependencyKind;

/// What a crate may use of this workspace (beyond that: any external crate that is not guarded).
const ALLOWED: &[(&str, &[&str])] = &[
    // layer 0
    ("skerry-proto", &[]),
    ("skerry-telemetry", &[]),
    ("skerry-k8s-types", &[]),
    ("skerry-crdgen", &["skerry-k8s-types"]),
    // layer 1
    ("skerry-common", &["skerry-proto", "skerry-telemetry", "skerry-k8s-types"]),
    // layer 2
    ("skerry-identity", LAYER_1),
    ("skerry-sync", LAYER_1),
    ("skerry-store", LAYER_1),
    ("skerry-apimachinery", LAYER_1),
    ("skerry-schema", &["skerry-apimachinery"]),
    ("skerry-mesh-core", LAYER_1),
    // layer 3
    ("skerry-rpc", LAYER_2),
    ("skerry-hubclient", LAYER_3),
    // layer 3, cloud: what the controllers share
    ("skerry-kubesync", CLOUD),
    // layer 4, cloud: never store
    ("skerry-cloudhub", CLOUD),
    ("skerry-edgecontroller", CLOUD_CONTROLLER),
    ("skerry-devicecontroller", CLOUD_CONTROLLER),
    ("skerry-controllers", CLOUD),
    // layer 4, edge
    ("skerry-edgehub", LAYER_3),
    ("skerry-edged", EDGE),
    ("skerry-dmi", EDGE),
    // layer 4, the mesh
    ("skerry-mesh-proxy", MESH),
    ("skerry-mesh-net", &["skerry-common", "skerry-identity"]),
    ("skerry-mesh-netfilter", &["skerry-common"]),
    ("skerry-mesh-dns", MESH),
    // layer 4, the embedded control plane
    ("skerry-apiserver", LAYER_3),
    // layer 4, mappers: what somebody else's mapper has too
    ("skerry-mapper-sdk", &["skerry-proto", "skerry-telemetry"]),
    ("skerry-mapper-dataplane", &["skerry-telemetry", "skerry-k8s-types", "skerry-mapper-sdk"]),
    ("skerry-mapper-modbus", MAPPER),
    ("skerry-mapper-opcua", MAPPER),
    ("skerry-mapper-virtual", MAPPER),
    // layer 5
    ("skerry", &["*"]),
    // layer 6
    ("skerry-test-support", &["*"]),
    ("skerry-sim", &["*"]),
    ("skerry-gates", &["*"]),
    ("skerry-e2e", &["*"]),
    ("skerry-bench", &["*"]),
    ("skerry-hub-tests", &["*"]),
    ("skerry-devices-tests", &["*"]),
    ("skerry-lab", &[]),
];
const MAPPER: &[&str] = &["skerry-proto", "skerry-telemetry", "skerry-mapper-sdk", "skerry-mapper-dataplane"];
const LAYER_1: &[&str] = &["skerry-proto", "skerry-telemetry", "skerry-k8s-types", "skerry-common"];
const LAYER_2: &[&str] = &[
    "skerry-proto",
    "skerry-telemetry",
    "skerry-k8s-types",
    "skerry-common",
    "skerry-identity",
    "skerry-sync",
    "skerry-store",
    "skerry-apimachinery",
];
const LAYER_3: &[&str] = &[
    "skerry-proto",
    "skerry-telemetry",
    "skerry-k8s-types",
    "skerry-common",
    "skerry-identity",
    "skerry-sync",
    "skerry-store",
    "skerry-apimachinery",
    "skerry-schema",
    "skerry-rpc",
];
const EDGE: &[&str] = &[
    "skerry-k8s-types",
    "skerry-proto",
    "skerry-telemetry",
    "skerry-common",
    "skerry-identity",
    "skerry-sync",
    "skerry-store",
    "skerry-apimachinery",
    "skerry-rpc",
    "skerry-hubclient",
];
const MESH: &[&str] = &["skerry-proto", "skerry-telemetry", "skerry-k8s-types", "skerry-common", "skerry-mesh-core"];
const CLOUD: &[&str] = &[
    "skerry-proto",
    "skerry-telemetry",
    "skerry-k8s-types",
    "skerry-common",
    "skerry-identity",
    "skerry-sync",
    "skerry-apimachinery",
    "skerry-rpc",
];
const CLOUD_CONTROLLER: &[&str] = &[
    "skerry-proto",
    "skerry-telemetry",
    "skerry-common",
    "skerry-identity",
    "skerry-sync",
    "skerry-apimachinery",
    "skerry-rpc",
    "skerry-kubesync",
    "skerry-k8s-types",
];
const TESTS: &[&str] = &[
    "skerry-test-support",
    "skerry-sim",
    "skerry-gates",
    "skerry-e2e",
    "skerry-bench",
    "skerry-hub-tests",
    "skerry-devices-tests",
    "skerry-lab",
];

/// External crates that only these may use. Tests may use everything.
const GUARDED: &[(&str, &[&str])] = &[
    ("kube", &["skerry-kubesync", "skerry-edgecontroller", "skerry-devicecontroller", "skerry-controllers", "skerry"]),
    ("rusqlite", &["skerry-store", "skerry-apiserver", "skerry-mapper-dataplane"]),
    ("tonic-health", &["skerry-rpc"]),
    ("tonic-reflection", &["skerry-rpc"]),
    ("opentelemetry", &["skerry-telemetry"]),
    ("libp2p", &["skerry-mesh-net"]),
    ("tikv-jemallocator", &["skerry", "skerry-cloudhub"]),
    // MPL-2.0, and what it brings: in a program of its own.
    ("async-opcua", &["skerry-mapper-opcua"]),
    ("skerry-mapper-opcua", &[]),
];

/// Crates that do no IO: they get none of these, so that a simulation can drive them.
const SANS_IO: (&[&str], &[&str]) = (
    &["skerry-sync", "skerry-mesh-core"],
    &["tokio", "tokio-util", "tokio-stream", "rand", "socket2", "nix", "hyper", "jiff"],
);

#[test]
fn every_crate_keeps_to_its_layer() -> anyhow::Result<()> {
    let metadata = skerry_gates::metadata()?;
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let members: BTreeSet<String> =
        metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    let mut broken = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let Some(may) = allowed.get(name) else {
            broken.push(format!("{name} has no line in the layer table"));
            continue;
        };
        for dependency in &package.dependencies {
            let used = dependency.name.as_str();
            let in_tests = TESTS.contains(&used);
            if dependency.kind == DependencyKind::Development {
                if in_tests && !["skerry-test-support", "skerry-lab"].contains(&used) {
                    broken.push(format!("{name} uses {used}: nobody depends on tests"));
                }
                continue;
            }
            if in_tests && !TESTS.contains(&name) {
                broken.push(format!("{name} uses {used}: nobody depends on tests"));
            }
            if members.contains(used) && !may.contains(&used) && !may.contains(&"*") {
                broken.push(format!("{name} may not use {used}"));
            }
            for (guarded, users) in GUARDED {
                if used == *guarded && !users.contains(&name) && !TESTS.contains(&name) {
                    broken.push(format!("{name} may not use {guarded}"));
                }
            }
            if SANS_IO.0.contains(&name) && SANS_IO.1.contains(&used) {
                broken.push(format!("{name} does no IO and may not use {used}"));
            }
        }
    }
    assert!(broken.is_empty(), "layers:\n  {}", broken.join("\n  "));
    Ok(())
}

#[test]
fn the_table_names_only_crates_that_exist() -> anyhow::Result<()> {
    let metadata = skerry_gates::metadata()?;
    let members: BTreeSet<String> =
        metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    for (name, _) in ALLOWED {
        assert!(members.contains(*name), "{name} is in the table, not in the workspace");
    }
    Ok(())
}
