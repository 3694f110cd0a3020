//! Which resources exist: the built-in table and custom resources from CustomResourceDefinitions.
//!
//! Read on every request (lookup by group, version and plural) and by discovery. `apiserver` keeps one
//! current [`Registry`] and replaces it as a whole when a definition changes.
//! Invariants: a custom resource never hides a built-in one; two views of one kind (core and
//! `events.k8s.io` Events) share one storage name.
//! Limits: [`MAX_CUSTOM_RESOURCES`]. Pure: rebuilt from the stored definitions at start.

use crate::json::{list_at, map_at, str_at};
use crate::meta::NameRule;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Most custom resource versions that are served.
pub const MAX_CUSTOM_RESOURCES: usize = 1024;

/// A printer column of a custom resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Header.
    pub name: String,
    /// OpenAPI type: string, integer, boolean, date, number.
    pub kind: String,
    /// JSON path, such as `.spec.size`.
    pub path: String,
    /// Shown without `-o wide` when 0.
    pub priority: i64,
}

/// One resource in one API version.
#[derive(Debug, Clone, Default)]
pub struct Resource {
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural, as in paths.
    pub plural: String,
    /// Singular.
    pub singular: String,
    /// Kind.
    pub kind: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories, such as `all`.
    pub categories: Vec<String>,
    /// Lives in a namespace?
    pub namespaced: bool,
    /// Name of the storage: `group/plural`; views of one kind share it.
    pub storage: Arc<str>,
    /// Served subresources.
    pub subresources: Vec<String>,
    /// Rule for names.
    pub name_rule: NameRule,
    /// Has `spec` and `metadata.generation`.
    pub generation: bool,
    /// From a CustomResourceDefinition.
    pub custom: bool,
    /// Only `create`, nothing is stored (reviews).
    pub review: bool,
    /// Only `get` and `list`, made when asked for (metrics).
    pub computed: bool,
    /// PUT to a name that does not exist creates it (leases, events).
    pub create_on_update: bool,
    /// What to tell who uses this version, or empty.
    pub deprecation: String,
    /// Columns of a custom resource.
    pub columns: Vec<Column>,
    /// Paths of `scale` of a custom resource: spec replicas, status replicas, selector.
    pub scale_paths: Option<(String, String, String)>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
    /// `PodList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }
    /// Is the subresource served?
    pub fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|s| s == subresource)
    }
    /// The verbs for discovery.
    pub fn verbs(&self) -> &'static [&'static str] {
        if self.review {
            &["create"]
        } else if self.computed {
            &["get", "list"]
        } else {
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        }
    }
}

const NS: u8 = 1;
/// Has generation.
const GEN: u8 = 2;
const REVIEW: u8 = 4;
/// Create on update.
const PUT: u8 = 8;
/// Any path segment as a name.
const ANY: u8 = 16;
/// In category `all`.
const ALL: u8 = 32;
const COMPUTED: u8 = 64;

type Row =
    (&'static str, &'static str, &'static str, &'static str, u8, &'static [&'static str], &'static [&'static str]);

