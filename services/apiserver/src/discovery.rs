//! What is served: health, version, discovery documents, OpenAPI, token keys.
//!
//! Called by dispatch for every path that is not a resource. Invariants: health and version are public and
//! say nothing about the cluster's content; discovery follows the registry of the moment.
//! Limits: the registry's. Stateless.

use crate::http::{Form, json_response};
use crate::openapi;
use crate::state::Api;
use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use skerry_apimachinery::{ApiError, Registry, Resource};

/// The Kubernetes version whose API is served.
pub(crate) const KUBERNETES_VERSION: &str = "v1.33.0";

fn ok(value: &Value) -> Response {
    json_response(StatusCode::OK, value)
}

fn text(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The paths that need no identity.
pub(crate) fn public(api: &Api, segments: &[String]) -> Option<Response> {
    match segments.first().map(String::as_str) {
        Some("livez" | "healthz") => Some(text(StatusCode::OK, "ok")),
        Some("readyz") if api.stopping.is_cancelled() => Some(text(StatusCode::SERVICE_UNAVAILABLE, "stopping")),
        Some("readyz") => Some(text(StatusCode::OK, "ok")),
        Some("version") if segments.len() == 1 => Some(ok(&version())),
        _ => None,
    }
}

fn version() -> Value {
    let mut numbers = KUBERNETES_VERSION.trim_start_matches('v').split('.');
    json!({
        "major": numbers.next().unwrap_or("1"), "minor": numbers.next().unwrap_or("0"),
        "gitVersion": format!("{KUBERNETES_VERSION}+skerry-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", std::env::consts::ARCH),
    })
}

/// The paths that need an identity.
pub(crate) fn serve(api: &Api, segments: &[String], form: Form, headers: &HeaderMap) -> Result<Response, ApiError> {
    let registry = api.registry();
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let aggregated = form == Form::Discovery;
    match parts.as_slice() {
        ["api"] if aggregated => Ok(aggregated_response(&aggregated_list(&registry, true))),
        ["apis"] if aggregated => Ok(aggregated_response(&aggregated_list(&registry, false))),
        ["api"] => Ok(ok(&json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}))),
        ["api", "v1"] => Ok(ok(&resource_list(&registry, "", "v1"))),
        ["apis"] => {
            let groups: Vec<Value> = registry.groups().iter().filter(|g| !g.0.is_empty()).map(group).collect();
            Ok(ok(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})))
        }
        ["apis", name] => {
            let found = registry.groups().into_iter().find(|g| g.0 == *name).ok_or(ApiError::NoSuchPath)?;
            let mut value = group(&found);
            skerry_apimachinery::json::set(&mut value, &[], "kind", "APIGroup");
            skerry_apimachinery::json::set(&mut value, &[], "apiVersion", "v1");
            Ok(ok(&value))
        }
        ["apis", group, version] if registry.resources().iter().any(|r| r.group == *group && r.version == *version) => {
            Ok(ok(&resource_list(&registry, group, version)))
        }
        ["openapi", "v2"] => Ok(openapi::v2(&registry, &api.definitions(), headers)),
        ["openapi", "v3"] => Ok(ok(&openapi::index(&registry))),
        ["openapi", "v3", "api", "v1"] => Ok(ok(&openapi::document(&registry, &[], "", "v1"))),
        ["openapi", "v3", "apis", group, version] => {
            Ok(ok(&openapi::document(&registry, &api.definitions(), group, version)))
        }
        [".well-known", "openid-configuration"] => Ok(ok(&json!({
            "issuer": api.tokens.issuer(), "jwks_uri": format!("{}/openid/v1/jwks", api.tokens.issuer()),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }))),
        ["openid", "v1", "jwks"] => Ok(ok(&keys(api))),
        [] => {
            let mut paths = vec!["/api".to_owned(), "/apis".to_owned(), "/healthz".to_owned(), "/version".to_owned()];
            paths.extend(registry.groups().iter().filter(|g| !g.0.is_empty()).map(|g| format!("/apis/{}", g.0)));
            Ok(ok(&json!({"paths": paths})))
        }
        _ => Err(ApiError::NoSuchPath),
    }
}

fn keys(api: &Api) -> Value {
    // An uncompressed point: 0x04, 32 bytes of x, 32 bytes of y.
    let point = api.pki.signing_point();
    let part = |range: std::ops::Range<usize>| {
        base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default())
    };
    json!({"keys": [{"use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": crate::server::KEY_ID, "x": part(1..33), "y": part(33..65)}]})
}

