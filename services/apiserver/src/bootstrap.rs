//! The objects that every cluster has, written at start when they are missing.
//!
//! Called once by `Config::build`. Invariant: what exists is never changed, so an operator's edits stay;
//! only the address of `default/kubernetes` follows the listener. Limits: none. A crash in between is
//! repaired by the next start.

use crate::kinds;
use crate::state::{Api, CRD};
use crate::storage::{Expect, Op, WriteError};
use jiff::Timestamp;
use serde_json::{Value, json};
use skerry_apimachinery::json::{set, str_at};
use skerry_apimachinery::{ApiError, ObjectKey, meta};
use std::net::{IpAddr, SocketAddr};

const NAMESPACES: [&str; 5] = ["default", "kube-system", "kube-public", "kube-node-lease", "skerry-system"];
const RBAC: &str = "rbac.authorization.k8s.io/v1";

pub(crate) async fn run(api: &Api, address: SocketAddr, now: Timestamp) -> Result<(), ApiError> {
    for name in NAMESPACES {
        let mut namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "status": {"phase": "Active"}});
        kinds::defaults("/namespaces", &mut namespace);
        ensure(api, "/namespaces", namespace, now).await?;
        for op in kinds::namespace::companions(name, api.pki.ca_pem(), now) {
            let storage = op.storage.clone();
            ensure(api, &storage, op.value, now).await?;
        }
    }
    for (storage, object) in rbac() {
        ensure(api, &format!("rbac.authorization.k8s.io/{storage}"), object, now).await?;
    }
    definitions(api, now).await?;
    own_service(api, address, now).await
}

/// The definitions of the device kinds. They follow the release: one of an older release is replaced.
async fn definitions(api: &Api, now: Timestamp) -> Result<(), ApiError> {
    for text in skerry_k8s_types::DEFINITIONS {
        let mut wanted: Value = serde_saphyr::from_str(text)
            .map_err(|error| ApiError::Internal(format!("a definition of the release: {error}")))?;
        kinds::defaults(CRD, &mut wanted);
        let name = meta::name(&wanted).to_owned();
        let Some(current) = api.storage.get(CRD, "", &name) else {
            let status = kinds::definition_status(&wanted, now);
            set(&mut wanted, &[], "status", status);
            ensure(api, CRD, wanted, now).await?;
            continue;
        };
        let mut stored = current.value();
        if stored.get("spec") == wanted.get("spec") {
            continue;
        }
        set(&mut stored, &[], "spec", wanted.get("spec").cloned().unwrap_or_default());
        meta::bump_generation(&mut stored);
        let op = Op { storage: CRD.into(), value: stored, expect: Expect::Version(current.version), delete: false };
        write(api, op).await?;
    }
    api.reload_registry();
    Ok(())
}

async fn ensure(api: &Api, storage: &str, mut object: Value, now: Timestamp) -> Result<(), ApiError> {
    let key = ObjectKey::new(meta::namespace(&object), meta::name(&object));
    if api.storage.cache(storage).get(&key).is_some() {
        return Ok(());
    }
    meta::stamp_new(&mut object, &uuid::Uuid::new_v4().to_string(), now, false);
    write(api, Op { storage: storage.into(), value: object, expect: Expect::Absent, delete: false }).await
}

async fn write(api: &Api, op: Op) -> Result<(), ApiError> {
    let about = format!("{} {}", op.storage, meta::name(&op.value));
    match api.storage.write(vec![op]).await {
        Ok(_) | Err(WriteError::Exists) => Ok(()),
        Err(error) => Err(ApiError::Internal(format!("{about}: {error:?}"))),
    }
}

/// `default/kubernetes` and its EndpointSlice: how pods find the API.
async fn own_service(api: &Api, address: SocketAddr, now: Timestamp) -> Result<(), ApiError> {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": api.addresses.own().to_string(), "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": address.port()}]},
        "status": {"loadBalancer": {}},
    });
    kinds::defaults("/services", &mut service);
    set(&mut service, &["spec"], "clusterIPs", vec![Value::from(api.addresses.own().to_string())]);
    api.addresses.note(&service);
    ensure(api, "/services", service, now).await?;
    let ip = match address.ip() {
        ip if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        ip => ip,
    };
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
    });
    const STORAGE: &str = "discovery.k8s.io/endpointslices";
    let Some(current) = api.storage.get(STORAGE, "default", "kubernetes") else {
        return ensure(api, STORAGE, slice, now).await;
    };
    let mut stored = current.value();
    let same = ["endpoints", "ports", "addressType"].iter().all(|f| stored.get(*f) == slice.get(*f));
    if same {
        return Ok(());
    }
    // The listener moved since the last start.
    if let (Some(new), Some(old)) = (slice.as_object_mut(), stored.as_object_mut()) {
        for field in ["endpoints", "ports", "addressType"] {
            if let Some(value) = new.remove(field) {
                old.insert(field.to_owned(), value);
            }
        }
    }
    write(api, Op { storage: STORAGE.into(), value: stored, expect: Expect::Version(current.version), delete: false })
        .await
}

