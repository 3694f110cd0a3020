//! Pods: admission, quality of service, validation, what may change.
//!
//! Invariants: every pod has an existing ServiceAccount and, unless told otherwise, its token volume; a
//! pod's spec does not change except for images, tolerations (added) and activeDeadlineSeconds.
//! Limits: [`ACCOUNT_TRIES`]. Stateless.

use super::{pod_security, runtime_class};
use crate::state::Api;
use serde_json::{Map, Value, json};
use skerry_apimachinery::json::{as_map, default_to, list_at, map_at, map_mut, set, str_at};
use skerry_apimachinery::meta::{self, is_dns_label};
use skerry_apimachinery::{About, ApiError, FieldError};
use std::collections::HashSet;
use std::time::Duration;

/// How often a missing default ServiceAccount is looked for, as in Kubernetes.
const ACCOUNT_TRIES: usize = 10;
const ACCOUNT_WAIT: Duration = Duration::from_millis(100);
/// Lifetime of the token in the API access volume, in seconds, as in Kubernetes.
const TOKEN_SECONDS: i64 = 3607;
const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Marks what a node shows of a pod that it runs from a file of its own.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Seconds that a pod stays on a node that is not ready or unreachable.
const TOLERATION_SECONDS: i64 = 300;

/// Fills in what the cluster decides about a new pod.
pub(crate) async fn admit(api: &Api, pod: &mut Value) -> Result<(), ApiError> {
    account(api, pod).await?;
    let name = meta::name(pod).to_owned();
    let forbidden = |message: String| ApiError::Forbidden { about: About::new("", "pods", &name), message };
    let spec = map_mut(pod, &["spec"]);
    priority(api, spec).map_err(&forbidden)?;
    runtime_class::admit(api, spec).map_err(forbidden)?;
    default_to(spec, "enableServiceLinks", true);
    default_to(spec, "preemptionPolicy", "PreemptLowerPriority");
    tolerations(spec);
    Ok(())
}

/// The ServiceAccount: its token and its pull secrets. Not for mirror pods: their nodes run them without.
async fn account(api: &Api, pod: &mut Value) -> Result<(), ApiError> {
    if pod.pointer("/metadata/annotations").and_then(|a| a.get(MIRROR)).is_some() {
        return Ok(());
    }
    let namespace = meta::namespace(pod).to_owned();
    let name = meta::name(pod).to_owned();
    let forbidden = |message: String| ApiError::Forbidden { about: About::new("", "pods", &name), message };
    let spec = map_mut(pod, &["spec"]);
    let account_name = match spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or("") {
        "" => "default".to_owned(),
        other => other.to_owned(),
    };
    spec.insert("serviceAccountName".into(), account_name.clone().into());
    spec.insert("serviceAccount".into(), account_name.clone().into());
    let tries = if account_name == "default" { ACCOUNT_TRIES } else { 1 };
    let mut account = None;
    for attempt in 0..tries {
        account = api.storage.get("/serviceaccounts", &namespace, &account_name);
        if account.is_some() || attempt + 1 == tries {
            break;
        }
        tokio::time::sleep(ACCOUNT_WAIT).await;
    }
    let Some(account) = account.map(|entry| entry.value()) else {
        return Err(forbidden(format!(
            "error looking up service account {namespace}/{account_name}: serviceaccount \"{account_name}\" not found"
        )));
    };
    let off = |value: &Value| value == &Value::Bool(false);
    let automount = match spec.get("automountServiceAccountToken") {
        Some(value) if !value.is_null() => !off(value),
        _ => !account.get("automountServiceAccountToken").is_some_and(off),
    };
    if automount {
        mount_token(spec);
    }
    if list_at(&Value::Object(spec.clone()), "/imagePullSecrets").is_empty()
        && let Some(secrets) = account.get("imagePullSecrets")
    {
        spec.insert("imagePullSecrets".into(), secrets.clone());
    }
    Ok(())
}

