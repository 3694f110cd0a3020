//! Which webhooks want to know about a write.
//!
//! Pure, but for the labels of the namespace, which are read once. Invariant: a selector that cannot be read
//! matches, so that nothing passes unasked.

use super::{Event, namespace_labels};
use crate::state::Api;
use serde_json::Value;
use skerry_apimachinery::json::{list_at, map_at, str_at};
use skerry_apimachinery::{ApiError, LabelSelector, meta};

/// What the rules of a webhook are compared with.
pub(super) struct Scene<'e> {
    event: &'e Event<'e>,
    /// Labels of the object's namespace; nothing for an object that has none.
    namespace: Option<Value>,
    /// Versions in which the resource is served, its own first.
    versions: Vec<String>,
}

impl<'e> Scene<'e> {
    pub(super) fn new(api: &Api, event: &'e Event<'e>) -> Self {
        let resource = event.resource;
        let any = event.object.or(event.old);
        let namespace = if &*resource.storage == "/namespaces" {
            any.and_then(|object| object.pointer("/metadata/labels").cloned()).or(Some(Value::Null))
        } else {
            resource.namespaced.then(|| namespace_labels(api, any.map(meta::namespace).unwrap_or_default()))
        };
        let registry = api.registry();
        let others = registry.resources().iter().filter(|other| other.storage == resource.storage);
        let others = others.filter(|other| other.group == resource.group && other.version != resource.version);
        let versions = std::iter::once(resource.version.clone()).chain(others.map(|other| other.version.clone()));
        Self { event, namespace, versions: versions.collect() }
    }
}

/// The version in which the webhook wants to be asked about the write, if at all.
pub(super) fn matching_version(webhook: &Value, scene: &Scene<'_>) -> Option<String> {
    let equivalent = str_at(webhook, "/matchPolicy") != "Exact";
    let count = if equivalent { scene.versions.len() } else { 1 };
    let rules = list_at(webhook, "/rules");
    let version = scene.versions.iter().take(count).find(|v| rules.iter().any(|r| rule_matches(r, scene.event, v)))?;
    let selected = |name: &str, labels: &Value| match selector(webhook, name) {
        Ok(selector) => selector.matches(|key| labels.get(key).and_then(Value::as_str)),
        Err(_) => true,
    };
    if scene.namespace.as_ref().is_some_and(|labels| !selected("namespaceSelector", labels)) {
        return None;
    }
    let objects = [scene.event.object, scene.event.old].into_iter().flatten();
    let mut labels = objects.map(|object| object.pointer("/metadata/labels").unwrap_or(&Value::Null));
    labels.any(|labels| selected("objectSelector", labels)).then(|| version.clone())
}

fn rule_matches(rule: &Value, event: &Event<'_>, version: &str) -> bool {
    let has = |list: &str, wanted: &str| list_at(rule, list).iter().any(|item| item == "*" || item == wanted);
    let resource = event.resource;
    let scope = match str_at(rule, "/scope") {
        "Namespaced" => resource.namespaced,
        "Cluster" => !resource.namespaced,
        _ => true,
    };
    scope
        && has("/operations", event.operation)
        && has("/apiGroups", &resource.group)
        && has("/apiVersions", version)
        && list_at(rule, "/resources").iter().filter_map(Value::as_str).any(|wanted| {
            let (plural, sub) = wanted.split_once('/').unwrap_or((wanted, ""));
            let part = if wanted == "*/*" || sub == "*" { true } else { sub == event.subresource };
            part && (plural == "*" || plural == resource.plural)
        })
}

