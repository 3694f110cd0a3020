//! A Kubernetes API with faults in front of it, and EdgeControllers on it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use futures::StreamExt as _;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use skerry_common::drain;
use skerry_edgecontroller::{Config, EdgeController};
use skerry_rpc::{Channel, Listen, PipeConnector};
use skerry_telemetry::{Readiness, Registry};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};

/// What goes wrong between EdgeController and the API.
#[derive(Default)]
pub struct Faults {
    /// The API answers 503.
    pub down: AtomicBool,
    /// Lists of these resources are empty, with 200.
    pub empty: Mutex<BTreeSet<String>>,
    /// Lists of these resources are empty, unless they are asked for at an exact version: a stale cache.
    pub stale: Mutex<BTreeSet<String>>,
    /// Every list is empty and no namespace is known.
    pub emptied: AtomicBool,
    /// Watches of these resources are 410 when they start.
    pub expired: Mutex<BTreeSet<String>>,
    /// Calls by method and resource.
    pub calls: Mutex<BTreeMap<String, u64>>,
    watches: Mutex<CancellationToken>,
}

impl Faults {
    /// Ends every watch that is open.
    pub fn cut_watches(&self) {
        let mut watches = self.watches.lock().unwrap();
        watches.cancel();
        *watches = CancellationToken::new();
    }

    pub fn calls(&self, what: &str) -> u64 {
        self.calls.lock().unwrap().get(what).copied().unwrap_or(0)
    }
}

#[derive(Clone)]
struct Faulty {
    router: Router,
    faults: Arc<Faults>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Service<Request<kube::client::Body>> for Faulty {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Answer {
        let (router, faults) = (self.router.clone(), Arc::clone(&self.faults));
        Box::pin(async move {
            let uri = request.uri().clone();
            let is_watch = uri.query().is_some_and(|q| q.contains("watch=true"));
            let resource = uri.path().rsplit('/').next().unwrap_or_default().to_owned();
            let is_get = request.method() == axum::http::Method::GET;
            let kind = kind_of(uri.path());
            *faults.calls.lock().unwrap().entry(format!("{} {kind}", request.method())).or_default() += 1;
            if faults.down.load(Ordering::SeqCst) {
                return Ok(status(503, "ServiceUnavailable", "down for the test"));
            }
            if is_watch && faults.expired.lock().unwrap().remove(&resource) {
                return Ok(status(410, "Expired", "too old resource version"));
            }
            let emptied = faults.emptied.load(Ordering::SeqCst);
            if emptied && is_get && resource == "kube-system" {
                return Ok(status(404, "NotFound", "namespaces \"kube-system\" not found"));
            }
            let exact = uri.query().is_some_and(|q| q.contains("resourceVersionMatch=Exact"));
            let stale = !exact && faults.stale.lock().unwrap().contains(&resource);
            let is_list = is_get && !is_watch && resource == kind;
            let empty = is_list && (emptied || stale || faults.empty.lock().unwrap().contains(&resource));
            let watches = faults.watches.lock().unwrap().clone();
            let response = router.oneshot(request.map(Body::new)).await?;
            if empty {
                let (parts, body) = response.into_parts();
                let bytes = axum::body::to_bytes(body, 64 << 20).await.unwrap();
                let mut list: Value = serde_json::from_slice(&bytes).unwrap();
                list["items"] = json!([]);
                let mut parts = parts;
                parts.headers.remove("content-length");
                return Ok(Response::from_parts(parts, Body::from(serde_json::to_vec(&list).unwrap())));
            }
            if is_watch {
                let (parts, body) = response.into_parts();
                let stream = body.into_data_stream().take_until(async move { watches.cancelled().await });
                return Ok(Response::from_parts(parts, Body::from_stream(stream)));
            }
            Ok(response)
        })
    }
}

/// The resource of a path: `/api/v1/namespaces/ns/pods/web/status` is `pods`.
fn kind_of(path: &str) -> String {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = if parts.first() == Some(&"api") { parts.get(2..) } else { parts.get(3..) }.unwrap_or_default();
    match rest {
        ["namespaces", _, kind, ..] => (*kind).to_owned(),
        [kind, ..] => (*kind).to_owned(),
        [] => String::new(),
    }
}

fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    Response::builder()
        .status(StatusCode::from_u16(code).unwrap())
        .header("content-type", "application/json")
        .body(Body::from(serde_json::to_vec(&body).unwrap()))
        .unwrap()
}

/// The API and its faults.
pub struct Cluster {
    _dir: tempfile::TempDir,
    router: Router,
    pub faults: Arc<Faults>,
    /// A client without faults.
    pub client: Client,
}