fn rbac() -> Vec<(&'static str, Value)> {
    let role = |name: &str, rules: Value| {
        let object = json!({
            "apiVersion": RBAC, "kind": "ClusterRole", "rules": rules,
            "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        });
        ("clusterroles", object)
    };
    let bind = |name: &str, role: &str, group: &str| {
        let object = json!({
            "apiVersion": RBAC, "kind": "ClusterRoleBinding",
            "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        });
        ("clusterrolebindings", object)
    };
    let read = ["get", "list", "watch"];
    let write = ["create", "delete", "deletecollection", "patch", "update"];
    let all: Vec<&str> = read.iter().chain(&write).copied().collect();
    // What an application team works with; Secrets only for those who may edit.
    let core = [
        "bindings",
        "configmaps",
        "endpoints",
        "events",
        "namespaces/status",
        "persistentvolumeclaims",
        "persistentvolumeclaims/status",
        "pods",
        "pods/log",
        "pods/status",
        "serviceaccounts",
        "services",
        "services/status",
    ];
    let apps = [
        "controllerrevisions",
        "daemonsets",
        "daemonsets/status",
        "deployments",
        "deployments/scale",
        "deployments/status",
        "replicasets",
        "replicasets/scale",
        "replicasets/status",
        "statefulsets",
        "statefulsets/scale",
        "statefulsets/status",
    ];
    let others = |verbs: &[&str]| {
        json!([
            {"apiGroups": ["apps"], "resources": apps, "verbs": verbs},
            {"apiGroups": ["batch"], "resources": ["jobs", "jobs/status", "cronjobs", "cronjobs/status"], "verbs": verbs},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
            {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": read},
            {"apiGroups": ["metrics.k8s.io"], "resources": ["nodes", "pods"], "verbs": read},
            {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses", "networkpolicies"], "verbs": verbs},
            {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": verbs},
            {"apiGroups": ["devices.kubeedge.io"], "resources": ["*"], "verbs": verbs},
        ])
    };
    let join = |mut rules: Value, more: Value| {
        if let (Value::Array(rules), Value::Array(more)) = (&mut rules, more) {
            rules.extend(more);
        }
        rules
    };
    let view = join(
        json!([{"apiGroups": [""], "resources": core, "verbs": read}, {"apiGroups": [""], "resources": ["namespaces"], "verbs": read}]),
        others(&read),
    );
    let edit = join(
        json!([
            {"apiGroups": [""], "resources": core, "verbs": all},
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": read},
            {"apiGroups": [""], "resources": ["secrets", "pods/eviction", "pods/exec", "pods/attach", "pods/portforward", "serviceaccounts/token"], "verbs": all},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": all},
        ]),
        others(&all),
    );
    let admin = join(
        edit.clone(),
        json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": all}]),
    );
    vec![
        role(
            "cluster-admin",
            json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]}]),
        ),
        role("admin", admin),
        role("edit", edit),
        role("view", view),
        role(
            "system:discovery",
            json!([{"nonResourceURLs": ["/", "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*",
            "/.well-known/openid-configuration", "/openid/v1/jwks"], "verbs": ["get"]}]),
        ),
        role(
            "system:basic-user",
            json!([
                {"apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], "verbs": ["create"]},
                {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]},
            ]),
        ),
        bind("cluster-admin", "cluster-admin", "system:masters"),
        bind("system:discovery", "system:discovery", "system:authenticated"),
        bind("system:basic-user", "system:basic-user", "system:authenticated"),
    ]
}

/// Notes the addresses of stored Services.
pub(crate) fn note_services(api: &Api) {
    let services = api.storage.cache("/services").snapshot(&skerry_apimachinery::Filter::default());
    for entry in services.entries {
        let service = entry.value();
        if !str_at(&service, "/spec/clusterIP").is_empty() {
            api.addresses.note(&service);
        }
    }
}
