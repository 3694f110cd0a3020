//! Authorization by Roles and ClusterRoles and their bindings.
//!
//! Called once per request and by access reviews. The rules are kept in a parsed form that is rebuilt when
//! any RBAC object changes. Invariants: `system:masters` may do everything; edge nodes nothing; what no
//! rule allows is denied. Limits: the number of RBAC objects is that of the store.

use super::User;
use super::user::{MASTERS, NODES};
use crate::storage::Storage;
use serde_json::Value;
use skerry_apimachinery::Filter;
use skerry_apimachinery::json::{list_at, str_at};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

const PREFIX: &str = "rbac.authorization.k8s.io/";

/// What somebody wants to do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Set for requests that are not for a resource.
    pub(crate) path: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Rule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    urls: Vec<String>,
}

impl Rule {
    fn new(value: &Value) -> Self {
        let strings = |pointer: &str| {
            list_at(value, pointer).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        Self {
            verbs: strings("/verbs"),
            groups: strings("/apiGroups"),
            resources: strings("/resources"),
            names: strings("/resourceNames"),
            urls: strings("/nonResourceURLs"),
        }
    }

    fn allows(&self, wanted: &Attributes) -> bool {
        let has = |list: &[String], text: &str| list.iter().any(|item| item == "*" || item == text);
        if !has(&self.verbs, &wanted.verb) {
            return false;
        }
        if let Some(path) = &wanted.path {
            return self.urls.iter().any(|url| match url.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => url == path,
            });
        }
        let resource = if wanted.subresource.is_empty() {
            wanted.resource.clone()
        } else {
            format!("{}/{}", wanted.resource, wanted.subresource)
        };
        let any_sub = format!("*/{}", wanted.subresource);
        has(&self.groups, &wanted.group)
            && (has(&self.resources, &resource)
                || (!wanted.subresource.is_empty() && self.resources.contains(&any_sub)))
            && (self.names.is_empty() || self.names.contains(&wanted.name))
    }
}

struct Binding {
    /// Empty: in the whole cluster.
    namespace: String,
    subjects: Vec<Subject>,
    rules: Arc<[Rule]>,
}

enum Subject {
    User(String),
    Group(String),
}

impl Subject {
    fn new(value: &Value, binding_namespace: &str) -> Option<Self> {
        let name = str_at(value, "/name");
        match str_at(value, "/kind") {
            "User" => Some(Self::User(name.to_owned())),
            "Group" => Some(Self::Group(name.to_owned())),
            "ServiceAccount" => {
                let namespace = match str_at(value, "/namespace") {
                    "" => binding_namespace,
                    namespace => namespace,
                };
                Some(Self::User(format!("system:serviceaccount:{namespace}:{name}")))
            }
            _ => None,
        }
    }
    fn is(&self, user: &User) -> bool {
        match self {
            Self::User(name) => *name == user.name,
            Self::Group(group) => user.is_in(group),
        }
    }
}

#[derive(Default)]
struct Index {
    versions: [u64; 4],
    bindings: Vec<Binding>,
}

/// The authorizer.
#[derive(Default)]
pub(crate) struct Rbac {
    index: RwLock<Arc<Index>>,
}

const KINDS: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];

impl Rbac {
    /// May the user do this?
    pub(crate) fn allows(&self, user: &User, wanted: &Attributes, storage: &Storage) -> bool {
        if user.is_in(MASTERS) {
            return true;
        }
        if user.is_in(NODES) || user.name.starts_with("system:node:") {
            return false;
        }
        let index = self.current(storage);
        index.bindings.iter().any(|binding| {
            (binding.namespace.is_empty() || (binding.namespace == wanted.namespace && wanted.path.is_none()))
                && binding.subjects.iter().any(|s| s.is(user))
                && binding.rules.iter().any(|r| r.allows(wanted))
        })
    }

    fn current(&self, storage: &Storage) -> Arc<Index> {
        let caches = KINDS.map(|kind| storage.cache(&format!("{PREFIX}{kind}")));
        let versions = caches.each_ref().map(|c| c.last_change());
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner).clone();
        if index.versions == versions && !index.bindings.is_empty() {
            return index;
        }
        let [cluster_roles, roles, cluster_bindings, bindings] =
            caches.map(|c| c.snapshot(&Filter::default()).entries.iter().map(|e| e.value()).collect::<Vec<Value>>());
        let rules = |role: &Value| list_at(role, "/rules").iter().map(Rule::new).collect::<Arc<[Rule]>>();
        let key =
            |role: &Value| (str_at(role, "/metadata/namespace").to_owned(), str_at(role, "/metadata/name").to_owned());
        let known: HashMap<(String, String), Arc<[Rule]>> =
            cluster_roles.iter().chain(&roles).map(|r| (key(r), rules(r))).collect();
        let bindings = cluster_bindings.iter().chain(&bindings).filter_map(|binding| {
            let namespace = str_at(binding, "/metadata/namespace").to_owned();
            let role_namespace =
                if str_at(binding, "/roleRef/kind") == "Role" { namespace.clone() } else { String::new() };
            let rules = known.get(&(role_namespace, str_at(binding, "/roleRef/name").to_owned()))?.clone();
            let subjects = list_at(binding, "/subjects").iter().filter_map(|s| Subject::new(s, &namespace)).collect();
            Some(Binding { namespace, subjects, rules })
        });
        let fresh = Arc::new(Index { versions, bindings: bindings.collect() });
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        fresh
    }

    fn rules_for(&self, user: &User, namespace: &str, storage: &Storage) -> Vec<Rule> {
        if user.is_in(MASTERS) {
            let all = vec!["*".to_owned()];
            let resources = Rule { verbs: all.clone(), groups: all.clone(), resources: all.clone(), ..Rule::default() };
            return vec![resources, Rule { verbs: all.clone(), urls: all, ..Rule::default() }];
        }
        if user.is_in(NODES) {
            return Vec::new();
        }
        let index = self.current(storage);
        let mine = index
            .bindings
            .iter()
            .filter(|b| (b.namespace.is_empty() || b.namespace == namespace) && b.subjects.iter().any(|s| s.is(user)));
        mine.flat_map(|b| b.rules.iter().cloned()).collect()
    }
}

/// The status of a SelfSubjectRulesReview.
pub(crate) fn rules_of(rbac: &Rbac, user: &User, namespace: &str, storage: &Storage) -> Value {
    let (urls, resources): (Vec<Rule>, Vec<Rule>) =
        rbac.rules_for(user, namespace, storage).into_iter().partition(|r| !r.urls.is_empty());
    let resource = |r: &Rule| serde_json::json!({"verbs": r.verbs, "apiGroups": r.groups, "resources": r.resources, "resourceNames": r.names});
    serde_json::json!({
        "incomplete": false,
        "resourceRules": resources.iter().map(resource).collect::<Vec<_>>(),
        "nonResourceRules": urls.iter().map(|r| serde_json::json!({"verbs": r.verbs, "nonResourceURLs": r.urls})).collect::<Vec<_>>(),
    })
}
