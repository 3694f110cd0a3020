//! What all controllers share: the client, the caches, the recorder of events.
//!
//! Built once by [`crate::Controllers::run`]; controllers register their handlers on the caches, then
//! the informers start, then workers run when all caches have seen a complete list.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use tokio::sync::RwLock;

use crate::config::Options;
use crate::machinery::cache::Cache;
use crate::machinery::events::Recorder;
use crate::machinery::informer::{self, trim_meta};
use crate::machinery::tasks::Tasks;
use crate::metrics::Metrics;

/// Name of the ConfigMap with the CA of the API server, one in each namespace.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
/// Where nodes renew their Leases.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";

/// Index numbers of the pod cache.
pub(crate) mod pods_by {
    /// By the uid of the controlling owner, or [`crate::claim::orphans_of`] the namespace.
    pub(crate) const CONTROLLER: usize = 0;
    /// By node name.
    pub(crate) const NODE: usize = 1;
    /// By namespace.
    pub(crate) const NAMESPACE: usize = 2;
}

/// Index numbers of the caches of ReplicaSets, Services, EndpointSlices and the like.
pub(crate) mod by {
    /// By namespace.
    pub(crate) const NAMESPACE: usize = 0;
    /// By the uid of the controlling owner.
    pub(crate) const CONTROLLER: usize = 1;
}

/// See the module documentation.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) options: Options,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    /// Read-held by each reconcile and call; a stop takes it for writing, so that what has begun is
    /// finished and nothing new begins.
    pub(crate) gate: RwLock<()>,
    pub(crate) pods: Arc<Cache<Pod>>,
    pub(crate) nodes: Arc<Cache<Node>>,
    pub(crate) leases: Arc<Cache<Lease>>,
    pub(crate) replica_sets: Arc<Cache<ReplicaSet>>,
    pub(crate) deployments: Arc<Cache<Deployment>>,
    pub(crate) daemon_sets: Arc<Cache<DaemonSet>>,
    pub(crate) jobs: Arc<Cache<Job>>,
    pub(crate) services: Arc<Cache<Service>>,
    pub(crate) slices: Arc<Cache<EndpointSlice>>,
    pub(crate) namespaces: Arc<Cache<Namespace>>,
    pub(crate) service_accounts: Arc<Cache<ServiceAccount>>,
    pub(crate) root_cas: Arc<Cache<ConfigMap>>,
    pub(crate) claims: Arc<Cache<PersistentVolumeClaim>>,
    pub(crate) volumes: Arc<Cache<PersistentVolume>>,
    pub(crate) storage_classes: Arc<Cache<StorageClass>>,
}

fn by_controller<K: Resource>(object: &K, out: &mut Vec<Arc<str>>) {
    match crate::pods::controller_of(object.meta()) {
        Some(owner) => out.push(owner.uid.as_str().into()),
        None => out.push(crate::claim::orphans_of(crate::pods::namespace(object)).into()),
    }
}

fn by_namespace<K: Resource>(object: &K, out: &mut Vec<Arc<str>>) {
    out.extend(object.meta().namespace.as_deref().map(Arc::from));
}

fn by_node(pod: &Pod, out: &mut Vec<Arc<str>>) {
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
    out.extend(node.filter(|n| !n.is_empty()).map(Arc::from));
}

/// Pods are the many: drop what no controller reads.
fn trim_pod(pod: &mut Pod) {
    trim_meta(pod);
    if let Some(spec) = &mut pod.spec {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            container.env = None;
            container.env_from = None;
            container.command = None;
            container.args = None;
            container.volume_mounts = None;
            container.liveness_probe = None;
            container.readiness_probe = None;
            container.startup_probe = None;
            container.lifecycle = None;
            container.security_context = None;
        }
        // Claims are bound for the pods that use them.
        if let Some(volumes) = &mut spec.volumes {
            volumes.retain(|v| v.persistent_volume_claim.is_some());
        }
        spec.volumes.take_if(|v| v.is_empty());
    }
    pod.metadata.annotations = pod.metadata.annotations.take().map(|mut a| {
        a.retain(|k, _| k == crate::replicaset::DELETION_COST);
        a
    });
}

fn trim_root_ca(_: &mut ConfigMap) {}

impl Context {
    /// Empty caches around `client`.
    pub(crate) fn new(client: Client, options: Options, metrics: Metrics, recorder: Recorder) -> Arc<Self> {
        Arc::new(Self {
            client,
            options,
            recorder,
            metrics,
            gate: RwLock::default(),
            pods: Cache::new(vec![by_controller, by_node, by_namespace]),
            nodes: Cache::new(Vec::new()),
            leases: Cache::new(Vec::new()),
            replica_sets: Cache::new(vec![by_namespace, by_controller]),
            deployments: Cache::new(vec![by_namespace]),
            daemon_sets: Cache::new(vec![by_namespace]),
            jobs: Cache::new(vec![by_namespace]),
            services: Cache::new(vec![by_namespace]),
            slices: Cache::new(vec![by_namespace, by_controller]),
            namespaces: Cache::new(Vec::new()),
            service_accounts: Cache::new(Vec::new()),
            root_cas: Cache::new(Vec::new()),
            claims: Cache::new(Vec::new()),
            volumes: Cache::new(Vec::new()),
            storage_classes: Cache::new(Vec::new()),
        })
    }

