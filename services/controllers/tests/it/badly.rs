//! An API that fails, answers late, or loses its answers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::client::Body;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use tower::Service;

use crate::cluster::{Cluster, fast, start, start_behind, until};

/// Fails every n-th write before it reaches the server, and every m-th after the server has done it.
#[derive(Clone)]
pub struct Flaky<S> {
    inner: S,
    count: Arc<AtomicU64>,
    on: Arc<AtomicBool>,
}

impl<S> Service<http::Request<Body>> for Flaky<S>
where
    S: Service<http::Request<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<tower::BoxError>,
    S::Response: Send,
{
    type Response = S::Response;
    type Error = tower::BoxError;
    type Future = BoxFuture<'static, Result<S::Response, tower::BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let write = request.method() != http::Method::GET && !request.uri().path().contains("/events");
        let n =
            if write && self.on.load(Ordering::Relaxed) { self.count.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
        let mut inner = self.inner.clone();
        Box::pin(async move {
            if n > 0 && n % 5 == 0 {
                return Err("the request was lost".into());
            }
            let response = inner.call(request).await.map_err(Into::into)?;
            if n > 0 && n % 7 == 0 {
                return Err("the answer was lost".into());
            }
            if n % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(response)
        })
    }
}

/// The most pods that one ReplicaSet ever had at a time. (Across sets, pods that are being replaced may
/// outlive the size of their set for a moment, as in Kubernetes.)
async fn most_pods(c: &Cluster) -> tokio::task::JoinHandle<usize> {
    let api: Api<Pod> = Api::all(c.client.clone());
    let done: Api<Deployment> = c.api();
    tokio::spawn(async move {
        let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
        let mut active: HashMap<String, HashSet<String>> = HashMap::new();
        let mut most = 0;
        loop {
            let event = tokio::time::timeout(Duration::from_millis(500), events.try_next()).await;
            match event {
                Ok(Ok(Some(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)))) => {
                    let set = active.entry(set_of(&pod)).or_default();
                    if pod.metadata.deletion_timestamp.is_some() {
                        set.remove(&pod.name_any());
                    } else {
                        set.insert(pod.name_any());
                    }
                    most = most.max(set.len());
                }
                Ok(Ok(Some(watcher::Event::Delete(pod)))) => {
                    active.entry(set_of(&pod)).or_default().remove(&pod.name_any());
                }
                Ok(_) => {}
                Err(_) => {
                    if done.get_opt("web").await.unwrap().is_none() {
                        return most;
                    }
                }
            }
        }
    })
}

fn set_of(pod: &Pod) -> String {
    pod.labels().get("pod-template-hash").cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_requests_and_answers_lead_to_the_same_end() {
    let on = Arc::new(AtomicBool::new(true));
    let (count, switch) = (Arc::new(AtomicU64::new(0)), on.clone());
    let c = start_behind(fast(), move |router| {
        let flaky = Flaky { inner: router, count: count.clone(), on: switch.clone() };
        Client::new(flaky, "default")
    })
    .await;
    c.node("n1").await;
    c.node("n2").await;
    let template =
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}});
    c.create::<Deployment>(
        json!({"metadata": {"name": "web"}, "spec": {"replicas": 20, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}, "template": template}}),
    )
    .await;
    let most = most_pods(&c).await;
    c.running("app=web", 20).await;
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    c.api::<Deployment>().patch("web", &PatchParams::default(), &Patch::Strategic(image)).await.unwrap();
    until("rolled out", async || {
        let d = c.api::<Deployment>().get("web").await.unwrap();
        let s = d.status.clone().unwrap_or_default();
        let n = Some(20);
        let complete = s.observed_generation == d.metadata.generation
            && (s.updated_replicas, s.replicas, s.available_replicas) == (n, n, n);
        complete.then_some(())
    })
    .await;
    c.running("app=web", 20).await;
    c.api::<Deployment>().delete("web", &DeleteParams::background()).await.unwrap();
    until("everything is gone", async || {
        let sets = c.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap().items;
        (sets.is_empty() && c.pods("app=web").await.is_empty()).then_some(())
    })
    .await;
    let most = most.await.unwrap();
    assert_eq!(most, 20, "nothing is created twice");
    on.store(false, Ordering::Relaxed);
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_that_are_restarted_go_on_where_they_were() {
    let mut c = start().await;
    c.node("n1").await;
    c.node("n2").await;
    let template =
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}});
    c.create::<Deployment>(json!({"metadata": {"name": "web"}, "spec": {"replicas": 30, "selector": {"matchLabels": {"app": "web"}}, "template": template}}))
        .await;
    let most = most_pods(&c).await;
    for some in [3, 10, 20] {
        until("some pods", async || (c.pods("app=web").await.len() >= some).then_some(())).await;
        c.restart_controllers().await;
    }
    c.running("app=web", 30).await;
    c.api::<Deployment>().delete("web", &DeleteParams::background()).await.unwrap();
    c.restart_controllers().await;
    until("everything is gone", async || c.pods("app=web").await.is_empty().then_some(())).await;
    assert_eq!(most.await.unwrap(), 30, "a restart creates nothing twice");
    c.stop().await;
}
