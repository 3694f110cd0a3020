//! Deployments, ReplicaSets, DaemonSets, StatefulSets, Jobs, CronJobs: defaults, validation, selectors.
//!
//! Invariants: the selector matches the template's labels and never changes. Limits: none. Stateless.

use super::pod;
use super::pod_defaults::pod_spec;
use serde_json::{Map, Value, json};
use skerry_apimachinery::FieldError;
use skerry_apimachinery::json::{as_map, default_to, list_at, map_at, map_mut, set, str_at};
use skerry_apimachinery::meta::{self, is_label_value, is_qualified_name};

fn template(spec: &mut Map<String, Value>) {
    if let Some(Value::Object(template)) = spec.get_mut("template") {
        if !template.contains_key("metadata") {
            template.insert("metadata".into(), json!({}));
        }
        if let Some(Value::Object(meta)) = template.get_mut("metadata") {
            meta.retain(|_, v| !v.is_null());
        }
        pod_spec(as_map(template.entry("spec").or_insert_with(|| json!({}))));
    }
}

pub(super) fn defaults(storage: &str, object: &mut Value) {
    let spec = map_mut(object, &["spec"]);
    match storage {
        "apps/deployments" => {
            template(spec);
            default_to(spec, "replicas", 1);
            default_to(spec, "revisionHistoryLimit", 10);
            default_to(spec, "progressDeadlineSeconds", 600);
            let strategy = as_map(spec.entry("strategy").or_insert_with(|| json!({})));
            default_to(strategy, "type", "RollingUpdate");
            if strategy.get("type").is_some_and(|t| t == "RollingUpdate") {
                let rolling = as_map(strategy.entry("rollingUpdate").or_insert_with(|| json!({})));
                default_to(rolling, "maxSurge", "25%");
                default_to(rolling, "maxUnavailable", "25%");
            }
        }
        "apps/replicasets" => {
            template(spec);
            default_to(spec, "replicas", 1);
        }
        "apps/daemonsets" => {
            template(spec);
            default_to(spec, "revisionHistoryLimit", 10);
            let strategy = as_map(spec.entry("updateStrategy").or_insert_with(|| json!({})));
            default_to(strategy, "type", "RollingUpdate");
            if strategy.get("type").is_some_and(|t| t == "RollingUpdate") {
                let rolling = as_map(strategy.entry("rollingUpdate").or_insert_with(|| json!({})));
                default_to(rolling, "maxSurge", 0);
                default_to(rolling, "maxUnavailable", 1);
            }
        }
        "apps/statefulsets" => {
            template(spec);
            default_to(spec, "replicas", 1);
            default_to(spec, "revisionHistoryLimit", 10);
            default_to(spec, "podManagementPolicy", "OrderedReady");
            default_to(spec, "updateStrategy", json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}));
            default_to(
                spec,
                "persistentVolumeClaimRetentionPolicy",
                json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
            );
        }
        "batch/jobs" => {
            template(spec);
            for (field, value) in [("backoffLimit", 6), ("parallelism", 1)] {
                default_to(spec, field, value);
            }
            if spec.get("parallelism").is_some_and(|p| p == 1) {
                default_to(spec, "completions", 1);
            }
            default_to(spec, "completionMode", "NonIndexed");
            default_to(spec, "suspend", false);
        }
        "batch/cronjobs" => {
            default_to(spec, "concurrencyPolicy", "Allow");
            default_to(spec, "suspend", false);
            default_to(spec, "successfulJobsHistoryLimit", 3);
            default_to(spec, "failedJobsHistoryLimit", 1);
        }
        _ => {}
    }
}

/// A new Job selects its pods by its own uid.
pub(super) fn job_identity(job: &mut Value) {
    if job.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let (uid, name) = (meta::uid(job).to_owned(), meta::name(job).to_owned());
    set(job, &["spec", "selector", "matchLabels"], "batch.kubernetes.io/controller-uid", uid.clone());
    let labels = map_mut(job, &["spec", "template", "metadata", "labels"]);
    for prefix in ["", "batch.kubernetes.io/"] {
        labels.insert(format!("{prefix}controller-uid"), uid.clone().into());
        labels.insert(format!("{prefix}job-name"), name.clone().into());
    }
}

pub(super) fn validate(storage: &str, object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    if matches!(storage, "batch/cronjobs" | "apps/controllerrevisions") {
        return;
    }
    for field in ["replicas", "minReadySeconds", "backoffLimit", "completions", "parallelism", "revisionHistoryLimit"] {
        if let Some(number) = object.pointer(&format!("/spec/{field}")).and_then(Value::as_i64)
            && number < 0
        {
            errors.push(FieldError::invalid(format!("spec.{field}"), number, "must be greater than or equal to 0"));
        }
    }
    pod::validate_spec(object, "/spec/template/spec", "spec.template.spec", errors);
    let restart = str_at(object, "/spec/template/spec/restartPolicy");
    if storage == "batch/jobs" {
        if !["OnFailure", "Never"].contains(&restart) {
            errors.push(FieldError::required(
                "spec.template.spec.restartPolicy",
                "valid values: \"OnFailure\", \"Never\"",
            ));
        }
        return;
    }
    if restart != "Always" {
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", restart, &["Always"]));
    }
    let selector = object.pointer("/spec/selector").filter(|s| s.as_object().is_some_and(|m| !m.is_empty()));
    let Some(selector) = selector else {
        errors.push(FieldError::required("spec.selector", ""));
        return;
    };
    for (key, value) in map_at(selector, "/matchLabels").into_iter().flatten() {
        if !is_qualified_name(key) || !value.as_str().is_some_and(is_label_value) {
            errors.push(FieldError::invalid("spec.selector.matchLabels", value.clone(), "must be a valid label"));
        }
    }
    if !selects(selector, object) {
        let labels = object.pointer("/spec/template/metadata/labels").cloned().unwrap_or_else(|| json!({}));
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            labels,
            "`selector` does not match template `labels`",
        ));
    }
    if let Some(old) = old
        && old.pointer("/spec/selector") != Some(selector)
    {
        errors.push(FieldError::invalid("spec.selector", selector.clone(), "field is immutable"));
    }
}

fn selects(selector: &Value, object: &Value) -> bool {
    let label =
        |key: &str| map_at(object, "/spec/template/metadata/labels").and_then(|m| m.get(key)).and_then(Value::as_str);
    let by_label =
        map_at(selector, "/matchLabels").into_iter().flatten().all(|(key, value)| label(key) == value.as_str());
    let by_expression = list_at(selector, "/matchExpressions").iter().all(|e| {
        let have = label(str_at(e, "/key"));
        let listed = have.is_some_and(|h| list_at(e, "/values").iter().any(|v| v == h));
        match str_at(e, "/operator") {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => have.is_some(),
            "DoesNotExist" => have.is_none(),
            _ => false,
        }
    });
    by_label && by_expression
}