    /// Starts the one watch per kind. Call it after all handlers are registered.
    pub(crate) fn start_informers(&self, tasks: &mut Tasks) {
        let client = &self.client;
        let all = watcher::Config::default;
        let leases = Api::namespaced(client.clone(), NODE_LEASES);
        let root_cas = all().fields(&format!("metadata.name={ROOT_CA}"));
        tasks.spawn("watch pods", informer::run(Api::all(client.clone()), all(), self.pods.clone(), trim_pod));
        tasks.spawn("watch nodes", informer::run(Api::all(client.clone()), all(), self.nodes.clone(), trim_meta));
        tasks.spawn("watch leases", informer::run(leases, all(), self.leases.clone(), trim_meta));
        tasks.spawn(
            "watch replicasets",
            informer::run(Api::all(client.clone()), all(), self.replica_sets.clone(), trim_meta),
        );
        tasks.spawn(
            "watch deployments",
            informer::run(Api::all(client.clone()), all(), self.deployments.clone(), trim_meta),
        );
        tasks.spawn(
            "watch daemonsets",
            informer::run(Api::all(client.clone()), all(), self.daemon_sets.clone(), trim_meta),
        );
        tasks.spawn("watch jobs", informer::run(Api::all(client.clone()), all(), self.jobs.clone(), trim_meta));
        tasks.spawn("watch services", informer::run(Api::all(client.clone()), all(), self.services.clone(), trim_meta));
        tasks.spawn(
            "watch endpointslices",
            informer::run(Api::all(client.clone()), all(), self.slices.clone(), trim_meta),
        );
        tasks.spawn(
            "watch namespaces",
            informer::run(Api::all(client.clone()), all(), self.namespaces.clone(), trim_meta),
        );
        tasks.spawn(
            "watch serviceaccounts",
            informer::run(Api::all(client.clone()), all(), self.service_accounts.clone(), trim_meta),
        );
        tasks.spawn(
            "watch configmaps",
            informer::run(Api::all(client.clone()), root_cas, self.root_cas.clone(), trim_root_ca),
        );
        tasks.spawn(
            "watch persistentvolumeclaims",
            informer::run(Api::all(client.clone()), all(), self.claims.clone(), trim_meta),
        );
        tasks.spawn(
            "watch persistentvolumes",
            informer::run(Api::all(client.clone()), all(), self.volumes.clone(), trim_meta),
        );
        tasks.spawn(
            "watch storageclasses",
            informer::run(Api::all(client.clone()), all(), self.storage_classes.clone(), trim_meta),
        );
    }

    /// Waits until every cache has seen a complete list: before that, absence means nothing.
    pub(crate) async fn wait_synced(&self) {
        self.pods.wait_synced().await;
        self.nodes.wait_synced().await;
        self.leases.wait_synced().await;
        self.replica_sets.wait_synced().await;
        self.deployments.wait_synced().await;
        self.daemon_sets.wait_synced().await;
        self.jobs.wait_synced().await;
        self.services.wait_synced().await;
        self.slices.wait_synced().await;
        self.namespaces.wait_synced().await;
        self.service_accounts.wait_synced().await;
        self.root_cas.wait_synced().await;
        self.claims.wait_synced().await;
        self.volumes.wait_synced().await;
        self.storage_classes.wait_synced().await;
    }

    /// The API of a namespaced kind.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// A context whose API is a function; for unit tests.
#[cfg(test)]
pub(crate) mod testing {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use std::collections::HashSet;

    use super::*;

    /// What the API answers.
    pub(crate) type Answer = Result<http::Response<kube::client::Body>, tower::BoxError>;

    /// A context whose API answers each request with what `answer` gives.
    pub(crate) fn context<F>(answer: impl Fn() -> F + Clone + Send + 'static) -> Arc<Context>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| answer());
        let client = Client::new(service, "default");
        let (recorder, _) = Recorder::new(client.clone());
        Context::new(client, Options::default(), Metrics::default(), recorder)
    }

    /// Says that everything has been listed; call it on empty caches.
    pub(crate) fn sync(ctx: &Context) {
        let none = HashSet::new();
        ctx.pods.retain_listed(&none);
        ctx.nodes.retain_listed(&none);
        ctx.leases.retain_listed(&none);
        ctx.replica_sets.retain_listed(&none);
        ctx.deployments.retain_listed(&none);
        ctx.daemon_sets.retain_listed(&none);
        ctx.jobs.retain_listed(&none);
        ctx.services.retain_listed(&none);
        ctx.slices.retain_listed(&none);
        ctx.namespaces.retain_listed(&none);
        ctx.service_accounts.retain_listed(&none);
        ctx.root_cas.retain_listed(&none);
        ctx.claims.retain_listed(&none);
        ctx.volumes.retain_listed(&none);
        ctx.storage_classes.retain_listed(&none);
    }
}
