//! `skerry status`: how the system is, seen from the cloud or from a node.
//!
//! In the cloud: whether the control plane and the hub answer, and every node with its Ready condition
//! and its session. On a node: what edgehub says about its link, also without the cloud. A part that
//! does not answer is said so; the rest is still shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use serde_json::json;
use skerry_common::exit;
use skerry_proto::edge::v1 as edge_pb;
use skerry_proto::edge::v1::edge_client::EdgeClient;
use skerry_proto::hub::v1 as hub_pb;
use tonic::Request;

use crate::failure::{Failure, Result};
use crate::hub::{self, HubArgs};
use crate::kubernetes::failed;
use crate::places;
use crate::ui::{self, Output, column, wide};

/// Longest wait for edgehub on the same machine.
const LOCAL: Duration = Duration::from_secs(5);

/// Options of `skerry status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Show the node of this directory instead of the cloud.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Which hub.
    #[command(flatten)]
    hub: HubArgs,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Prints it.
pub(crate) async fn run(args: StatusArgs) -> Result<()> {
    let here = Path::new(places::EDGE_DIR);
    let node = match &args.data_dir {
        Some(dir) => Some(dir.clone()),
        None if args.hub.cluster.file().is_none() && here.join(places::EDGE_CONFIG).exists() => Some(here.to_owned()),
        None => None,
    };
    match node {
        Some(dir) => edge(&places::absolute(&dir)?, args.output).await,
        None => cloud(&args).await,
    }
}

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

async fn cloud(args: &StatusArgs) -> Result<()> {
    let client = args.hub.cluster.client().await?;
    let version = client.apiserver_version().await.map_err(failed("the control plane does not answer"))?;
    let (sessions, hub_problem) = match sessions(&args.hub).await {
        Ok(sessions) => (sessions, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    let rows = nodes(&client, sessions).await?;
    if matches!(args.output, Output::Json | Output::Yaml) {
        let hub = json!({ "answers": hub_problem.is_none(), "problem": hub_problem.as_ref().map(Failure::line) });
        let whole = json!({ "controlPlane": { "version": version.git_version }, "hub": hub, "nodes": rows });
        ui::print_value(args.output, &whole)?;
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
        ui::print_list(args.output, &columns, &rows, "no nodes yet: skerry token create, then skerry join")?;
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

async fn edge(dir: &Path, output: Output) -> Result<()> {
    let socket = dir.join(places::EDGE_SOCKET);
    let channel = crate::dial::unix(&socket);
    let request = skerry_rpc::deadline(Request::new(edge_pb::GetStatusRequest {}), LOCAL);
    let status = EdgeClient::new(channel).get_status(request).await.map_err(|status| {
        Failure::new("edgehub does not answer")
            .cause(format!("{}: {}", socket.display(), status.message()))
            .cure("start the node: systemctl start skerry-edge, or skerry edge")
            .code(exit::UNREACHABLE)
    })?;
    let status = status.into_inner();
    let link = match status.link() {
        edge_pb::LinkState::Connected => "connected",
        edge_pb::LinkState::Disconnected => "disconnected",
        edge_pb::LinkState::Unspecified => "unknown",
    };
    let time = |seconds: i64| jiff::Timestamp::from_second(seconds).map(|t| t.to_string()).unwrap_or_default();
    if matches!(output, Output::Json | Output::Yaml) {
        let kinds: Vec<_> =
            status.kinds.iter().map(|k| json!({ "kind": k.kind, "objects": k.objects, "inSync": k.in_sync })).collect();
        return ui::print_value(
            output,
            &json!({
                "node": status.node, "link": link, "reason": status.reason, "since": time(status.since_unix_ms / 1000),
                "hub": status.hub, "session": status.session, "agent": status.agent, "outbox": status.outbox,
                "certificateNotAfter": time(status.certificate_not_after_unix), "storeBytes": status.store_bytes,
                "storeProblem": status.store_problem, "receivedBytes": status.received_bytes,
                "sentBytes": status.sent_bytes, "kinds": kinds,
            }),
        );
    }
    ui::line(format!("node: {}", status.node));
    let reason = if status.reason.is_empty() { String::new() } else { format!(": {}", status.reason) };
    ui::line(format!("link: {link} since {} to {}{reason}", time(status.since_unix_ms / 1000), status.hub));
    ui::line(format!("certificate: valid until {}", time(status.certificate_not_after_unix)));
    let (received, sent) = (ui::bytes(status.received_bytes), ui::bytes(status.sent_bytes));
    ui::line(format!("connection: {received} received, {sent} sent"));
    let problem = if status.store_problem.is_empty() { "good" } else { &status.store_problem };
    ui::line(format!(
        "store: {}, {problem}; {} reports wait for the cloud",
        ui::bytes(status.store_bytes),
        status.outbox
    ));
    let rows: Vec<_> =
        status.kinds.iter().map(|k| json!({ "kind": k.kind, "objects": k.objects, "inSync": k.in_sync })).collect();
    let columns = [column("KIND", "/kind"), column("OBJECTS", "/objects"), column("IN-SYNC", "/inSync")];
    ui::print_list(output, &columns, &rows, "no objects")
}
