//! Validating admission webhooks: who else is asked before an object is stored or deleted.
//!
//! Called by the verbs right before the write, with the object as it would be stored. Webhooks are asked at
//! once; the first refusal wins. Invariants: the configurations themselves are never sent to a webhook, so
//! that a broken one can be removed; a webhook that cannot be asked refuses, unless its policy says Ignore.
//! Limits: [`MAX_WEBHOOKS`] for one request, the time of each ([`MAX_SECONDS`]), the size of an answer
//! (`send::MAX_ANSWER`). A cancelled request stores nothing.
//!
//! Not served: matchConditions (refused when the configuration is written), and mutating webhooks.

mod matching;
mod send;

use crate::call::Call;
use crate::metrics::WebhookLabels;
use crate::state::Api;
use futures::future::join_all;
use matching::{Scene, matching_version};
use serde_json::{Value, json};
use skerry_apimachinery::json::{as_map, default_to, int_at, list_at, str_at};
use skerry_apimachinery::{ApiError, FieldError, Filter, Resource, meta};
use std::time::Duration;

/// Where the configurations are stored.
pub(crate) const CONFIGURATIONS: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";
const GROUP: &str = "admissionregistration.k8s.io";
/// Most webhooks that one request waits for.
const MAX_WEBHOOKS: usize = 64;
/// Longest that one webhook may take, and what it gets when it does not say.
const MAX_SECONDS: i64 = 30;
const DEFAULT_SECONDS: i64 = 10;

/// What is about to happen to an object.
pub(crate) struct Event<'e> {
    pub(crate) resource: &'e Resource,
    pub(crate) subresource: &'e str,
    /// CREATE, UPDATE or DELETE.
    pub(crate) operation: &'static str,
    pub(crate) object: Option<&'e Value>,
    pub(crate) old: Option<&'e Value>,
}

/// Asks every webhook that wants to know.
pub(crate) async fn validate(call: &Call, event: Event<'_>) -> Result<(), ApiError> {
    if event.resource.group == GROUP {
        return Ok(());
    }
    let configurations = call.api.storage.cache(CONFIGURATIONS).snapshot(&Filter::default()).entries;
    if configurations.is_empty() {
        return Ok(());
    }
    let configurations: Vec<Value> = configurations.iter().map(|entry| entry.value()).collect();
    let scene = Scene::new(&call.api, &event);
    let wanted: Vec<(&Value, String)> = configurations
        .iter()
        .flat_map(|configuration| list_at(configuration, "/webhooks"))
        .filter_map(|webhook| Some((webhook, matching_version(webhook, &scene)?)))
        .take(MAX_WEBHOOKS)
        .collect();
    let asked = wanted.iter().map(|(webhook, version)| ask(call, &event, webhook, version));
    for answer in join_all(asked).await {
        answer?;
    }
    Ok(())
}

async fn ask(call: &Call, event: &Event<'_>, webhook: &Value, version: &str) -> Result<(), ApiError> {
    let name = str_at(webhook, "/name");
    let seconds = int_at(webhook, "/timeoutSeconds").unwrap_or(DEFAULT_SECONDS).clamp(1, MAX_SECONDS);
    let limit = Duration::from_secs(seconds.unsigned_abs());
    let uid = uuid::Uuid::new_v4().to_string();
    let review = review(call, event, version, &uid);
    let answer = tokio::time::timeout(limit, send::send(&call.api, webhook, &review)).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {seconds} s")));
    let response = answer.and_then(|answer| response(answer, &uid));
    let count = |result| {
        call.api.metrics.webhooks.get_or_create(&WebhookLabels { result }).inc();
    };
    let response = match response {
        Ok(response) => response,
        Err(why) => {
            count("failed");
            tracing::warn!(webhook = name, error = why, "cannot call a webhook");
            return match str_at(webhook, "/failurePolicy") {
                "Ignore" => Ok(()),
                _ => {
                    Err(ApiError::Internal(format!("failed calling webhook \"{name}\": failed to call webhook: {why}")))
                }
            };
        }
    };
    for warning in list_at(&response, "/warnings").iter().filter_map(Value::as_str) {
        call.warn(warning);
    }
    if response.get("allowed") == Some(&Value::Bool(true)) {
        count("allowed");
        return Ok(());
    }
    count("denied");
    let code = int_at(&response, "/status/code").and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
    let said = [str_at(&response, "/status/message"), str_at(&response, "/status/reason")];
    let why = said.into_iter().find(|text| !text.is_empty());
    let message = match why {
        Some(why) => format!("admission webhook \"{name}\" denied the request: {why}"),
        None => format!("admission webhook \"{name}\" denied the request without explanation"),
    };
    Err(ApiError::Denied { code, message })
}

