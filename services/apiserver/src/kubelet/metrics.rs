//! `metrics.k8s.io/v1beta1`: what nodes and pods use now, for `kubectl top`.
//!
//! Nothing is stored: the kubelets are asked when somebody asks here, [`AT_ONCE`] at a time, each for at
//! most [`PATIENCE`]. A node that does not answer is left out, as is a container that was not measured, for
//! example because it has ended: a missing line is better than none. A kubelet knows what CPU was used since it was asked last, so after a pause it
//! is asked twice. Limits: [`MAX_SUMMARY`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::StreamExt as _;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Map, Value, json};
use skerry_apimachinery::json::{list_at, str_at};
use skerry_apimachinery::{
    About, ApiError, Entry, FieldSelector, Filter, LabelSelector, Query, Resource, ResourcePath, meta,
};

use super::{dial, to_kubelet};
use crate::http::json_response;
use crate::kubelet::Target;
use crate::state::Api;

/// Kubelets that are asked at the same time.
const AT_ONCE: usize = 16;
/// What one of them may take, both looks together.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks: kubelets keep an answer for two seconds.
const BETWEEN: Duration = Duration::from_millis(2_200);
/// Bytes of one kubelet's summary: some 2 KiB per container.
const MAX_SUMMARY: usize = 8 << 20;
/// Usage without files on disk.
const LOCATION: &str = "/stats/summary?only_cpu_and_memory=true";

/// What pods use, by namespace and name.
type Used = HashMap<(String, String), Value>;

/// Answers a get or list of the group.
pub(crate) async fn serve(
    api: &Arc<Api>,
    resource: &Resource,
    path: &ResourcePath,
    query: &Query,
    now: jiff::Timestamp,
) -> Result<Response, ApiError> {
    let nodes = resource.kind == "NodeMetrics";
    let filter = Filter {
        namespace: path.namespace.clone(),
        labels: LabelSelector::parse(&query.label_selector)?,
        fields: FieldSelector::parse(&query.field_selector, "", "")?,
    };
    let mut objects = api.storage.cache(if nodes { "/nodes" } else { "/pods" }).snapshot(&filter).entries;
    if !path.name.is_empty() {
        objects.retain(|entry| *entry.key.name == *path.name);
        if objects.is_empty() {
            return Err(ApiError::NotFound(About::new("", if nodes { "nodes" } else { "pods" }, &path.name)));
        }
    }
    let values: Vec<Value> = objects.iter().map(|entry: &Arc<Entry>| entry.value()).collect();
    let items = if nodes { of_nodes(api, &values, now).await } else { of_pods(api, &values, now).await };
    if !path.name.is_empty() {
        let none = || ApiError::NotFound(About::new(&resource.group, &resource.kind, &path.name));
        return Ok(json_response(StatusCode::OK, &items.into_iter().next().ok_or_else(none)?));
    }
    let list = json!({
        "kind": resource.list_kind(), "apiVersion": resource.api_version(), "metadata": {}, "items": items,
    });
    Ok(json_response(StatusCode::OK, &list))
}

async fn of_nodes(api: &Arc<Api>, nodes: &[Value], now: jiff::Timestamp) -> Vec<Value> {
    let asked = futures::stream::iter(nodes.to_vec()).map(|node| async move {
        let summary = summary(api, meta::name(&node)).await?;
        let usage = usage(summary.pointer("/node")?)?;
        Some(item("NodeMetrics", &node, now, ("usage", usage)))
    });
    asked.buffered(AT_ONCE).filter_map(std::future::ready).collect().await
}

async fn of_pods(api: &Arc<Api>, pods: &[Value], now: jiff::Timestamp) -> Vec<Value> {
    let mut nodes: Vec<String> = pods.iter().map(|pod| str_at(pod, "/spec/nodeName").to_owned()).collect();
    nodes.retain(|node| !node.is_empty());
    nodes.sort();
    nodes.dedup();
    let asked = futures::stream::iter(nodes).map(|node| async move { summary(api, &node).await });
    let summaries: Vec<Value> = asked.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
    let used: Used = summaries.iter().flat_map(|summary| list_at(summary, "/pods")).filter_map(containers).collect();
    let of = |pod: &Value| {
        let found = used.get(&(meta::namespace(pod).to_owned(), meta::name(pod).to_owned()))?;
        Some(item("PodMetrics", pod, now, ("containers", found.clone())))
    };
    pods.iter().filter_map(of).collect()
}

