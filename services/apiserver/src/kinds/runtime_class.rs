//! RuntimeClasses: what a pod that names one gets from it.
//!
//! Called when a pod is created. Invariants: a pod with a class that does not exist is refused; the
//! overhead of a pod is that of its class; the class adds to selector and tolerations and never
//! changes what the pod says. Stateless.

use crate::state::Api;
use serde_json::{Map, Value, json};
use skerry_apimachinery::json::{as_map, list_at, map_at};

/// Fills in what the class of the pod says.
///
/// # Errors
/// Why the pod is refused.
pub(super) fn admit(api: &Api, spec: &mut Map<String, Value>) -> Result<(), String> {
    let name = spec.get("runtimeClassName").and_then(Value::as_str).unwrap_or("").to_owned();
    if name.is_empty() {
        return apply(&Value::Null, spec);
    }
    let class = api.storage.get("node.k8s.io/runtimeclasses", "", &name);
    let class = class.ok_or_else(|| format!("pod rejected: RuntimeClass {name:?} not found"))?;
    apply(&class.value(), spec)
}

fn apply(class: &Value, spec: &mut Map<String, Value>) -> Result<(), String> {
    let given = spec.get("overhead").filter(|o| o.as_object().is_some_and(|o| !o.is_empty()));
    match (map_at(class, "/overhead/podFixed"), given) {
        (None, Some(_)) => {
            return Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into());
        }
        (Some(fixed), Some(given)) if given != &Value::Object(fixed.clone()) => {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        (Some(fixed), None) => drop(spec.insert("overhead".into(), Value::Object(fixed.clone()))),
        _ => {}
    }
    if let Some(selector) = map_at(class, "/scheduling/nodeSelector") {
        let own = as_map(spec.entry("nodeSelector").or_insert_with(|| json!({})));
        for (key, value) in selector {
            let set = own.entry(key.clone()).or_insert_with(|| value.clone());
            if set != value {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    set.as_str().unwrap_or_default()
                ));
            }
        }
    }
    let tolerations = list_at(class, "/scheduling/tolerations");
    if !tolerations.is_empty()
        && let Value::Array(own) = spec.entry("tolerations").or_insert_with(|| json!([]))
    {
        let new: Vec<Value> = tolerations.iter().filter(|t| !own.contains(t)).cloned().collect();
        own.extend(new);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pod_gets_what_its_class_says() {
        let class = json!({
            "overhead": {"podFixed": {"cpu": "10m"}},
            "scheduling": {"nodeSelector": {"gpu": "yes"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
        });
        let toleration = json!([{"key": "gpu", "operator": "Exists"}]);
        for (class, spec, want) in [
            (
                &class,
                json!({}),
                Ok(json!({"overhead": {"cpu": "10m"}, "nodeSelector": {"gpu": "yes"}, "tolerations": toleration})),
            ),
            (
                &class,
                json!({"nodeSelector": {"a": "b"}, "tolerations": toleration, "overhead": {"cpu": "10m"}}),
                Ok(
                    json!({"overhead": {"cpu": "10m"}, "nodeSelector": {"a": "b", "gpu": "yes"}, "tolerations": toleration}),
                ),
            ),
            (&class, json!({"overhead": {"cpu": "1"}}), Err("doesn't match")),
            (
                &class,
                json!({"nodeSelector": {"gpu": "no"}}),
                Err("nodeSelector[gpu] = yes; pod.spec.nodeSelector[gpu] = no"),
            ),
            (&Value::Null, json!({"overhead": {"cpu": "1"}}), Err("without corresponding")),
            (&Value::Null, json!({}), Ok(json!({}))),
        ] {
            let mut got = spec.as_object().unwrap().clone();
            match (apply(class, &mut got), want) {
                (Ok(()), Ok(want)) => assert_eq!(Value::Object(got), want, "{spec}"),
                (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
                (result, want) => panic!("{spec}: {result:?}, wanted {want:?}"),
            }
        }
    }
}