fn group((name, versions): &(String, Vec<String>)) -> Value {
    let one = |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({
        "name": name, "versions": versions.iter().map(one).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(one).unwrap_or_default(),
    })
}

/// Kind, group, version and verbs of a subresource.
fn subresource(resource: &Resource, name: &str) -> (String, String, String, Vec<&'static str>) {
    let kind = |kind: &str, group: &str, version: &str| (kind.to_owned(), group.to_owned(), version.to_owned());
    let ((kind, group, version), verbs) = match name {
        "scale" => (kind("Scale", "autoscaling", "v1"), vec!["get", "patch", "update"]),
        "binding" => (kind("Binding", "", "v1"), vec!["create"]),
        "eviction" => (kind("Eviction", "policy", "v1"), vec!["create"]),
        "token" => (kind("TokenRequest", "authentication.k8s.io", "v1"), vec!["create"]),
        "log" => (kind("Pod", "", ""), vec!["get"]),
        "exec" => (kind("PodExecOptions", "", "v1"), vec!["create", "get"]),
        "attach" => (kind("PodAttachOptions", "", "v1"), vec!["create", "get"]),
        "portforward" => (kind("PodPortForwardOptions", "", "v1"), vec!["create", "get"]),
        "proxy" => (kind("NodeProxyOptions", "", "v1"), vec!["create", "delete", "get", "patch", "update"]),
        "finalize" => (kind(&resource.kind, "", ""), vec!["update"]),
        _ => (kind(&resource.kind, "", ""), vec!["get", "patch", "update"]),
    };
    (kind, group, version, verbs)
}

fn resource_list(registry: &Registry, group: &str, version: &str) -> Value {
    let mut items = Vec::new();
    for r in registry.resources().iter().filter(|r| r.group == group && r.version == version) {
        let mut item = json!({
            "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind, "verbs": r.verbs(),
        });
        if !r.short_names.is_empty() {
            skerry_apimachinery::json::set(&mut item, &[], "shortNames", r.short_names.clone());
        }
        if !r.categories.is_empty() {
            skerry_apimachinery::json::set(&mut item, &[], "categories", r.categories.clone());
        }
        items.push(item);
        for sub in &r.subresources {
            let (kind, group, version, verbs) = subresource(r, sub);
            let mut item = json!({
                "name": format!("{}/{sub}", r.plural), "singularName": "", "namespaced": r.namespaced, "kind": kind, "verbs": verbs,
            });
            if !version.is_empty() {
                skerry_apimachinery::json::set(&mut item, &[], "group", group);
                skerry_apimachinery::json::set(&mut item, &[], "version", version);
            }
            items.push(item);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": items})
}

fn aggregated_list(registry: &Registry, core: bool) -> Value {
    let groups = registry.groups();
    let items = groups.iter().filter(|(name, _)| name.is_empty() == core).map(|(name, versions)| {
        let versions: Vec<Value> = versions
            .iter()
            .map(|version| {
                let resources = registry.resources().iter().filter(|r| r.group == *name && r.version == *version);
                let resources: Vec<Value> = resources.map(|r| aggregated_resource(r)).collect();
                json!({"version": version, "freshness": "Current", "resources": resources})
            })
            .collect();
        json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions})
    });
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items.collect::<Vec<_>>()})
}

fn aggregated_resource(r: &Resource) -> Value {
    let subs: Vec<Value> = r
        .subresources
        .iter()
        .map(|sub| {
            let (kind, group, version, verbs) = subresource(r, sub);
            let (group, version) = if version.is_empty() { (r.group.clone(), r.version.clone()) } else { (group, version) };
            json!({"subresource": sub, "responseKind": {"group": group, "version": version, "kind": kind}, "verbs": verbs})
        })
        .collect();
    let mut item = json!({
        "resource": r.plural, "responseKind": {"group": r.group, "version": r.version, "kind": r.kind},
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": r.singular, "verbs": r.verbs(), "shortNames": r.short_names, "categories": r.categories,
    });
    if !subs.is_empty() {
        skerry_apimachinery::json::set(&mut item, &[], "subresources", subs);
    }
    item
}

fn aggregated_response(value: &Value) -> Response {
    let mut response = ok(value);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
    );
    response
}
