//! Nobody grants more than he has: the check on writes of roles and bindings.
//!
//! Called by create and modify for RBAC objects. Invariants: a role may only contain what its writer may do,
//! unless he may `escalate`; a binding may only grant such a role, unless he may `bind` it; `system:masters`
//! may everything. Limits: [`MAX_COMBINATIONS`]. Stateless.

use super::{Attributes, Rbac, User};
use crate::storage::Storage;
use serde_json::Value;
use skerry_apimachinery::json::{list_at, str_at};
use skerry_apimachinery::{About, ApiError, Resource, meta};

/// Most combinations of verb, group and resource that one write is checked for.
const MAX_COMBINATIONS: usize = 20_000;
const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses a role or binding that gives more than its writer has. Other objects pass.
pub(crate) fn check(
    rbac: &Rbac,
    storage: &Storage,
    user: &User,
    resource: &Resource,
    object: &Value,
) -> Result<(), ApiError> {
    if resource.group != GROUP {
        return Ok(());
    }
    let namespace = meta::namespace(object);
    let may = |verb: &str, plural: &str, name: &str| {
        let wanted = Attributes {
            verb: verb.into(),
            group: GROUP.into(),
            resource: plural.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        rbac.allows(user, &wanted, storage)
    };
    let refused = |message: String| ApiError::Forbidden {
        about: About::new(GROUP, &resource.plural, meta::name(object)),
        message,
    };
    let role = if resource.plural.ends_with("bindings") {
        let (kind, name) = (str_at(object, "/roleRef/kind"), str_at(object, "/roleRef/name"));
        let (plural, role_namespace) = if kind == "Role" { ("roles", namespace) } else { ("clusterroles", "") };
        if may("bind", plural, name) {
            return Ok(());
        }
        let Some(role) = storage.get(&format!("{GROUP}/{plural}"), role_namespace, name) else {
            return Err(refused(format!(
                "{plural}.{GROUP} \"{name}\" not found, and only who may bind it may name it"
            )));
        };
        role.value()
    } else if may("escalate", &resource.plural, meta::name(object)) {
        return Ok(());
    } else {
        object.clone()
    };
    let mut combinations = 0;
    for rule in list_at(&role, "/rules") {
        for wanted in combinations_of(rule, namespace) {
            combinations += 1;
            if combinations > MAX_COMBINATIONS || !rbac.allows(user, &wanted, storage) {
                let what = wanted.path.unwrap_or_else(|| format!("{} in group \"{}\"", wanted.resource, wanted.group));
                return Err(refused(format!(
                    "user \"{}\" is attempting to grant RBAC permissions not currently held: {} {what}",
                    user.name, wanted.verb
                )));
            }
        }
    }
    Ok(())
}

/// Everything that a rule allows, one by one.
fn combinations_of(rule: &Value, namespace: &str) -> Vec<Attributes> {
    let texts = |field: &str| list_at(rule, field).iter().filter_map(Value::as_str).collect::<Vec<_>>();
    let (verbs, groups, resources) = (texts("/verbs"), texts("/apiGroups"), texts("/resources"));
    let (mut names, urls) = (texts("/resourceNames"), texts("/nonResourceURLs"));
    if names.is_empty() {
        names.push("");
    }
    let mut out = Vec::new();
    for verb in verbs {
        for url in &urls {
            out.push(Attributes { verb: verb.into(), path: Some((*url).to_owned()), ..Attributes::default() });
        }
        for group in &groups {
            for resource in &resources {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                for name in &names {
                    if out.len() > MAX_COMBINATIONS {
                        return out;
                    }
                    out.push(Attributes {
                        verb: verb.into(),
                        group: (*group).into(),
                        resource: resource.into(),
                        subresource: subresource.into(),
                        namespace: namespace.into(),
                        name: (*name).into(),
                        path: None,
                    });
                }
            }
        }
    }
    out
}