fn mount_token(spec: &mut Map<String, Value>) {
    let volume =
        format!("kube-api-access-{}", meta::generate_name("", |n| usize::from(rand::random::<u16>()) % n.max(1)));
    let mount = json!({"name": volume, "mountPath": TOKEN_MOUNT, "readOnly": true});
    let mut used = false;
    for field in ["initContainers", "containers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if list_at(container, "/volumeMounts").iter().any(|m| str_at(m, "/mountPath") == TOKEN_MOUNT) {
                continue;
            }
            if let Value::Array(mounts) = as_map(container).entry("volumeMounts").or_insert_with(|| json!([])) {
                mounts.push(mount.clone());
                used = true;
            }
        }
    }
    if !used {
        return;
    }
    let source = json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    if let Value::Array(volumes) = spec.entry("volumes").or_insert_with(|| json!([])) {
        volumes.push(source);
    }
}

fn priority(api: &Api, spec: &mut Map<String, Value>) -> Result<(), String> {
    let value = match spec.get("priorityClassName").and_then(Value::as_str).unwrap_or("") {
        "" => 0,
        "system-cluster-critical" => 2_000_000_000,
        "system-node-critical" => 2_000_001_000,
        name => {
            let class = api.storage.get("scheduling.k8s.io/priorityclasses", "", name);
            let class = class.ok_or_else(|| format!("no PriorityClass with name {name} was found"))?.value();
            class.get("value").and_then(Value::as_i64).unwrap_or(0)
        }
    };
    spec.insert("priority".into(), value.into());
    Ok(())
}

fn tolerations(spec: &mut Map<String, Value>) {
    let Value::Array(list) = spec.entry("tolerations").or_insert_with(|| json!([])) else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = list.iter().any(|t| {
            let effect = str_at(t, "/effect");
            let everything = str_at(t, "/key").is_empty() && str_at(t, "/operator") == "Exists";
            (everything || str_at(t, "/key") == key) && (effect.is_empty() || effect == "NoExecute")
        });
        if !tolerated {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS}));
        }
    }
}

