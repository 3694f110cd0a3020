//! Subresources that are not a part of the object: binding, eviction, scale, token.
//!
//! Called by dispatch. Invariants: a binding sets a node only once; scale changes only the replica count;
//! a token is only issued for a ServiceAccount (and pod) that exist. Limits: those of `modify` and `token`.

use crate::auth::Wanted;
use crate::call::Call;
use crate::http::{Reply, created};
use crate::kinds;
use crate::verbs::{self, Outcome, Removal, modify};
use http::StatusCode;
use serde_json::{Value, json};
use skerry_apimachinery::json::{int_at, list_at, map_at, str_at};
use skerry_apimachinery::{About, ApiError, FieldError, meta};

pub(crate) async fn serve(call: &mut Call, verb: &str) -> Result<Reply, ApiError> {
    match (call.path.subresource.as_str(), verb) {
        ("binding", "create") => binding(call).await,
        ("eviction", "create") => eviction(call).await,
        ("token", "create") => token(call).await,
        ("scale", "get") => Ok(Reply::Value(StatusCode::OK, scale_of(call, &call.entry()?.value()))),
        ("scale", "update" | "patch") => set_scale(call, verb).await,
        _ => Err(ApiError::MethodNotAllowed),
    }
}

/// Binds the pod that the path names (also for the old `bindings` resource).
pub(crate) async fn binding(call: &Call) -> Result<Reply, ApiError> {
    let body = call.decode_body()?;
    let name = if call.path.name.is_empty() { meta::name(&body).to_owned() } else { call.path.name.clone() };
    let node = str_at(&body, "/target/name").to_owned();
    let kind = str_at(&body, "/target/kind");
    if node.is_empty() || !matches!(kind, "" | "Node") {
        return Err(ApiError::invalid("", "Binding", &name, vec![FieldError::required("target.name", "")]));
    }
    let uid = meta::uid(&body).to_owned();
    let now = meta::time(call.now);
    let pods = call.api.registry().get("", "v1", "pods").ok_or(ApiError::NoSuchPath)?;
    let about = About::new("", "pods/binding", &name);
    verbs::modify_other(call, &pods, (&call.path.namespace, &name), "binding", |old| {
        if !uid.is_empty() && uid != meta::uid(old) {
            return Err(ApiError::Conflict { about: about.clone(), message: "the pod has another uid".into() });
        }
        let mut pod = old.clone();
        kinds::pod::bind(&mut pod, &node, body.pointer("/metadata/annotations"), &now)
            .map_err(|message| ApiError::Conflict { about: about.clone(), message })?;
        Ok(pod)
    })
    .await?;
    Ok(created(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})))
}

/// Deletes the pod. Disruption budgets are stored but have no controller here, so none can refuse.
async fn eviction(call: &Call) -> Result<Reply, ApiError> {
    let body = call.decode_body()?;
    let mut removal = body.get("deleteOptions").map(Removal::from_options).unwrap_or_default();
    removal.dry_run |= call.query.dry_run;
    let target = (call.path.namespace.as_str(), call.path.name.as_str());
    verbs::remove(call, target, &removal).await?;
    Ok(created(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})))
}

fn pointer_of(path: &str) -> String {
    path.replace('.', "/")
}

/// `autoscaling/v1` Scale of a workload.
fn scale_of(call: &Call, object: &Value) -> Value {
    let (spec, status, selector) = match &call.resource.scale_paths {
        Some((spec, status, selector)) => (pointer_of(spec), pointer_of(status), pointer_of(selector)),
        None => ("/spec/replicas".to_owned(), "/status/replicas".to_owned(), String::new()),
    };
    let selector_text = if selector.is_empty() { selector_of(object) } else { str_at(object, &selector).to_owned() };
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta::name(object), "namespace": meta::namespace(object), "uid": meta::uid(object),
            "resourceVersion": meta::resource_version(object),
            "creationTimestamp": object.pointer("/metadata/creationTimestamp").cloned().unwrap_or_default(),
        },
        "spec": {"replicas": int_at(object, &spec).unwrap_or(0)},
        "status": {"replicas": int_at(object, &status).unwrap_or(0), "selector": selector_text},
    })
}

