//! Validating webhooks: who is asked, what is asked, and what an answer, or none, does.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use axum::{Json, Router, response::IntoResponse as _, routing::post};
use base64::Engine as _;
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

/// A webhook of its own: answers by the label `answer` of the object, and keeps what it was asked.
struct Webhook {
    port: u16,
    bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(asked: Arc<Mutex<Vec<Value>>>, review: Value) -> axum::response::Response {
    let request = review["request"].clone();
    asked.lock().unwrap().push(review);
    let object = if request["object"].is_null() { &request["oldObject"] } else { &request["object"] };
    let mut response = json!({"uid": request["uid"], "allowed": true});
    match object.pointer("/metadata/labels/answer").and_then(Value::as_str).unwrap_or("") {
        "deny" => {
            response =
                json!({"uid": request["uid"], "allowed": false, "status": {"message": "not on my watch", "code": 403}})
        }
        "silent" => response = json!({"uid": request["uid"], "allowed": false}),
        "warn" => response["warnings"] = json!(["mind \"the\" gap"]),
        "stranger" => response["uid"] = "another".into(),
        "hang" => std::future::pending::<()>().await,
        "flood" => response["padding"] = "x".repeat(2 << 20).into(),
        "fail" => return http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "garbage" => return "no json".into_response(),
        _ => {}
    }
    Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})).into_response()
}

impl Webhook {
    async fn start() -> Self {
        let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "hook.default.svc".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der()));
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = asked.clone();
        let router = Router::new().route("/validate", post(move |Json(review)| answer(kept.clone(), review)));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
                });
            }
        });
        let bundle = base64::prelude::BASE64_STANDARD.encode(pair.cert.pem());
        Self { port, bundle, asked, task }
    }

    fn configuration(&self, policy: &str, seconds: i64) -> Value {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "test"},
            "webhooks": [{
                "name": "check.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": policy, "timeoutSeconds": seconds,
                "clientConfig": {"url": format!("https://127.0.0.1:{}/validate", self.port), "caBundle": self.bundle},
                "rules": [{"operations": ["*"], "apiGroups": ["", "devices.kubeedge.io"], "apiVersions": ["*"],
                    "resources": ["configmaps", "devices"]}],
            }],
        })
    }

    fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