/// The quality of service class of a pod.
pub(crate) fn qos_class(pod: &Value) -> &'static str {
    let (mut any, mut all) = (false, true);
    let containers = list_at(pod, "/spec/containers").iter().chain(list_at(pod, "/spec/initContainers"));
    for container in containers {
        let amount = |kind: &str, name: &str| {
            map_at(container, &format!("/resources/{kind}")).and_then(|m| m.get(name)).cloned()
        };
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", name), amount("limits", name));
            any |= request.is_some() || limit.is_some();
            all &= limit.is_some() && request.as_ref().is_none_or(|r| Some(r) == limit.as_ref());
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Validates a pod. `old` is the stored pod and the subresource of a change.
pub(crate) fn validate(pod: &Value, old: Option<(&Value, &str)>, errors: &mut Vec<FieldError>) {
    match old {
        None => validate_spec(pod, "/spec", "spec", errors),
        Some((old, "ephemeralcontainers")) => ephemeral(pod, old, errors),
        Some((old, "resize")) => resize(pod, old, errors),
        Some((old, _)) => immutable(pod, old, errors),
    }
}

/// Takes the resources of the containers of `from`, by name, and nothing else.
pub(crate) fn take_resources(pod: &mut Value, from: &Value) {
    for field in ["containers", "initContainers"] {
        let wanted = list_at(from, &format!("/spec/{field}"));
        let list = pod.pointer_mut(&format!("/spec/{field}")).and_then(Value::as_array_mut);
        for container in list.into_iter().flatten() {
            let same = wanted.iter().find(|c| str_at(c, "/name") == str_at(container, "/name"));
            let Some(resources) = same.map(|c| c.get("resources").cloned().unwrap_or_else(|| json!({}))) else {
                continue;
            };
            as_map(container).insert("resources".into(), resources);
        }
    }
}

/// Requests and limits of cpu and memory change; the class of the pod does not, and no limit goes.
fn resize(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    for field in ["containers", "initContainers"] {
        let (after, before) = (list_at(new, &format!("/spec/{field}")), list_at(old, &format!("/spec/{field}")));
        for (index, (after, before)) in after.iter().zip(before).enumerate() {
            let at = format!("spec.{field}[{index}].resources");
            for kind in ["requests", "limits"] {
                let map = |container| map_at(container, &format!("/resources/{kind}")).cloned().unwrap_or_default();
                let (now, was) = (map(after), map(before));
                for name in now.keys().chain(was.keys()).filter(|name| now.get(*name) != was.get(*name)) {
                    let removed = !now.contains_key(name);
                    if !["cpu", "memory"].contains(&name.as_str()) {
                        errors.push(FieldError::forbidden(&*at, "only cpu and memory resources are mutable"));
                    } else if removed {
                        errors.push(FieldError::forbidden(&*at, format!("resource {kind} cannot be removed")));
                    } else if !is_quantity(now.get(name).and_then(Value::as_str).unwrap_or_default()) {
                        errors.push(FieldError::invalid(
                            format!("{at}.{kind}[{name}]"),
                            now.get(name).cloned().unwrap_or_default(),
                            "must be a quantity",
                        ));
                    }
                }
            }
        }
    }
    if qos_class(new) != qos_class(old) {
        errors.push(FieldError::invalid(
            "spec",
            qos_class(new),
            "Pod QOS Class may not change as a result of resizing",
        ));
    }
}

/// Containers for debugging are added, and stay as they are.
fn ephemeral(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    const FIELD: &str = "spec.ephemeralContainers";
    let named = |list: &'static str, name: &str| list_at(new, list).iter().any(|c| str_at(c, "/name") == name);
    let (after, before) = (list_at(new, "/spec/ephemeralContainers"), list_at(old, "/spec/ephemeralContainers"));
    for kept in before.iter().filter(|kept| !after.contains(kept)) {
        let name = str_at(kept, "/name");
        errors.push(FieldError::forbidden(
            FIELD,
            format!("existing ephemeral container \"{name}\" may not be changed or removed"),
        ));
    }
    for (index, container) in after.iter().enumerate().filter(|(_, c)| !before.contains(c)) {
        let at = format!("{FIELD}[{index}]");
        let (name, image) = (str_at(container, "/name"), str_at(container, "/image"));
        if !is_dns_label(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, "must be a lowercase RFC 1123 label"));
        }
        if image.is_empty() {
            errors.push(FieldError::required(format!("{at}.image"), ""));
        }
        let again = after.iter().filter(|c| str_at(c, "/name") == name).count() > 1;
        if again || named("/spec/containers", name) || named("/spec/initContainers", name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        }
    }
}