fn selector_of(object: &Value) -> String {
    let labels = map_at(object, "/spec/selector/matchLabels").into_iter().flatten();
    let mut parts: Vec<String> = labels.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    for e in list_at(object, "/spec/selector/matchExpressions") {
        let values: Vec<&str> = list_at(e, "/values").iter().filter_map(Value::as_str).collect();
        let key = str_at(e, "/key");
        parts.push(match str_at(e, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

async fn set_scale(call: &Call, verb: &str) -> Result<Reply, ApiError> {
    let change = if verb == "patch" { Some(verbs::patch_body(call)?) } else { None };
    let body = if verb == "update" { Some(call.decode_body()?) } else { None };
    let path = call.resource.scale_paths.as_ref().map_or(".spec.replicas".to_owned(), |p| p.0.clone());
    let steps: Vec<&str> = path.split('.').filter(|s| !s.is_empty()).collect();
    let Some((field, parents)) = steps.split_last() else { return Err(ApiError::MethodNotAllowed) };
    let outcome = modify(call, "", |old| {
        let current = scale_of(call, old);
        let wanted = match (&change, &body) {
            (Some((kind, patch)), _) => verbs::patched(call, *kind, patch, &current, "Scale")?,
            (None, Some(body)) => body.clone(),
            (None, None) => current,
        };
        let replicas = int_at(&wanted, "/spec/replicas").unwrap_or(0);
        if replicas < 0 {
            let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
            return Err(ApiError::invalid("autoscaling", "Scale", &call.path.name, vec![error]));
        }
        let mut new = old.clone();
        let version = meta::resource_version(&wanted);
        if !version.is_empty() {
            meta::metadata(&mut new).insert("resourceVersion".into(), version.into());
        }
        skerry_apimachinery::json::set(&mut new, parents, field, replicas);
        Ok(new)
    })
    .await?;
    let object = match outcome {
        Outcome::Stored(entry) | Outcome::Removed(entry) => entry.value(),
        Outcome::Dry(value) => value,
    };
    Ok(Reply::Value(StatusCode::OK, scale_of(call, &object)))
}

/// Issues a token for the ServiceAccount that the path names.
async fn token(call: &Call) -> Result<Reply, ApiError> {
    const DEFAULT_LIFETIME: i64 = 3600;
    let mut body = call.decode_body()?;
    let account = call.entry()?;
    let namespace = call.path.namespace.clone();
    let bad = |field: &str, value: Value, why: &str| {
        ApiError::invalid(
            "authentication.k8s.io",
            "TokenRequest",
            &call.path.name,
            vec![FieldError::invalid(field, value, why)],
        )
    };
    let lifetime = int_at(&body, "/spec/expirationSeconds").unwrap_or(DEFAULT_LIFETIME);
    if lifetime < crate::auth::MIN_LIFETIME {
        return Err(bad("spec.expirationSeconds", lifetime.into(), "may not specify a duration less than 10 minutes"));
    }
    let mut kubernetes = crate::auth::Kubernetes {
        namespace: namespace.clone(),
        serviceaccount: crate::auth::Bound { name: call.path.name.clone(), uid: account.uid.to_string() },
        pod: None,
        node: None,
        secret: None,
    };
    if let Some(reference) = body.pointer("/spec/boundObjectRef").filter(|r| !r.is_null()) {
        let (kind, name, uid) = (str_at(reference, "/kind"), str_at(reference, "/name"), str_at(reference, "/uid"));
        let (storage, plural) = match kind {
            "Pod" => ("/pods", "pods"),
            "Secret" => ("/secrets", "secrets"),
            _ => return Err(bad("spec.boundObjectRef.kind", kind.into(), "must be Pod or Secret")),
        };
        let about = About::new("", plural, name);
        let entry = call.api.storage.get(storage, &namespace, name).ok_or_else(|| ApiError::NotFound(about.clone()))?;
        if !uid.is_empty() && uid != &*entry.uid {
            let message = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(ApiError::Conflict { about, message });
        }
        let bound = crate::auth::Bound { name: name.to_owned(), uid: entry.uid.to_string() };
        if kind == "Pod" {
            let pod = entry.value();
            if str_at(&pod, "/spec/serviceAccountName") != call.path.name {
                return Err(ApiError::BadRequest(format!(
                    "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                    call.path.name
                )));
            }
            let node = str_at(&pod, "/spec/nodeName");
            if let Some(node) = call.api.storage.get("/nodes", "", node) {
                kubernetes.node =
                    Some(crate::auth::Bound { name: node.key.name.to_string(), uid: node.uid.to_string() });
            }
            kubernetes.pod = Some(bound);
        } else {
            kubernetes.secret = Some(bound);
        }
    }
    let audiences = list_at(&body, "/spec/audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    let wanted = Wanted { audiences, lifetime, kubernetes, id: uuid::Uuid::new_v4().to_string() };
    let audiences =
        if wanted.audiences.is_empty() { vec![call.api.tokens.issuer().to_owned()] } else { wanted.audiences.clone() };
    let (token, expires) = call.api.tokens.issue(wanted, call.now)?;
    let map = skerry_apimachinery::json::as_map(&mut body);
    map.insert("kind".into(), "TokenRequest".into());
    map.insert("apiVersion".into(), "authentication.k8s.io/v1".into());
    skerry_apimachinery::json::set(&mut body, &["metadata"], "name", call.path.name.clone());
    skerry_apimachinery::json::set(&mut body, &["metadata"], "namespace", namespace);
    skerry_apimachinery::json::set(&mut body, &["spec"], "audiences", audiences);
    skerry_apimachinery::json::set(&mut body, &["spec"], "expirationSeconds", lifetime);
    skerry_apimachinery::json::set(
        &mut body,
        &[],
        "status",
        json!({"token": token, "expirationTimestamp": meta::time(expires)}),
    );
    Ok(created(body))
}
