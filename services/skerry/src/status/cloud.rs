//! `skerry status` in the cloud: the control plane, the hub, and every node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use serde_json::json;
use skerry_proto::hub::v1 as hub_pb;

use crate::failure::{Failure, Result};
use crate::hub::{self, HubArgs};
use crate::kubernetes::failed;
use crate::ui::{self, Output, column, wide};

/// A node as the cloud sees it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeRow {
    node: String,
    ready: String,
    link: String,
    since: String,
    remote: String,
    agent: String,
    session: Option<u64>,
    received_bytes: u64,
    sent_bytes: u64,
    runtime: String,
}

/// Prints it.
pub(super) async fn run(hub: &HubArgs, output: Output) -> Result<()> {
    let client = hub.cluster.client().await?;
    let version = client.apiserver_version().await.map_err(failed("the control plane does not answer"))?;
    let (sessions, hub_problem) = match sessions(hub).await {
        Ok(sessions) => (sessions, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    let rows = nodes(&client, sessions).await?;
    if matches!(output, Output::Json | Output::Yaml) {
        let hub = json!({ "answers": hub_problem.is_none(), "problem": hub_problem.as_ref().map(Failure::line) });
        let whole = json!({ "controlPlane": { "version": version.git_version }, "hub": hub, "nodes": rows });
        ui::print_value(output, &whole)?;
    } else {
        ui::line(format!("control plane: {}", version.git_version));
        let connected = rows.iter().filter(|r| r.session.is_some()).count();
        match &hub_problem {
            None => ui::line(format!("hub: {connected} of {} nodes connected", rows.len())),
            Some(failure) => ui::line(format!("hub: {}", failure.line())),
        }
        let columns = [
            column("NODE", "/node"),
            column("READY", "/ready"),
            column("LINK", "/link"),
            column("SINCE", "/since"),
            column("FROM", "/remote"),
            column("AGENT", "/agent"),
            wide("SESSION", "/session"),
            wide("RECEIVED-BYTES", "/receivedBytes"),
            wide("SENT-BYTES", "/sentBytes"),
            wide("RUNTIME", "/runtime"),
        ];
        ui::print_list(output, &columns, &rows, "no nodes yet: skerry token create, then skerry join")?;
    }
    hub_problem.map_or(Ok(()), Err)
}

async fn sessions(hub: &HubArgs) -> Result<Vec<hub_pb::SessionStatus>> {
    hub::sessions(&mut hub.connect().await?, "").await
}

async fn nodes(client: &Client, sessions: Vec<hub_pb::SessionStatus>) -> Result<Vec<NodeRow>> {
    let mut by_node: BTreeMap<String, hub_pb::SessionStatus> = BTreeMap::new();
    for status in sessions {
        if let Some(node) = status.session.as_ref().map(|s| s.node.clone()) {
            by_node.insert(node, status);
        }
    }
    let objects = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    let objects = objects.map_err(failed("cannot list the nodes"))?;
    let mut rows: Vec<NodeRow> = Vec::new();
    for object in objects {
        let name = object.name_any();
        rows.push(row(name.clone(), Some(&object), by_node.remove(&name)));
    }
    // Connected, but without a Node object: it was deleted, or is about to be registered.
    for (name, status) in by_node {
        rows.push(row(name, None, Some(status)));
    }
    Ok(rows)
}

fn row(node: String, object: Option<&Node>, status: Option<hub_pb::SessionStatus>) -> NodeRow {
    let conditions = object.and_then(|o| o.status.as_ref()?.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
    let info = object.and_then(|o| o.status.as_ref()?.node_info.as_ref());
    let session = status.as_ref().and_then(|s| s.session.as_ref());
    let since = session.map(|s| {
        let now = jiff::Timestamp::now().as_millisecond();
        ui::age(u64::try_from(now.saturating_sub(s.connected_unix_ms) / 1000).unwrap_or(0))
    });
    NodeRow {
        node,
        ready: match ready.map(|c| c.status.as_str()) {
            Some("True") => "yes".into(),
            Some("False") => "no".into(),
            Some(other) => other.to_lowercase(),
            None if object.is_none() => "no Node object".into(),
            None => "unknown".into(),
        },
        link: if session.is_some() { "connected".into() } else { "gone".into() },
        since: since.unwrap_or_default(),
        remote: session.map(|s| s.remote.clone()).unwrap_or_default(),
        agent: session.map(|s| s.agent.clone()).or(info.map(|i| i.kubelet_version.clone())).unwrap_or_default(),
        session: session.map(|s| s.session),
        received_bytes: status.as_ref().map_or(0, |s| s.received_bytes),
        sent_bytes: status.as_ref().map_or(0, |s| s.sent_bytes),
        runtime: info.map(|i| i.container_runtime_version.clone()).unwrap_or_default(),
    }
}