/// group, version, plural, kind, flags, short names, subresources
const BUILTIN: &[Row] = &[
    ("", "v1", "bindings", "Binding", NS | REVIEW, &[], &[]),
    ("", "v1", "configmaps", "ConfigMap", NS, &["cm"], &[]),
    ("", "v1", "endpoints", "Endpoints", NS, &["ep"], &[]),
    ("", "v1", "events", "Event", NS | PUT, &["ev"], &[]),
    ("", "v1", "namespaces", "Namespace", 0, &["ns"], &["status", "finalize"]),
    ("", "v1", "nodes", "Node", 0, &["no"], &["status", "proxy"]),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", NS, &["pvc"], &["status"]),
    ("", "v1", "persistentvolumes", "PersistentVolume", 0, &["pv"], &["status"]),
    (
        "",
        "v1",
        "pods",
        "Pod",
        NS | GEN | ALL,
        &["po"],
        &["status", "binding", "eviction", "ephemeralcontainers", "resize", "log", "exec", "attach", "portforward"],
    ),
    ("", "v1", "podtemplates", "PodTemplate", NS, &[], &[]),
    ("", "v1", "secrets", "Secret", NS, &[], &[]),
    ("", "v1", "serviceaccounts", "ServiceAccount", NS, &["sa"], &["token"]),
    ("", "v1", "services", "Service", NS | ALL, &["svc"], &["status"]),
    ("apps", "v1", "controllerrevisions", "ControllerRevision", NS, &[], &[]),
    ("apps", "v1", "daemonsets", "DaemonSet", NS | GEN | ALL, &["ds"], &["status"]),
    ("apps", "v1", "deployments", "Deployment", NS | GEN | ALL, &["deploy"], &["status", "scale"]),
    ("apps", "v1", "replicasets", "ReplicaSet", NS | GEN | ALL, &["rs"], &["status", "scale"]),
    ("apps", "v1", "statefulsets", "StatefulSet", NS | GEN | ALL, &["sts"], &["status", "scale"]),
    (
        "admissionregistration.k8s.io",
        "v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        GEN,
        &[],
        &[],
    ),
    (
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        GEN,
        &["crd", "crds"],
        &["status"],
    ),
    ("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", REVIEW, &[], &[]),
    ("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", REVIEW, &[], &[]),
    ("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", NS | REVIEW, &[], &[]),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", REVIEW, &[], &[]),
    ("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", REVIEW, &[], &[]),
    ("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", REVIEW, &[], &[]),
    ("batch", "v1", "cronjobs", "CronJob", NS | GEN | ALL, &["cj"], &["status"]),
    ("batch", "v1", "jobs", "Job", NS | GEN | ALL, &[], &["status"]),
    ("coordination.k8s.io", "v1", "leases", "Lease", NS | PUT, &[], &[]),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", NS | GEN, &[], &[]),
    ("events.k8s.io", "v1", "events", "Event", NS | PUT, &["ev"], &[]),
    ("metrics.k8s.io", "v1beta1", "nodes", "NodeMetrics", COMPUTED, &[], &[]),
    ("metrics.k8s.io", "v1beta1", "pods", "PodMetrics", NS | COMPUTED, &[], &[]),
    ("networking.k8s.io", "v1", "ingresses", "Ingress", NS | GEN, &["ing"], &["status"]),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", NS | GEN, &["netpol"], &[]),
    ("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", 0, &[], &[]),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", NS | GEN, &["pdb"], &["status"]),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", ANY, &[], &[]),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", ANY, &[], &[]),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", NS | ANY, &[], &[]),
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", NS | ANY, &[], &[]),
    ("resource.k8s.io", "v1", "deviceclasses", "DeviceClass", GEN, &[], &[]),
    ("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim", NS, &[], &["status"]),
    ("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate", NS, &[], &[]),
    ("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", GEN, &[], &[]),
    ("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", 0, &["pc"], &[]),
    ("storage.k8s.io", "v1", "csidrivers", "CSIDriver", 0, &[], &[]),
    ("storage.k8s.io", "v1", "csinodes", "CSINode", 0, &[], &[]),
    ("storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity", NS, &[], &[]),
    ("storage.k8s.io", "v1", "storageclasses", "StorageClass", 0, &["sc"], &[]),
    ("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", 0, &[], &["status"]),
    ("storage.k8s.io", "v1", "volumeattributesclasses", "VolumeAttributesClass", 0, &["vac"], &[]),
];

fn builtin(row: &Row) -> Resource {
    let (group, version, plural, kind, flags, shorts, subs) = *row;
    let is = |flag: u8| flags & flag != 0;
    let storage = if plural == "events" { "/events".to_owned() } else { format!("{group}/{plural}") };
    let name_rule = match kind {
        "Namespace" => NameRule::Label,
        "Service" => NameRule::Label1035,
        _ if is(ANY) => NameRule::PathSegment,
        _ => NameRule::Subdomain,
    };
    let strings = |items: &[&str]| items.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    Resource {
        group: group.into(),
        version: version.into(),
        plural: plural.into(),
        singular: kind.to_ascii_lowercase(),
        kind: kind.into(),
        short_names: strings(shorts),
        categories: if is(ALL) { vec!["all".into()] } else { Vec::new() },
        namespaced: is(NS),
        storage: storage.into(),
        subresources: strings(subs),
        name_rule,
        generation: is(GEN),
        review: is(REVIEW),
        computed: is(COMPUTED),
        create_on_update: is(PUT),
        ..Resource::default()
    }
}