fn immutable(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let mut allowed = new.get("spec").cloned().unwrap_or_default();
    let old_spec = old.get("spec").cloned().unwrap_or_default();
    for field in ["containers", "initContainers"] {
        let before = list_at(&old_spec, &format!("/{field}")).to_vec();
        for (index, container) in allowed.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().enumerate()
        {
            if str_at(container, "/image").is_empty() {
                errors.push(FieldError::required(format!("spec.{field}[{index}].image"), ""));
            }
            if let Some(image) = before.get(index).and_then(|c| c.get("image")) {
                as_map(container).insert("image".into(), image.clone());
            }
        }
    }
    let (added, kept) = (list_at(&allowed, "/tolerations").to_vec(), list_at(&old_spec, "/tolerations"));
    if !kept.iter().all(|t| added.contains(t)) {
        errors.push(FieldError::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
    let map = as_map(&mut allowed);
    for field in ["tolerations", "activeDeadlineSeconds"] {
        match old_spec.get(field) {
            Some(value) => map.insert(field.to_owned(), value.clone()),
            None => map.remove(field),
        };
    }
    if allowed != old_spec {
        errors.push(FieldError::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
}

/// Validates a pod spec at `pointer` (also in templates).
pub(crate) fn validate_spec(object: &Value, pointer: &str, path: &str, errors: &mut Vec<FieldError>) {
    let Some(spec) = object.pointer(pointer) else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    let one_of = |field: &str, allowed: &[&str], errors: &mut Vec<FieldError>| {
        let value = str_at(spec, &format!("/{field}"));
        if !value.is_empty() && !allowed.contains(&value) {
            errors.push(FieldError::not_supported(format!("{path}.{field}"), value, allowed));
        }
    };
    pod_security::validate(spec, path, errors);
    one_of("restartPolicy", &["Always", "OnFailure", "Never"], errors);
    one_of("dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], errors);
    let mut volumes = HashSet::new();
    for (index, volume) in list_at(spec, "/volumes").iter().enumerate() {
        let name = str_at(volume, "/name");
        let field = format!("{path}.volumes[{index}]");
        if !is_dns_label(name) {
            errors.push(FieldError::invalid(format!("{field}.name"), name, "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character"));
        }
        if !volumes.insert(name) {
            errors.push(FieldError::duplicate(format!("{field}.name"), name));
        }
        if volume.as_object().is_some_and(|v| v.len() > 2) {
            errors.push(FieldError::forbidden(field, "may not specify more than 1 volume type"));
        }
    }
    let mut names = HashSet::new();
    if list_at(spec, "/containers").is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    for field in ["containers", "initContainers"] {
        for (index, container) in list_at(spec, &format!("/{field}")).iter().enumerate() {
            let at = format!("{path}.{field}[{index}]");
            validate_container(container, &at, &volumes, errors);
            let name = str_at(container, "/name");
            if !names.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), name));
            }
        }
    }
}

fn validate_container(container: &Value, at: &str, volumes: &HashSet<&str>, errors: &mut Vec<FieldError>) {
    let name = str_at(container, "/name");
    if name.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    } else if !is_dns_label(name) {
        errors.push(FieldError::invalid(format!("{at}.name"), name, "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"));
    }
    let image = str_at(container, "/image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{at}.image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(format!("{at}.image"), image, "must not have leading or trailing whitespace"));
    }
    let policy = str_at(container, "/imagePullPolicy");
    let policies = ["Always", "IfNotPresent", "Never"];
    if !policy.is_empty() && !policies.contains(&policy) {
        errors.push(FieldError::not_supported(format!("{at}.imagePullPolicy"), policy, &policies));
    }
    for (index, port) in list_at(container, "/ports").iter().enumerate() {
        let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or(0);
        if !(1..=65_535).contains(&number) {
            errors.push(FieldError::invalid(
                format!("{at}.ports[{index}].containerPort"),
                number,
                "must be between 1 and 65535, inclusive",
            ));
        }
        let protocol = str_at(port, "/protocol");
        if !["TCP", "UDP", "SCTP"].contains(&protocol) {
            errors.push(FieldError::not_supported(
                format!("{at}.ports[{index}].protocol"),
                protocol,
                &["SCTP", "TCP", "UDP"],
            ));
        }
    }
    for (index, variable) in list_at(container, "/env").iter().enumerate() {
        let name = str_at(variable, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.env[{index}].name"), ""));
        } else if name.contains('=') || name.chars().any(|c| c.is_control()) {
            errors.push(FieldError::invalid(
                format!("{at}.env[{index}].name"),
                name,
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            ));
        }
        let text = variable.get("value").and_then(Value::as_str).is_some_and(|v| !v.is_empty());
        if text && variable.get("valueFrom").is_some_and(|v| !v.is_null()) {
            errors.push(FieldError::invalid(
                format!("{at}.env[{index}].valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            ));
        }
    }
    let mut mounts = HashSet::new();
    for (index, mount) in list_at(container, "/volumeMounts").iter().enumerate() {
        let (name, path) = (str_at(mount, "/name"), str_at(mount, "/mountPath"));
        if !volumes.contains(name) {
            errors.push(FieldError::not_found(format!("{at}.volumeMounts[{index}].name"), name));
        }
        if path.is_empty() {
            errors.push(FieldError::required(format!("{at}.volumeMounts[{index}].mountPath"), ""));
        } else if !mounts.insert(path) {
            errors.push(FieldError::invalid(format!("{at}.volumeMounts[{index}].mountPath"), path, "must be unique"));
        }
        let sub = str_at(mount, "/subPath");
        if sub.starts_with('/') || sub.split('/').any(|s| s == "..") {
            errors.push(FieldError::invalid(
                format!("{at}.volumeMounts[{index}].subPath"),
                sub,
                "must be a relative path without '..'",
            ));
        }
    }
    for kind in ["requests", "limits"] {
        for (resource, amount) in map_at(container, &format!("/resources/{kind}")).into_iter().flatten() {
            let text = amount.as_str().unwrap_or("");
            if !is_quantity(text) {
                errors.push(FieldError::invalid(
                    format!("{at}.resources.{kind}[{resource}]"),
                    text,
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                ));
            }
        }
    }
}

/// Is this a Kubernetes quantity, not negative?
pub(crate) fn is_quantity(text: &str) -> bool {
    let digits = text.trim_start_matches('+');
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    let exponent = |s: &str| s.strip_prefix(['e', 'E']).is_some_and(|e| e.parse::<i32>().is_ok());
    number.parse::<f64>().is_ok()
        && (matches!(
            suffix,
            "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" | "E" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei"
        ) || exponent(suffix))
}

/// Binds a pod to a node; answers why not.
pub(crate) fn bind(pod: &mut Value, node: &str, annotations: Option<&Value>, now: &str) -> Result<(), String> {
    let current = str_at(pod, "/spec/nodeName");
    if meta::is_deleting(pod) {
        return Err(format!("pod {} is being deleted, cannot be assigned to a host", meta::name(pod)));
    }
    if !current.is_empty() {
        return Err(format!("pod {} is already assigned to node \"{current}\"", meta::name(pod)));
    }
    set(pod, &["spec"], "nodeName", node);
    if let Some(Value::Object(extra)) = annotations {
        map_mut(pod, &["metadata", "annotations"]).extend(extra.clone());
    }
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let conditions = as_map(pod).entry("status").or_insert_with(|| json!({}));
    if let Value::Array(list) = as_map(conditions).entry("conditions").or_insert_with(|| json!([])) {
        list.retain(|c| str_at(c, "/type") != "PodScheduled");
        list.push(condition);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for good in ["1", "100m", "1.5", "128Mi", "1e3", "0", "2Gi", "+1"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "a", "1 Gi", "-1", "1gb", "1ee", "Mi"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }

    #[test]
    fn quality_of_service() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let full = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"requests": full, "limits": full}))), "Guaranteed");
    }

    #[test]
    fn a_pod_spec_hardly_changes() {
        let old = json!({"spec": {"containers": [{"name": "a", "image": "x"}], "tolerations": [{"key": "a"}]}});
        let check = |new: Value| {
            let mut errors = Vec::new();
            validate(&new, Some((&old, "")), &mut errors);
            errors.len()
        };
        assert_eq!(
            check(
                json!({"spec": {"containers": [{"name": "a", "image": "y"}], "tolerations": [{"key": "a"}, {"key": "b"}]}})
            ),
            0
        );
        assert_eq!(check(json!({"spec": {"containers": [{"name": "a", "image": "y"}], "tolerations": []}})), 1);
        assert_eq!(
            check(json!({"spec": {"containers": [{"name": "b", "image": "x"}], "tolerations": [{"key": "a"}]}})),
            1
        );
    }

    #[test]
    fn a_bad_pod_is_told_all_its_faults() {
        let pod = json!({"spec": {"restartPolicy": "Sometimes", "containers": [
            {"name": "A", "image": "", "ports": [{"containerPort": 0, "protocol": "TCP"}], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}});
        let mut errors = Vec::new();
        validate(&pod, None, &mut errors);
        let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.restartPolicy",
                "spec.containers[0].name",
                "spec.containers[0].image",
                "spec.containers[0].ports[0].containerPort",
                "spec.containers[0].volumeMounts[0].name"
            ]
        );
    }
}
