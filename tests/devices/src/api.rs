//! The Kubernetes API: the embedded server in this process, with every write counted by who made it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use tower::ServiceExt as _;

/// Writes by who made them and what they wrote: `devicecontroller devices`.
type Counts = BTreeMap<String, u64>;

/// See the module documentation. Clones are the same API.
#[derive(Clone)]
pub struct Kubernetes {
    router: Router,
    writes: Arc<Mutex<Counts>>,
}

impl Kubernetes {
    /// Starts it with its files below a folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut config = skerry_apiserver::Config::new(folder.join("apiserver"));
        config.listen = ([127, 0, 0, 1], 0).into();
        let server = config.build().await?;
        Ok(Self { router: server.router(), writes: Arc::default() })
    }

    /// A client of this process. It works in the runtime that it is made in.
    pub fn client(&self, who: &'static str) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let this = this.clone();
            async move {
                this.count(who, request.method(), request.uri().path());
                this.router.oneshot(request.map(Body::new)).await
            }
        });
        Client::new(service, "default")
    }

    fn count(&self, who: &str, method: &Method, path: &str) {
        if matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
            // `/apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/NAME`
            let resource = path.trim_matches('/').split('/').nth(5).unwrap_or_default();
            *self.locked().entry(format!("{who} {resource}")).or_default() += 1;
        }
    }

    /// Writes of devices and their statuses that somebody has made.
    pub fn writes(&self, who: &str) -> u64 {
        let counts = self.locked();
        let of = |resource: &str| counts.get(&format!("{who} {resource}")).copied().unwrap_or_default();
        of("devices") + of("devicestatuses")
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Objects of a kind of `devices.kubeedge.io` in the namespace `default`.
pub fn devices_api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let lower = kind.to_lowercase();
    let resource = ApiResource {
        group: "devices.kubeedge.io".to_owned(),
        version: "v1beta1".to_owned(),
        api_version: "devices.kubeedge.io/v1beta1".to_owned(),
        kind: kind.to_owned(),
        plural: if lower.ends_with('s') { format!("{lower}es") } else { format!("{lower}s") },
    };
    Api::namespaced_with(client.clone(), "default", &resource)
}

/// Nodes.
pub(crate) fn nodes_api(client: &Client) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        plural: "nodes".to_owned(),
    };
    Api::all_with(client.clone(), &resource)
}