fn item(kind: &str, object: &Value, now: jiff::Timestamp, (field, value): (&str, Value)) -> Value {
    let mut metadata = Map::new();
    for name in ["name", "namespace", "labels"] {
        if let Some(value) = object.pointer(&format!("/metadata/{name}")) {
            metadata.insert(name.into(), value.clone());
        }
    }
    metadata.insert("creationTimestamp".into(), meta::time(now).into());
    json!({
        "kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata,
        "timestamp": meta::time(now), "window": "10s", field: value,
    })
}

/// One pod of a summary: whose it is, and its containers. `None`: none of them was measured.
fn containers(pod: &Value) -> Option<((String, String), Value)> {
    let of = |container: &Value| Some(json!({"name": str_at(container, "/name"), "usage": usage(container)?}));
    let out: Vec<Value> = list_at(pod, "/containers").iter().filter_map(of).collect();
    let name = (str_at(pod, "/podRef/namespace").to_owned(), str_at(pod, "/podRef/name").to_owned());
    (!out.is_empty()).then_some((name, Value::Array(out)))
}

fn usage(stats: &Value) -> Option<Value> {
    let cpu = stats.pointer("/cpu/usageNanoCores")?.as_u64()?;
    let memory = stats.pointer("/memory/workingSetBytes")?.as_u64()?;
    Some(json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024)}))
}

/// Whether all that runs has been measured twice.
fn is_whole(summary: &Value) -> bool {
    let pods = list_at(summary, "/pods");
    summary.pointer("/node").and_then(usage).is_some()
        && pods.iter().flat_map(|pod| list_at(pod, "/containers")).all(|container| {
            // One that has ended uses nothing any more.
            container.pointer("/cpu/usageCoreNanoSeconds").is_none() || usage(container).is_some()
        })
}

/// The kubelet's summary, at the second look if the first one has gaps. `None`: it does not answer.
async fn summary(api: &Arc<Api>, node: &str) -> Option<Value> {
    let looks = async {
        let first = ask(api, node).await?;
        if is_whole(&first) {
            return Ok(first);
        }
        tokio::time::sleep(BETWEEN).await;
        ask(api, node).await
    };
    match tokio::time::timeout(PATIENCE, looks).await {
        Ok(Ok(summary)) => Some(summary),
        Ok(Err(error)) => {
            tracing::debug!(node, %error, "no metrics of a node");
            None
        }
        Err(_) => None,
    }
}

async fn ask(api: &Arc<Api>, node: &str) -> Result<Value, ApiError> {
    let target = Target::find(api, node)?;
    let request = to_kubelet(Method::GET, LOCATION, &HeaderMap::new(), Body::empty())?;
    let answer = dial::send(api, &target, request).await?;
    let status = answer.status();
    let failed = |why: String| ApiError::Internal(format!("the summary of {node}: {why}"));
    let body = Limited::new(answer.into_body(), MAX_SUMMARY).collect().await.map_err(|e| failed(e.to_string()))?;
    if !status.is_success() {
        return Err(failed(status.to_string()));
    }
    serde_json::from_slice(&body.to_bytes()).map_err(|e| failed(e.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn what_was_measured_is_shown() {
        let stats = |name: &str, now: Value| {
            let cpu = json!({"usageCoreNanoSeconds": 9, "usageNanoCores": now});
            json!({"name": name, "cpu": cpu, "memory": {"workingSetBytes": 4096}})
        };
        let pod = |containers: Vec<Value>| json!({"podRef": {"name": "p", "namespace": "a"}, "containers": containers});
        let whole = pod(vec![stats("c", json!(1_500_000))]);
        let (name, found) = containers(&whole).unwrap();
        assert_eq!(name, ("a".to_owned(), "p".to_owned()));
        assert_eq!(found[0], json!({"name": "c", "usage": {"cpu": "1500000n", "memory": "4Ki"}}));
        let ended = pod(vec![stats("c", json!(1)), json!({"name": "ended"})]);
        assert_eq!(containers(&ended).unwrap().1.as_array().unwrap().len(), 1);
        let dark = pod(vec![stats("c", json!(1)), stats("new", Value::Null)]);
        assert_eq!(containers(&dark).unwrap().1.as_array().unwrap().len(), 1);
        assert!(containers(&pod(vec![])).is_none());
        let node = stats("", json!(7));
        assert!(is_whole(&json!({"node": node, "pods": [whole, ended]})));
        assert!(!is_whole(&json!({"node": node, "pods": [dark]})));
        assert!(!is_whole(&json!({"pods": []})));
    }
}