struct Server {
    router: Router,
    metrics: skerry_telemetry::Registry,
    _server: skerry_apiserver::ApiServer,
    _dir: tempfile::TempDir,
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = skerry_apiserver::Config::new(dir.path());
        config.listen = ([127, 0, 0, 1], 0).into();
        let metrics = config.registry.clone();
        let server = config.build().await.unwrap();
        Self { router: server.router(), metrics, _server: server, _dir: dir }
    }

    /// Status, body, warnings.
    async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value, String) {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        let response = self.router.clone().oneshot(request.body(axum::body::Body::from(body)).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned());
        let warnings = warnings.collect::<Vec<_>>().join(";");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default(), warnings)
    }

    async fn create(&self, name: &str, label: &str) -> (u16, String) {
        let object = json!({"metadata": {"name": name, "labels": {"answer": label}}});
        let (status, body, _) = self.call("POST", MAPS, &object).await;
        (status, body["message"].as_str().unwrap_or_default().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_see_every_write_and_refuse_with_their_words() {
    let (server, hook) = (Server::start().await, Webhook::start().await);
    let (status, body, _) = server.call("POST", CONFIGURATIONS, &hook.configuration("Fail", 5)).await;
    assert_eq!(status, 201, "{body}");
    assert_eq!(body["webhooks"][0]["matchPolicy"], "Equivalent");

    assert_eq!(server.create("a", "").await.0, 201);
    let review = hook.take().remove(0);
    let request = &review["request"];
    assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(
        (&request["operation"], &request["name"], &request["namespace"]),
        (&json!("CREATE"), &json!("a"), &json!("default"))
    );
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!(request["userInfo"]["groups"][0], "system:masters");
    assert_eq!((&request["object"]["metadata"]["name"], &request["oldObject"]), (&json!("a"), &Value::Null));

    let refused = "admission webhook \"check.example.com\" denied the request: not on my watch";
    assert_eq!(server.create("b", "deny").await, (403, refused.to_owned()));
    let (status, body, _) =
        server.call("PATCH", &format!("{MAPS}/a"), &json!({"metadata": {"labels": {"answer": "deny"}}})).await;
    assert_eq!((status, body["reason"].as_str(), body["message"].as_str()), (403, Some("Forbidden"), Some(refused)));
    let asked = hook.take();
    assert_eq!(asked[1]["request"]["operation"], "UPDATE");
    assert_eq!(asked[1]["request"]["oldObject"]["metadata"]["labels"]["answer"], "");

    let without = "admission webhook \"check.example.com\" denied the request without explanation";
    assert_eq!(server.create("b", "silent").await, (400, without.to_owned()));
    let object = json!({"metadata": {"name": "warned", "labels": {"answer": "warn"}}});
    let (status, _, warnings) = server.call("POST", MAPS, &object).await;
    assert_eq!((status, warnings.as_str()), (201, "299 - \"mind \\\"the\\\" gap\""));

    hook.take();
    assert_eq!(server.call("DELETE", &format!("{MAPS}/a?dryRun=All"), &Value::Null).await.0, 200);
    assert_eq!(server.call("DELETE", &format!("{MAPS}/a"), &Value::Null).await.0, 200);
    let asked = hook.take();
    let request = |n: usize| asked[n]["request"].clone();
    assert_eq!((request(0)["operation"].clone(), request(1)["dryRun"].clone()), (json!("DELETE"), json!(false)));
    assert_eq!(
        (request(1)["object"].clone(), request(1)["oldObject"]["metadata"]["name"].clone()),
        (Value::Null, json!("a"))
    );

    // What does not pass its own checks, or is of another kind, is not asked about.
    assert_eq!(server.create("Not_A_Name", "").await.0, 422);
    server.call("POST", "/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "s"}})).await;
    assert!(hook.take().is_empty());
    // Another version of a resource is asked about in the version that the rules name.
    let device =
        json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": {"name": "d"}, "spec": {}});
    assert_eq!(
        server.call("POST", "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices", &device).await.0,
        201
    );
    assert_eq!(hook.take()[0]["request"]["kind"]["kind"], "Device");
    let counted = server.metrics.encode();
    for line in
        ["skerry_apiserver_webhooks_total{result=\"denied\"} 3", "skerry_apiserver_webhooks_total{result=\"allowed\"}"]
    {
        assert!(counted.contains(line), "{counted}");
    }
    assert_eq!(server.call("DELETE", &format!("{CONFIGURATIONS}/test"), &Value::Null).await.0, 200);
    assert_eq!(server.create("b", "deny").await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_cannot_be_asked_refuses_or_is_ignored_as_it_says() {
    let (server, hook) = (Server::start().await, Webhook::start().await);
    server.call("POST", CONFIGURATIONS, &hook.configuration("Fail", 1)).await;
    for (label, why) in [
        ("hang", "no answer within 1 s"),
        ("fail", "the server answered 500"),
        ("garbage", "the answer is no JSON"),
        ("stranger", "response.uid differs"),
        ("flood", "longer than 1048576 bytes"),
    ] {
        let start = Instant::now();
        let (status, message) = server.create("x", label).await;
        assert_eq!(status, 500, "{label}");
        let expected = "failed calling webhook \"check.example.com\": failed to call webhook: ";
        assert!(message.contains(expected) && message.contains(why), "{label}: {message}");
        assert!(start.elapsed() < Duration::from_secs(10), "{label}");
    }
    // The configuration itself is never sent to it, so it can be mended.
    let (status, body, _) =
        server.call("PUT", &format!("{CONFIGURATIONS}/test"), &hook.configuration("Ignore", 1)).await;
    assert_eq!(status, 200, "{body}");
    for label in ["hang", "fail"] {
        assert_eq!(server.create(label, label).await.0, 201);
    }
    // Somebody else's certificate.
    let mut wrong = hook.configuration("Fail", 5);
    wrong["webhooks"][0]["clientConfig"]["caBundle"] = Webhook::start().await.bundle.clone().into();
    server.call("PUT", &format!("{CONFIGURATIONS}/test"), &wrong).await;
    let (status, message) = server.create("y", "").await;
    assert!(status == 500 && message.contains("certificate"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_asked_at_its_endpoint_by_its_name() {
    let (server, hook) = (Server::start().await, Webhook::start().await);
    let mut configuration = hook.configuration("Fail", 5);
    configuration["webhooks"][0]["clientConfig"] =
        json!({"service": {"namespace": "default", "name": "hook", "path": "/validate"}, "caBundle": hook.bundle});
    let (status, body, _) = server.call("POST", CONFIGURATIONS, &configuration).await;
    assert_eq!((status, &body["webhooks"][0]["clientConfig"]["service"]["port"]), (201, &json!(443)), "{body}");
    let (status, message) = server.create("a", "").await;
    assert!(status == 500 && message.contains("service \"hook\" not found"), "{message}");
    let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"name": "https", "port": 443}]}});
    assert_eq!(server.call("POST", "/api/v1/namespaces/default/services", &service).await.0, 201);
    let (_, message) = server.create("a", "").await;
    assert!(message.contains("no endpoints available for service \"hook\""), "{message}");
    let slice = json!({"metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}], "ports": [{"name": "https", "port": hook.port}]});
    assert_eq!(server.call("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await.0, 201);
    assert_eq!(server.create("a", "").await, (201, String::new()));
    assert_eq!(hook.take().len(), 1);
}

#[tokio::test]
async fn configurations_that_cannot_work_are_refused() {
    let server = Server::start().await;
    let good = json!({
        "metadata": {"name": "test"},
        "webhooks": [{"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": "https://127.0.0.1/x"}, "rules": []}],
    });
    for (pointer, value, expected) in [
        ("/name", json!("short"), "webhooks[0].name: Invalid value"),
        ("/admissionReviewVersions", json!(["v1beta1"]), "webhooks[0].admissionReviewVersions: Invalid value"),
        ("/sideEffects", json!("Some"), "webhooks[0].sideEffects: Unsupported value"),
        ("/timeoutSeconds", json!(31), "the timeout value must be between 1 and 30 seconds"),
        ("/timeoutSeconds", json!(0), "the timeout value must be between 1 and 30 seconds"),
        ("/failurePolicy", json!("Maybe"), "webhooks[0].failurePolicy: Unsupported value"),
        ("/clientConfig/url", json!("http://127.0.0.1/x"), "'https' is the only allowed URL scheme"),
        ("/matchConditions", json!([{"name": "x", "expression": "true"}]), "webhooks[0].matchConditions: Forbidden"),
        (
            "/objectSelector",
            json!({"matchExpressions": [{"key": "a", "operator": "Like"}]}),
            "not a valid label selector operator",
        ),
    ] {
        let mut bad = good.clone();
        let webhook = &mut bad["webhooks"][0];
        match pointer.rsplit_once('/') {
            Some(("", name)) => webhook[name] = value,
            _ => *webhook.pointer_mut(pointer).unwrap() = value,
        }
        let (status, body, _) = server.call("POST", CONFIGURATIONS, &bad).await;
        let message = body["message"].as_str().unwrap_or_default();
        assert!(status == 422 && message.contains(expected), "{expected}: {status} {body}");
    }
    assert_eq!(server.call("POST", CONFIGURATIONS, &good).await.0, 201);
}