/// A selector of a webhook; one that is absent selects everything.
pub(super) fn selector(webhook: &Value, name: &str) -> Result<LabelSelector, ApiError> {
    let pointer = format!("/{name}");
    let labels = map_at(webhook, &format!("{pointer}/matchLabels")).into_iter().flatten();
    let mut parts: Vec<String> = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    for wanted in list_at(webhook, &format!("{pointer}/matchExpressions")) {
        let values: Vec<&str> = list_at(wanted, "/values").iter().filter_map(Value::as_str).collect();
        let key = str_at(wanted, "/key");
        parts.push(match str_at(wanted, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            other => return Err(ApiError::BadRequest(format!("\"{other}\" is not a valid label selector operator"))),
        });
    }
    LabelSelector::parse(&parts.join(","))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use skerry_apimachinery::{Registry, Resource};

    fn wants(webhook: &Value, event: &Event<'_>, namespace: &Value, versions: &[&str]) -> Option<String> {
        let versions = versions.iter().map(|v| (*v).to_owned()).collect();
        matching_version(webhook, &Scene { event, namespace: Some(namespace.clone()), versions })
    }

    fn pods() -> Resource {
        Resource::clone(&Registry::new([]).get("", "v1", "pods").unwrap())
    }

    #[test]
    fn rules_say_which_operations_on_which_resources() {
        let resource = pods();
        let object = json!({"metadata": {"name": "p", "labels": {"a": "b"}}});
        let rule = |operations: &[&str], resources: &[&str], version: &str, scope: &str| json!({"rules": [{"operations": operations, "apiGroups": [""], "apiVersions": [version], "resources": resources, "scope": scope}]});
        let create =
            Event { resource: &resource, subresource: "", operation: "CREATE", object: Some(&object), old: None };
        let status = Event { subresource: "status", operation: "UPDATE", ..create };
        for (webhook, event, expected) in [
            (rule(&["CREATE"], &["pods"], "v1", "*"), &create, true),
            (rule(&["*"], &["*"], "*", "Namespaced"), &create, true),
            (rule(&["*"], &["*"], "*", "Cluster"), &create, false),
            (rule(&["UPDATE"], &["pods"], "v1", "*"), &create, false),
            (rule(&["CREATE"], &["services"], "v1", "*"), &create, false),
            (rule(&["CREATE"], &["pods"], "v2", "*"), &create, false),
            (rule(&["*"], &["pods"], "v1", "*"), &status, false),
            (rule(&["*"], &["*"], "v1", "*"), &status, false),
            (rule(&["*"], &["pods/status"], "v1", "*"), &status, true),
            (rule(&["*"], &["pods/*"], "v1", "*"), &status, true),
            (rule(&["*"], &["*/status"], "v1", "*"), &status, true),
            (rule(&["*"], &["*/*"], "v1", "*"), &status, true),
        ] {
            assert_eq!(wants(&webhook, event, &json!({}), &["v1"]).is_some(), expected, "{webhook}");
        }
    }

    #[test]
    fn another_version_of_the_resource_matches_unless_exactly_one_is_wanted() {
        let resource = pods();
        let event =
            Event { resource: &resource, subresource: "", operation: "DELETE", object: None, old: Some(&json!({})) };
        let webhook = |policy: &str| {
            json!({"matchPolicy": policy, "rules": [
            {"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1beta1"], "resources": ["pods"]}]})
        };
        let versions = ["v1", "v1beta1"];
        assert_eq!(wants(&webhook("Equivalent"), &event, &json!({}), &versions).as_deref(), Some("v1beta1"));
        assert_eq!(wants(&webhook("Exact"), &event, &json!({}), &versions), None);
    }

    #[test]
    fn selectors_look_at_the_labels_of_the_namespace_and_of_both_objects() {
        let resource = pods();
        let rules = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]);
        let (new, old) =
            (json!({"metadata": {"labels": {"tier": "x"}}}), json!({"metadata": {"labels": {"tier": "y"}}}));
        let event =
            Event { resource: &resource, subresource: "", operation: "UPDATE", object: Some(&new), old: Some(&old) };
        let labels = json!({"kubernetes.io/metadata.name": "plant"});
        for (selectors, expected) in [
            (json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "plant"}}}), true),
            (
                json!({"namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["plant"]}]}}),
                false,
            ),
            (json!({"objectSelector": {"matchLabels": {"tier": "y"}}}), true),
            (json!({"objectSelector": {"matchLabels": {"tier": "z"}}}), false),
            (json!({"objectSelector": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}}), true),
            (json!({"objectSelector": {"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}}), false),
            (json!({"objectSelector": {"matchExpressions": [{"key": "tier", "operator": "Like"}]}}), true),
        ] {
            let mut webhook = selectors;
            webhook.as_object_mut().unwrap().insert("rules".into(), rules.clone());
            assert_eq!(wants(&webhook, &event, &labels, &["v1"]).is_some(), expected, "{webhook}");
        }
    }
}