/// The question, in the version that the webhook asked for.
fn review(call: &Call, event: &Event<'_>, version: &str, uid: &str) -> Value {
    let resource = event.resource;
    let group = &resource.group;
    let shown = |object: Option<&Value>| {
        let mut object = object.cloned()?;
        if let (true, Some(map)) = (resource.custom, object.as_object_mut()) {
            map.insert("apiVersion".into(), format!("{group}/{version}").into());
        }
        Some(object)
    };
    let any = event.object.or(event.old);
    let name = any.map(meta::name).unwrap_or_default();
    let groups: Vec<&String> = call.user.groups.iter().collect();
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": uid,
            "kind": {"group": group, "version": version, "kind": resource.kind},
            "resource": {"group": group, "version": version, "resource": resource.plural},
            "requestKind": {"group": group, "version": resource.version, "kind": resource.kind},
            "requestResource": {"group": group, "version": resource.version, "resource": resource.plural},
            "subResource": event.subresource, "requestSubResource": event.subresource,
            "name": name, "namespace": any.map(meta::namespace).unwrap_or_default(),
            "operation": event.operation, "dryRun": call.query.dry_run,
            "userInfo": {"username": call.user.name, "uid": call.user.uid, "groups": groups},
            "object": shown(event.object), "oldObject": shown(event.old), "options": null,
        },
    })
}

fn response(mut answer: Value, uid: &str) -> Result<Value, String> {
    let is = |field: &str, wanted: &str| str_at(&answer, field) == wanted;
    if !is("/apiVersion", "admission.k8s.io/v1") || !is("/kind", "AdmissionReview") {
        return Err("the answer is no AdmissionReview of admission.k8s.io/v1".into());
    }
    if !is("/response/uid", uid) {
        return Err("the answer is not to this request: response.uid differs".into());
    }
    answer.get_mut("response").map(Value::take).ok_or_else(|| "the answer has no response".into())
}

/// Fills the defaults of a configuration.
pub(crate) fn defaults(object: &mut Value) {
    let Some(Value::Array(webhooks)) = object.get_mut("webhooks") else { return };
    for webhook in webhooks {
        let map = as_map(webhook);
        default_to(map, "failurePolicy", "Fail");
        default_to(map, "matchPolicy", "Equivalent");
        default_to(map, "timeoutSeconds", DEFAULT_SECONDS);
        default_to(map, "namespaceSelector", json!({}));
        default_to(map, "objectSelector", json!({}));
        if let Some(Value::Array(rules)) = map.get_mut("rules") {
            rules.iter_mut().for_each(|rule| default_to(as_map(rule), "scope", "*"));
        }
        if let Some(service @ Value::Object(_)) = map.get_mut("clientConfig").and_then(|c| c.get_mut("service")) {
            default_to(as_map(service), "port", 443);
        }
    }
}

/// Validates a configuration.
pub(crate) fn check(object: &Value, errors: &mut Vec<FieldError>) {
    for (index, webhook) in list_at(object, "/webhooks").iter().enumerate() {
        let field = |name: &str| format!("webhooks[{index}].{name}");
        let name = str_at(webhook, "/name");
        if name.split('.').count() < 3 || name.split('.').any(str::is_empty) {
            let why = "should be a domain with at least three segments separated by dots";
            errors.push(FieldError::invalid(field("name"), name, why));
        }
        if !list_at(webhook, "/admissionReviewVersions").iter().any(|version| version == "v1") {
            let have = webhook.get("admissionReviewVersions").cloned().unwrap_or_default();
            errors.push(FieldError::invalid(field("admissionReviewVersions"), have, "must include v1"));
        }
        for (name, allowed) in [
            ("sideEffects", &["None", "NoneOnDryRun"]),
            ("failurePolicy", &["Fail", "Ignore"]),
            ("matchPolicy", &["Equivalent", "Exact"]),
        ] {
            let value = str_at(webhook, &format!("/{name}"));
            if !allowed.contains(&value) {
                errors.push(FieldError::not_supported(field(name), value, allowed));
            }
        }
        let seconds = int_at(webhook, "/timeoutSeconds").unwrap_or(DEFAULT_SECONDS);
        if !(1..=MAX_SECONDS).contains(&seconds) {
            let why = "the timeout value must be between 1 and 30 seconds";
            errors.push(FieldError::invalid(field("timeoutSeconds"), seconds, why));
        }
        if !list_at(webhook, "/matchConditions").is_empty() {
            errors.push(FieldError::forbidden(field("matchConditions"), "not served by this API server"));
        }
        if let Err(why) = send::Endpoint::parse(webhook) {
            let have = webhook.pointer("/clientConfig/url").cloned().unwrap_or_default();
            errors.push(FieldError::invalid(field("clientConfig"), have, why));
        }
        for selector in ["namespaceSelector", "objectSelector"] {
            if let Err(error) = matching::selector(webhook, selector) {
                errors.push(FieldError::invalid(field(selector), "", error.to_string()));
            }
        }
    }
}

/// The labels of a namespace, for `namespaceSelector`.
fn namespace_labels(api: &Api, name: &str) -> Value {
    let namespace = api.storage.get("/namespaces", "", name);
    namespace.and_then(|entry| entry.value().pointer("/metadata/labels").cloned()).unwrap_or_default()
}