/// The resources of a CustomResourceDefinition: one per served version. Empty when names collide with a
/// built-in group or the definition is incomplete.
pub fn custom_resources(definition: &Value) -> Vec<Resource> {
    let group = str_at(definition, "/spec/group");
    let plural = str_at(definition, "/spec/names/plural");
    let kind = str_at(definition, "/spec/names/kind");
    let taken = BUILTIN.iter().any(|row| row.0 == group && row.2 == plural);
    if group.is_empty() || plural.is_empty() || kind.is_empty() || taken {
        return Vec::new();
    }
    let strings = |pointer: &str| {
        list_at(definition, pointer).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let singular = match str_at(definition, "/spec/names/singular") {
        "" => kind.to_ascii_lowercase(),
        other => other.to_owned(),
    };
    let served = list_at(definition, "/spec/versions").iter().filter(|v| v.get("served") == Some(&Value::Bool(true)));
    served
        .map(|version| {
            let mut subresources = Vec::new();
            if map_at(version, "/subresources/status").is_some() {
                subresources.push("status".to_owned());
            }
            let scale_paths = map_at(version, "/subresources/scale").map(|_| {
                subresources.push("scale".to_owned());
                let path = |p: &str| str_at(version, &format!("/subresources/scale/{p}")).to_owned();
                (path("specReplicasPath"), path("statusReplicasPath"), path("labelSelectorPath"))
            });
            let columns = list_at(version, "/additionalPrinterColumns").iter().map(|c| Column {
                name: str_at(c, "/name").to_owned(),
                kind: str_at(c, "/type").to_owned(),
                path: str_at(c, "/jsonPath").to_owned(),
                priority: c.get("priority").and_then(Value::as_i64).unwrap_or(0),
            });
            Resource {
                group: group.to_owned(),
                version: str_at(version, "/name").to_owned(),
                plural: plural.to_owned(),
                singular: singular.clone(),
                kind: kind.to_owned(),
                short_names: strings("/spec/names/shortNames"),
                categories: strings("/spec/names/categories"),
                namespaced: str_at(definition, "/spec/scope") == "Namespaced",
                storage: format!("{group}/{plural}").into(),
                subresources,
                generation: true,
                custom: true,
                deprecation: deprecation(definition, version),
                columns: columns.collect(),
                scale_paths,
                ..Resource::default()
            }
        })
        .filter(|r| !r.version.is_empty())
        .collect()
}

/// The warning for a deprecated version of a definition, or empty.
fn deprecation(definition: &Value, version: &Value) -> String {
    if version.get("deprecated") != Some(&Value::Bool(true)) {
        return String::new();
    }
    match str_at(version, "/deprecationWarning") {
        "" => {
            let (group, kind) = (str_at(definition, "/spec/group"), str_at(definition, "/spec/names/kind"));
            format!("{group}/{} {kind} is deprecated", str_at(version, "/name"))
        }
        text => text.to_owned(),
    }
}

/// All resources that are served now.
#[derive(Debug)]
pub struct Registry {
    resources: Vec<Arc<Resource>>,
    by_path: HashMap<(String, String, String), Arc<Resource>>,
}

impl Registry {
    /// The built-in resources and those of the given definitions.
    pub fn new<'d>(definitions: impl IntoIterator<Item = &'d Value>) -> Self {
        let custom = definitions.into_iter().flat_map(custom_resources).take(MAX_CUSTOM_RESOURCES);
        let resources: Vec<Arc<Resource>> = BUILTIN.iter().map(builtin).chain(custom).map(Arc::new).collect();
        let key = |r: &Resource| (r.group.clone(), r.version.clone(), r.plural.clone());
        let by_path = resources.iter().map(|r| (key(r), r.clone())).collect();
        Self { resources, by_path }
    }

    /// Looks a resource up by its path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    /// Every resource, in table order.
    pub fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// Group and versions, in table order, newest stable version first within a group.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for resource in &self.resources {
            match groups.iter_mut().find(|(g, _)| *g == resource.group) {
                Some((_, versions)) if versions.contains(&resource.version) => {}
                Some((_, versions)) => versions.push(resource.version.clone()),
                None => groups.push((resource.group.clone(), vec![resource.version.clone()])),
            }
        }
        for (_, versions) in &mut groups {
            versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
        }
        groups
    }
}

/// Kubernetes' order of versions: v2 > v1 > v1beta2 > v1beta1 > v1alpha1 > others.
fn version_rank(version: &str) -> (u8, u32, u32) {
    let digits = |text: &str| text.parse::<u32>().unwrap_or(0);
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    if let Some((major, minor)) = rest.split_once("beta") {
        (2, digits(major), digits(minor))
    } else if let Some((major, minor)) = rest.split_once("alpha") {
        (1, digits(major), digits(minor))
    } else if rest.chars().all(|c| c.is_ascii_digit()) && !rest.is_empty() {
        (3, digits(rest), 0)
    } else {
        (0, 0, 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use serde_json::json;

    #[test]
    fn custom_resources_are_served_beside_the_built_in_ones() {
        let crd = json!({"spec": {"group": "devices.kubeedge.io", "scope": "Namespaced",
            "names": {"plural": "devices", "kind": "Device", "shortNames": ["dev"]},
            "versions": [
                {"name": "v1alpha2", "served": true}, {"name": "v1beta1", "served": true, "subresources": {"status": {}},
                 "additionalPrinterColumns": [{"name": "Node", "type": "string", "jsonPath": ".spec.nodeName"}]},
                {"name": "v0", "served": false}]}});
        let registry = Registry::new([&crd]);
        let device = registry.get("devices.kubeedge.io", "v1beta1", "devices").unwrap();
        assert!(device.custom && device.has("status") && device.columns[0].name == "Node");
        assert!(registry.get("devices.kubeedge.io", "v0", "devices").is_none());
        let groups = registry.groups();
        let custom = groups.iter().find(|g| g.0 == "devices.kubeedge.io").unwrap();
        assert_eq!(custom.1, ["v1beta1", "v1alpha2"]);
        let thief = json!({"spec": {"group": "apps", "names": {"plural": "deployments", "kind": "X"}, "versions": [{"name": "v1", "served": true}]}});
        assert!(custom_resources(&thief).is_empty());
    }

    #[test]
    fn both_events_share_one_storage() {
        let registry = Registry::new([]);
        let core = registry.get("", "v1", "events").unwrap();
        assert_eq!(core.storage, registry.get("events.k8s.io", "v1", "events").unwrap().storage);
        assert_eq!(registry.get("apps", "v1", "deployments").unwrap().api_version(), "apps/v1");
    }
}
