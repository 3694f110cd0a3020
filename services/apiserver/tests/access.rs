//! Who may do what: certificates, tokens, RBAC, nodes, nobody.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use axum::body::Body;
use http_body_util::BodyExt as _;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use skerry_apiserver::{ApiServer, User};
use tower::ServiceExt as _;

async fn ask(server: &ApiServer, user: Option<User>, method: &str, path: &str) -> (u16, Value) {
    let mut request = http::Request::builder().method(method).uri(path).body(Body::from("{}")).unwrap();
    let router = match user {
        Some(user) => server.router_as(user),
        // The router that adds no identity is the network's: a bad token stands for it.
        None => {
            request.headers_mut().insert("authorization", "Bearer nonsense".parse().unwrap());
            server.anonymous_router()
        }
    };
    let response = router.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn the_denial_table() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let admin = Client::new(server.router(), "default");
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "viewers"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "Group", "name": "viewers"}],
    }))
    .unwrap();
    Api::<RoleBinding>::default_namespaced(admin).create(&PostParams::default(), &binding).await.unwrap();
    let viewer = || Some(User::new("vera", &["viewers"]));
    let nobody = || Some(User::new("ned", &[]));
    let node = || Some(User::new("system:node:n1", &["system:nodes"]));
    let sneaky = || Some(User::new("x", &["system:nodes", "viewers"]));
    let master = || Some(User::master("root"));
    let table = [
        (master(), "GET", "/api/v1/secrets", 200),
        (viewer(), "GET", "/api/v1/namespaces/default/pods", 200),
        (viewer(), "GET", "/api/v1/namespaces/default/secrets", 403),
        (viewer(), "GET", "/api/v1/namespaces/kube-system/pods", 403),
        (viewer(), "GET", "/api/v1/pods", 403),
        (viewer(), "POST", "/api/v1/namespaces/default/pods", 403),
        (viewer(), "DELETE", "/api/v1/namespaces/default/configmaps/x", 403),
        (viewer(), "POST", "/api/v1/namespaces/default/serviceaccounts/default/token", 403),
        (viewer(), "GET", "/apis", 200),
        (nobody(), "GET", "/api/v1/namespaces/default/pods", 403),
        (nobody(), "GET", "/version", 200),
        (nobody(), "GET", "/apis/apps/v1", 200),
        (node(), "GET", "/api/v1/nodes/n1", 403),
        (node(), "GET", "/apis", 403),
        (sneaky(), "GET", "/api/v1/namespaces/default/pods", 403),
        (None, "GET", "/livez", 200),
        (None, "GET", "/readyz", 200),
        (None, "GET", "/healthz", 200),
        (None, "GET", "/version", 200),
        (None, "GET", "/api", 401),
        (None, "GET", "/api/v1/pods", 401),
        (None, "GET", "/openapi/v3", 401),
        (None, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", 401),
    ];
    for (user, method, path, expected) in table {
        let name = user.as_ref().map_or("nobody", |u| u.name.as_str()).to_owned();
        let (status, body) = ask(&server, user, method, path).await;
        assert_eq!(status, expected, "{name} {method} {path}: {body}");
    }
    let (_, body) = ask(&server, nobody(), "GET", "/api/v1/namespaces/default/pods/web").await;
    assert_eq!(
        body["message"],
        "pods \"web\" is forbidden: User \"ned\" cannot get resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(body["reason"], "Forbidden");
}

#[tokio::test]
async fn impersonation_needs_permission_and_takes_rights_away() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let as_user = |router: axum::Router, user: &str| {
        let request =
            http::Request::get("/api/v1/secrets").header("impersonate-user", user).body(Body::empty()).unwrap();
        router.oneshot(request)
    };
    assert_eq!(as_user(server.router(), "ned").await.unwrap().status(), 403);
    assert_eq!(as_user(server.router_as(User::new("ned", &[])), "root").await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_token_is_good_while_its_pod_and_account_are() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let admin = Client::new(server.router(), "default");
    let pods: Api<Pod> = Api::default_namespaced(admin.clone());
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}),
    )
    .unwrap();
    let uid = pods.create(&PostParams::default(), &pod).await.unwrap().metadata.uid.unwrap();
    let accounts: Api<ServiceAccount> = Api::default_namespaced(admin.clone());
    let request = |pod_uid: &str, audience: &str| -> TokenRequest {
        serde_json::from_value(json!({"spec": {"audiences": [audience], "expirationSeconds": 3607,
            "boundObjectRef": {"kind": "Pod", "name": "p", "uid": pod_uid}}}))
        .unwrap()
    };
    let wrong = accounts.create_token_request("default", &PostParams::default(), &request("other", "a")).await;
    assert!(wrong.is_err());
    let answer =
        accounts.create_token_request("default", &PostParams::default(), &request(&uid, "mesh")).await.unwrap();
    let token = answer.status.unwrap().token;
    let reviews: Api<TokenReview> = Api::all(admin.clone());
    let review = |token: &str, audience: &str| -> TokenReview {
        serde_json::from_value(json!({"spec": {"token": token, "audiences": [audience]}})).unwrap()
    };
    let check = async |token: &str, audience: &str| {
        let status = reviews.create(&PostParams::default(), &review(token, audience)).await.unwrap().status.unwrap();
        (status.authenticated.unwrap_or(false), status.user.and_then(|u| u.username).unwrap_or_default())
    };
    assert_eq!(check(&token, "mesh").await, (true, "system:serviceaccount:default:default".to_owned()));
    assert!(!check(&token, "other").await.0);
    assert!(!check(&format!("{token}x"), "mesh").await.0);
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    assert!(!check(&token, "mesh").await.0, "the pod is gone");

    let own: TokenRequest = serde_json::from_value(json!({"spec": {"audiences": []}})).unwrap();
    let token =
        accounts.create_token_request("default", &PostParams::default(), &own).await.unwrap().status.unwrap().token;
    let bearer = async || {
        let request = http::Request::get("/api/v1/namespaces/default/pods")
            .header("authorization", format!("Bearer {token}"))
            .body(Body::empty())
            .unwrap();
        server.anonymous_router().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(bearer().await, 403);
    accounts.delete("default", &DeleteParams::default()).await.unwrap();
    assert_eq!(bearer().await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let other_dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let user = server.issue_client_kubeconfig("ned", &["team"]).unwrap();
    let other = support::build(other_dir.path()).await;
    let running = support::Running::start(server);
    let admin = support::client(&running.admin).await;
    assert_eq!(Api::<Namespace>::all(admin.clone()).list(&ListParams::default()).await.unwrap().items.len(), 5);
    let ned = support::client(&user).await;
    let denied = Api::<ConfigMap>::default_namespaced(ned).list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(denied, kube::Error::Api(status) if status.code == 403));
    // A certificate of another CA, with the right CA to trust: the handshake fails.
    let mut stranger: Value = serde_json::from_str(&other.admin_kubeconfig().unwrap()).unwrap();
    let own: Value = serde_json::from_str(&running.admin).unwrap();
    stranger["clusters"] = own["clusters"].clone();
    let stranger = support::client(&stranger.to_string()).await;
    assert!(!matches!(
        Api::<Namespace>::all(stranger).list(&ListParams::default()).await,
        Ok(_) | Err(kube::Error::Api(_))
    ));
    drop(admin);
    assert_eq!(running.stop().await, skerry_common::drain::Drained::Clean);
}