impl Cluster {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = skerry_apiserver::Config::new(dir.path().join("data"));
        config.listen = "127.0.0.1:0".parse().unwrap();
        let server = config.build().await.unwrap();
        let router = server.router();
        let client = Client::new(Faulty { router: router.clone(), faults: Arc::default() }, "default");
        Self { _dir: dir, router, faults: Arc::default(), client }
    }

    /// A server on a socket with TLS, and its kubeconfig: as a process meets it.
    pub async fn over_tls(stop: drain::Watch) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let mut config = skerry_apiserver::Config::new(dir.path().join("data"));
        config.listen = "127.0.0.1:0".parse().unwrap();
        let server = config.build().await.unwrap();
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, server.admin_kubeconfig().unwrap()).unwrap();
        tokio::spawn(server.run(stop));
        (dir, path)
    }

    /// A client that suffers the faults.
    pub fn faulty(&self) -> Client {
        Client::new(Faulty { router: self.router.clone(), faults: Arc::clone(&self.faults) }, "default")
    }

    pub async fn controller(&self) -> Controller {
        Controller::start(self.faulty()).await
    }

    fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, plural) = match kind {
            "Lease" => ("coordination.k8s.io", "leases".to_owned()),
            "ClusterRole" | "ClusterRoleBinding" => ("rbac.authorization.k8s.io", format!("{}s", kind.to_lowercase())),
            "EndpointSlice" => ("discovery.k8s.io", "endpointslices".to_owned()),
            kind => ("", format!("{}s", kind.to_lowercase())),
        };
        let resource = ApiResource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            api_version: if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") },
            kind: kind.to_owned(),
            plural,
        };
        if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        }
    }

    pub async fn create(&self, kind: &str, namespace: &str, object: Value) -> DynamicObject {
        let object = serde_json::from_value(object).unwrap();
        self.api(kind, namespace).create(&PostParams::default(), &object).await.unwrap()
    }

    pub async fn patch(&self, kind: &str, namespace: &str, name: &str, patch: Value) -> DynamicObject {
        self.api(kind, namespace).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    }

    pub async fn patch_status(&self, kind: &str, namespace: &str, name: &str, status: Value) -> DynamicObject {
        let patch = Patch::Merge(json!({ "status": status }));
        self.api(kind, namespace).patch_status(name, &PatchParams::default(), &patch).await.unwrap()
    }

    pub async fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<DynamicObject> {
        self.api(kind, namespace).get_opt(name).await.unwrap()
    }

    pub async fn list(&self, kind: &str, namespace: &str) -> Vec<DynamicObject> {
        self.api(kind, namespace).list(&Default::default()).await.unwrap().items
    }

    pub async fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.api(kind, namespace).delete(name, &now).await.unwrap();
    }

    pub async fn config_map(&self, name: &str, value: &str) {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}});
        self.create("ConfigMap", "default", map).await;
    }

    /// A pod bound to the node that refers to a ConfigMap and a Secret.
    pub async fn pod(&self, name: &str, node: &str) -> String {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeName": node,
                "serviceAccountName": "default",
                "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "busybox", "envFrom": [
                    {"configMapRef": {"name": "cm"}}, {"secretRef": {"name": "sec", "optional": true}}]}],
                "volumes": [{"name": "tok", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}}],
            }
        });
        self.create("Pod", "default", pod).await.metadata.uid.unwrap()
    }
}

/// A running EdgeController.
pub struct Controller {
    connector: PipeConnector,
    readiness: Readiness,
    trigger: Option<drain::Trigger>,
    task: tokio::task::JoinHandle<Result<(), skerry_edgecontroller::ControllerError>>,
}

impl Controller {
    pub async fn start(client: Client) -> Self {
        let (listener, connector) = skerry_rpc::pipe();
        let (registry, readiness) = (Registry::new(), Readiness::new());
        let (trigger, stop) = drain::channel(Duration::from_secs(5));
        let config = Config::default();
        let app = EdgeController::build(&config, Listen::Pipe(listener), client, &registry, &readiness);
        let app = app.await.unwrap();
        let task = tokio::spawn(app.run(stop));
        Self { connector, readiness, trigger: Some(trigger), task }
    }

    pub fn channel(&self) -> Channel {
        Channel::pipe(self.connector.clone())
    }

    pub async fn ready(&self) {
        eventually("the controller is ready", || async { self.readiness.is_ready() }).await;
    }

    pub async fn stop(mut self) {
        self.trigger.take().unwrap().drain().await;
        self.task.await.unwrap().unwrap();
    }
}

/// Waits until something is so.
pub async fn eventually<F, Fut>(what: &str, mut check: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "not within 15 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
