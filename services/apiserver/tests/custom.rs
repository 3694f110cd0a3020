//! Custom resources by their schema, through the API: status and generation, defaults, null, what a stricter
//! definition means for what is there, bounds, and who may change definitions and webhooks.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use axum::{Router, body::Body};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use skerry_apiserver::{ApiServer, User};
use tower::ServiceExt as _;

mod support;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
const DEVICES: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices";

async fn server() -> (ApiServer, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (support::build(dir.path()).await, dir)
}

async fn call(router: &Router, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let response = router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn definition(status: bool, spec: &Value) -> Value {
    let subresources = if status { json!({"status": {}}) } else { json!({}) };
    json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": subresources,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status":
                    {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}}}]},
    })
}

#[tokio::test]
async fn a_status_subresource_splits_the_object() {
    let (server, _dir) = server().await;
    let router = server.router();
    let spec = json!({"type": "object", "properties": {"size": {"type": "integer", "default": 3}, "name": {"type": "string"}}});
    for split in [true, false] {
        let (status, body) = call(&router, "POST", CRDS, &definition(split, &spec)).await;
        assert_eq!(status, 201, "{body}");
        let object = json!({"metadata": {"name": "w"}, "spec": {"name": "a"}, "status": {"ready": true}});
        let (_, body) = call(&router, "POST", WIDGETS, &object).await;
        assert_eq!(body["spec"], json!({"name": "a", "size": 3}));
        assert_eq!((body["status"].is_null(), &body["metadata"]["generation"]), (split, &json!(1)));
        let (_, body) = call(&router, "PATCH", &format!("{WIDGETS}/w"), &json!({"status": {"ready": false}})).await;
        let expected = if split { (Value::Null, json!(1)) } else { (json!(false), json!(2)) };
        assert_eq!((body["status"]["ready"].clone(), body["metadata"]["generation"].clone()), expected);
        let change = json!({"status": {"ready": true}, "spec": {"size": 9}});
        let (status, body) = call(&router, "PATCH", &format!("{WIDGETS}/w/status"), &change).await;
        if split {
            assert_eq!(
                (body["status"]["ready"].clone(), body["spec"]["size"].clone(), body["metadata"]["generation"].clone()),
                (json!(true), json!(3), json!(1))
            );
            let (status, body) =
                call(&router, "PATCH", &format!("{WIDGETS}/w/status"), &json!({"status": {"ready": "yes"}})).await;
            assert_eq!(status, 422, "{body}");
        } else {
            assert_eq!(status, 404);
        }
        call(&router, "DELETE", &format!("{CRDS}/widgets.example.com"), &Value::Null).await;
    }
}

#[tokio::test]
async fn a_stricter_definition_does_not_hold_what_is_there() {
    let (server, _dir) = server().await;
    let router = server.router();
    let spec = |most: u32| json!({"type": "object", "properties": {"size": {"type": "integer", "maximum": most}, "note": {"type": "string"}}});
    call(&router, "POST", CRDS, &definition(false, &spec(100))).await;
    let object = json!({"metadata": {"name": "w", "finalizers": ["example.com/x"]}, "spec": {"size": 50}});
    assert_eq!(call(&router, "POST", WIDGETS, &object).await.0, 201);
    let (_, stored) = call(&router, "GET", &format!("{CRDS}/widgets.example.com"), &Value::Null).await;
    let mut stricter = definition(false, &spec(10));
    stricter["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
    assert_eq!(call(&router, "PUT", &format!("{CRDS}/widgets.example.com"), &stricter).await.0, 200);
    let path = format!("{WIDGETS}/w");
    assert_eq!(call(&router, "PATCH", &path, &json!({"spec": {"note": "x"}})).await.0, 200);
    let (status, body) = call(&router, "PATCH", &path, &json!({"spec": {"size": 60}})).await;
    assert!(status == 422 && body["message"].as_str().unwrap().contains("spec.size: Invalid value: 60"), "{body}");
    assert_eq!(call(&router, "DELETE", &path, &Value::Null).await.0, 200);
    assert_eq!(call(&router, "PATCH", &path, &json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(call(&router, "GET", &path, &Value::Null).await.0, 404);
}

#[tokio::test]
async fn definitions_that_cannot_work_are_refused_with_the_place() {
    let (server, _dir) = server().await;
    let router = server.router();
    for (spec, expected) in [
        (json!({}), "spec.versions[0].schema.openAPIV3Schema.properties[spec].type: Required value"),
        (json!({"type": "string", "pattern": "("}), "properties[spec].pattern: Invalid value"),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "self."}]}),
            "x-kubernetes-validations[0].rule: Invalid value",
        ),
    ] {
        let (status, body) = call(&router, "POST", CRDS, &definition(false, &spec)).await;
        let message = body["message"].as_str().unwrap_or_default();
        assert!(status == 422 && message.contains(expected), "{expected}: {body}");
    }
}