#[tokio::test]
async fn large_and_foreign_bodies_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let post = |content_type: &'static str, body: Vec<u8>| {
        let request = http::Request::post("/api/v1/namespaces/default/configmaps")
            .header("content-type", content_type)
            .body(Body::from(body))
            .unwrap();
        server.router().oneshot(request)
    };
    assert_eq!(post("application/json", vec![b' '; (3 << 20) + 1]).await.unwrap().status(), 413);
    assert_eq!(post("application/cbor", b"x".to_vec()).await.unwrap().status(), 415);
    assert_eq!(post("application/json", b"{".to_vec()).await.unwrap().status(), 400);
    assert_eq!(post("application/json", vec![b'['; 100_000]).await.unwrap().status(), 400);
    assert_eq!(post("application/yaml", b"metadata: {name: y}".to_vec()).await.unwrap().status(), 201);
    let many = r#"{"metadata":{"name":"Bad_Name"}}"#;
    assert_eq!(post("application/json", many.into()).await.unwrap().status(), 422);
}

#[tokio::test]
async fn nobody_grants_more_than_he_has() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let binding = |name: &str, role: &str, user: &str| -> RoleBinding {
        serde_json::from_value(json!({
            "metadata": {"name": name}, "subjects": [{"kind": "User", "name": user}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        }))
        .unwrap()
    };
    let root: Api<RoleBinding> = Api::default_namespaced(Client::new(server.router(), "default"));
    root.create(&PostParams::default(), &binding("ann", "admin", "ann")).await.unwrap();
    let ann = Client::new(server.router_as(User::new("ann", &[])), "default");
    let bindings: Api<RoleBinding> = Api::default_namespaced(ann.clone());
    bindings.create(&PostParams::default(), &binding("ok", "edit", "bob")).await.unwrap();
    let more = bindings.create(&PostParams::default(), &binding("more", "cluster-admin", "ann")).await.unwrap_err();
    assert!(more.to_string().contains("not currently held"), "{more}");
    bindings.create(&PostParams::default(), &binding("ghost", "nothing", "ann")).await.unwrap_err();
    let roles: Api<k8s_openapi::api::rbac::v1::Role> = Api::default_namespaced(ann);
    let role = |resource: &str| {
        serde_json::from_value(json!({"metadata": {"name": resource}, "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]})).unwrap()
    };
    roles.create(&PostParams::default(), &role("pods")).await.unwrap();
    roles.create(&PostParams::default(), &role("nodes")).await.unwrap_err();
    let patch = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    roles.patch("pods", &kube::api::PatchParams::default(), &kube::api::Patch::Merge(patch)).await.unwrap_err();
}
