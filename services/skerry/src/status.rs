//! `skerry status`: how the system is, seen from the cloud or from a node.
//!
//! In the cloud: whether the control plane and the hub answer, and every node with its Ready condition
//! and its session. On a node: what edgehub says about its link, also without the cloud. A part that
//! does not answer is said so; the rest is still shown.

#[cfg(feature = "cloud")]
mod cloud;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use skerry_common::exit;
use skerry_proto::edge::v1 as edge_pb;
use skerry_proto::edge::v1::edge_client::EdgeClient;
use tonic::Request;

use crate::failure::{Failure, Result};
#[cfg(feature = "cloud")]
use crate::hub::HubArgs;
use crate::places;
use crate::ui::{self, Output, column};

/// Longest wait for edgehub on the same machine.
const LOCAL: Duration = Duration::from_secs(5);

/// Options of `skerry status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Show the node of this directory instead of the cloud.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Which hub.
    #[cfg(feature = "cloud")]
    #[command(flatten)]
    hub: HubArgs,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Prints it.
#[cfg(feature = "cloud")]
pub(crate) async fn run(args: StatusArgs) -> Result<()> {
    let here = Path::new(places::EDGE_DIR);
    let node = match &args.data_dir {
        Some(dir) => Some(dir.clone()),
        None if args.hub.cluster.file().is_none() && here.join(places::EDGE_CONFIG).exists() => Some(here.to_owned()),
        None => None,
    };
    match node {
        Some(dir) => edge(&places::absolute(&dir)?, args.output).await,
        None => cloud::run(&args.hub, args.output).await,
    }
}

/// Prints it.
#[cfg(not(feature = "cloud"))]
pub(crate) async fn run(args: StatusArgs) -> Result<()> {
    let dir = args.data_dir.unwrap_or_else(|| places::EDGE_DIR.into());
    edge(&places::absolute(&dir)?, args.output).await
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