#[tokio::test]
async fn bodies_types_and_null_are_bounded_and_told() {
    let (server, _dir) = server().await;
    let router = server.router();
    let device = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let (status, body) = call(&router, "POST", DEVICES, &device("d", json!({"nodeName": null}))).await;
    assert!(status == 422 && body["message"].as_str().unwrap().contains("must be of type string: \"null\""), "{body}");
    let (status, body) = call(&router, "POST", DEVICES, &json!({"metadata": {"name": "d", "labels": {"a": 1}}})).await;
    assert!(
        status == 400 && body["message"].as_str().unwrap().contains("cannot be handled as a Device: metadata"),
        "{body}"
    );
    let properties: Vec<Value> = (0..200).map(|n| json!({"name": format!("p{n}"), "collectCycle": -1})).collect();
    let (status, body) = call(&router, "POST", DEVICES, &device("d", json!({"properties": properties}))).await;
    assert_eq!((status, body["details"]["causes"].as_array().unwrap().len()), (422, 64));
    let properties: Vec<Value> =
        (0..5000).map(|n| json!({"name": format!("p{n}"), "desired": {"value": "1"}})).collect();
    assert_eq!(call(&router, "POST", DEVICES, &device("large", json!({"properties": properties}))).await.0, 201);
    let (status, _) = call(
        &router,
        "POST",
        DEVICES,
        &device("huge", json!({"protocol": {"configData": {"x": "y".repeat(4 << 20)}}})),
    )
    .await;
    assert_eq!(status, 413);
    let (_, body) = call(
        &router,
        "POST",
        DEVICES,
        &device(
            "numbers",
            json!({"protocol": {"configData":
        {"big": 9_007_199_254_740_993_i64, "max": u64::MAX, "scale": 0.1}}}),
        ),
    )
    .await;
    assert_eq!(
        body["spec"]["protocol"]["configData"],
        json!({"big": 9_007_199_254_740_993_i64, "max": u64::MAX, "scale": 0.1})
    );
}

#[tokio::test]
async fn who_may_edit_devices_may_not_change_their_definitions_or_webhooks() {
    let (server, _dir) = server().await;
    let binding = json!({"metadata": {"name": "team"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    assert_eq!(call(&server.router(), "POST", bindings, &binding).await.0, 201);
    let ann = server.router_as(User::new("ann", &[]));
    assert_eq!(call(&ann, "POST", DEVICES, &json!({"metadata": {"name": "d"}, "spec": {}})).await.0, 201);
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    for (path, object) in [
        (CRDS, definition(false, &json!({"type": "object"}))),
        (hooks, json!({"metadata": {"name": "x"}, "webhooks": []})),
        ("/apis/devices.kubeedge.io/v1beta1/namespaces/kube-system/devices", json!({"metadata": {"name": "d"}})),
    ] {
        assert_eq!(call(&ann, "POST", path, &object).await.0, 403, "{path}");
    }
    assert_eq!(call(&ann, "DELETE", &format!("{CRDS}/devices.devices.kubeedge.io"), &Value::Null).await.0, 403);
}

#[tokio::test]
async fn an_older_definition_of_devices_is_replaced_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = format!("{CRDS}/devices.devices.kubeedge.io");
    let server = support::build(dir.path()).await;
    let router = server.router();
    assert_eq!(
        call(&router, "POST", DEVICES, &json!({"metadata": {"name": "d"}, "spec": {"nodeName": "n"}})).await.0,
        201
    );
    let names = json!({"spec": {"names": {"shortNames": ["old"]}}});
    let (_, changed) = call(&router, "PATCH", &path, &names).await;
    drop((router, server));
    let server = support::build(dir.path()).await;
    let router = server.router();
    let (_, again) = call(&router, "GET", &path, &Value::Null).await;
    assert_eq!(again["spec"]["names"]["shortNames"], json!(["dev"]));
    assert!(again["metadata"]["generation"].as_i64() > changed["metadata"]["generation"].as_i64());
    assert_eq!(call(&router, "GET", &format!("{DEVICES}/d"), &Value::Null).await.1["spec"]["nodeName"], "n");
    drop((router, server));
    let server = support::build(dir.path()).await;
    let (_, same) = call(&server.router(), "GET", &path, &Value::Null).await;
    assert_eq!(same["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"]);
}
