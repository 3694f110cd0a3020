//! A Kubernetes API with devices, and DeviceControllers on it.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use skerry_common::drain;
use skerry_devicecontroller::{Config, DeviceController, DeviceControllerError, Sockets};
use skerry_rpc::{Channel, Listen, PipeConnector};
use skerry_telemetry::{Readiness, Registry};
use tower::ServiceExt as _;

pub struct Cluster {
    _dir: tempfile::TempDir,
    pub client: Client,
    /// The CA of the API server.
    pub ca_pem: String,
}

fn client(router: Router) -> Client {
    let service = tower::service_fn(move |request: axum::http::Request<kube::client::Body>| {
        let router = router.clone();
        async move { router.oneshot(request.map(Body::new)).await }
    });
    Client::new(service, "default")
}

impl Cluster {
    /// With a node `n1` that is Ready, and the model `m`.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = skerry_apiserver::Config::new(dir.path().join("data"));
        config.listen = "127.0.0.1:0".parse().unwrap();
        let server = config.build().await.unwrap();
        let ca_pem = server.ca_pem().to_owned();
        let cluster = Self { _dir: dir, client: client(server.router()), ca_pem };
        cluster.node("n1").await;
        cluster.ready("n1", "True").await;
        cluster.model("m").await;
        cluster
    }

    fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version, plural) = match kind {
            "Device" => ("devices.kubeedge.io", "v1beta1", "devices"),
            "DeviceModel" => ("devices.kubeedge.io", "v1beta1", "devicemodels"),
            "DeviceStatus" => ("devices.kubeedge.io", "v1beta1", "devicestatuses"),
            "Event" => ("", "v1", "events"),
            "Node" => ("", "v1", "nodes"),
            "ValidatingWebhookConfiguration" => {
                ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations")
            }
            other => panic!("{other}"),
        };
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
            kind: kind.to_owned(),
            plural: plural.to_owned(),
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

    /// As [`Cluster::create`], for what may be refused.
    pub async fn try_create(&self, kind: &str, object: Value) -> Result<DynamicObject, kube::Error> {
        let object = serde_json::from_value(object).unwrap();
        self.api(kind, "default").create(&PostParams::default(), &object).await
    }

    /// An object that is in no namespace.
    pub async fn global(&self, kind: &str, name: &str) -> Option<DynamicObject> {
        self.api(kind, "").get_opt(name).await.unwrap()
    }

    pub async fn patch(&self, kind: &str, name: &str, patch: Value) -> DynamicObject {
        self.api(kind, "default").patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    }

    pub async fn get(&self, kind: &str, name: &str) -> Option<DynamicObject> {
        self.api(kind, "default").get_opt(name).await.unwrap()
    }

    pub async fn delete(&self, kind: &str, name: &str) {
        self.api(kind, "default").delete(name, &Default::default()).await.unwrap();
    }

    pub async fn events(&self) -> Vec<String> {
        let list = self.api("Event", "default").list(&Default::default()).await.unwrap();
        list.items.iter().map(|event| event.data["reason"].as_str().unwrap().to_owned()).collect()
    }

    pub async fn node(&self, name: &str) {
        self.create("Node", "", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})).await;
    }

    pub async fn ready(&self, name: &str, status: &str) {
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "Test"}]}});
        self.api("Node", "").patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub async fn model(&self, name: &str) {
        let model = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel", "metadata": {"name": name},
            "spec": {"properties": [
                {"name": "t", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "90"},
                {"name": "p", "type": "FLOAT", "accessMode": "ReadOnly"}]}});
        self.create("DeviceModel", "default", model).await;
    }

    /// A device of the node with the model `m`; its uid.
    pub async fn device(&self, name: &str, node: &str) -> String {
        self.create("Device", "default", device(name, node)).await.metadata.uid.unwrap()
    }

    /// `<status> <reason>` of a condition of the Device.
    pub async fn condition(&self, name: &str, r#type: &str) -> String {
        let device = self.get("Device", name).await.unwrap();
        let conditions = device.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|c| c["type"] == r#type);
        found.map_or_else(String::new, |c| {
            format!("{} {}", c["status"].as_str().unwrap(), c["reason"].as_str().unwrap_or_default())
        })
    }

    pub async fn until(&self, device: &str, r#type: &str, want: &str) {
        eventually(&format!("{type} of {device} is {want}"), || async { self.condition(device, r#type).await == want })
            .await;
    }

    pub async fn controller(&self) -> Controller {
        Controller::start(self.client.clone()).await
    }
}

/// A running DeviceController.
pub struct Controller {
    connector: PipeConnector,
    readiness: Readiness,
    pub metrics: Registry,
    trigger: drain::Trigger,
    task: tokio::task::JoinHandle<Result<(), DeviceControllerError>>,
}

impl Controller {
    pub async fn start(client: Client) -> Self {
        Self::with(client, Config::default(), None).await
    }

    pub async fn with(client: Client, config: Config, webhook: Option<SocketAddr>) -> Self {
        let (listener, connector) = skerry_rpc::pipe();
        let (metrics, readiness) = (Registry::new(), Readiness::new());
        let (trigger, stop) = drain::channel(Duration::from_secs(5));
        let sockets = Sockets { sync: Listen::Pipe(listener), webhook };
        let app = DeviceController::build(&config, sockets, client, &metrics, &readiness).await.unwrap();
        let task = tokio::spawn(app.run(stop));
        let this = Self { connector, readiness, metrics, trigger, task };
        eventually("the controller is ready", || async { this.readiness.is_ready() }).await;
        this
    }

    pub fn channel(&self) -> Channel {
        Channel::pipe(self.connector.clone())
    }

    pub async fn stop(self) {
        self.trigger.drain().await;
        self.task.await.unwrap().unwrap();
    }
}

/// A device of the node with the model `m`.
pub fn device(name: &str, node: &str) -> Value {
    json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": {"name": name},
        "spec": {"nodeName": node, "deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "modbus"},
            "properties": [{"name": "t", "desired": {"value": "20"}}, {"name": "p"}]}})
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

/// What a node says of a device that works.
pub fn works(uid: &str, twins: Value) -> Value {
    json!({"metadata": {"uid": uid}, "status": {"state": "online", "lastOnlineTime": "2026-01-01T00:00:00Z",
        "twins": twins, "conditions": [
            {"type": "Ready", "status": "True", "reason": "MapperServes"},
            {"type": "Online", "status": "True", "reason": "DeviceOnline"},
            {"type": "Synced", "status": "True", "reason": "AllSynced"}]}})
}

/// The twin of `t`.
pub fn twin(value: &str, observed: &str) -> Value {
    json!([{"propertyName": "t", "reported": {"value": value}, "observedDesired": {"value": observed}}])
}
