//! `skerry net`: the bytes between the hub and its nodes, by kind.
//!
//! The figures are those of one hub replica since it started (a node's: since it connected). They are
//! message bytes, without TLS and framing; the connection's own bytes are in the last line.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use skerry_common::exit;
use skerry_proto::hub::v1 as pb;
use tonic::{Code, Request};

use crate::failure::Result;
use crate::hub::{self, HubArgs};
use crate::ui::{self, Output, column, wide};

/// Longest wait for the hub.
const PATIENCE: Duration = Duration::from_secs(10);

/// Options of `skerry net`.
#[derive(Debug, Args)]
pub(crate) struct NetArgs {
    /// Only this node; without it, all nodes together.
    node: Option<String>,
    /// Which hub.
    #[command(flatten)]
    hub: HubArgs,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    kind: String,
    down_bytes: u64,
    down: String,
    down_messages: u64,
    up_bytes: u64,
    up: String,
    up_messages: u64,
}

impl Row {
    fn new(kind: String, down: (u64, u64), up: (u64, u64)) -> Self {
        Self {
            kind,
            down_bytes: down.0,
            down: ui::bytes(down.0),
            down_messages: down.1,
            up_bytes: up.0,
            up: ui::bytes(up.0),
            up_messages: up.1,
        }
    }
}

/// Prints the table.
pub(crate) async fn run(args: NetArgs) -> Result<()> {
    let mut client = args.hub.connect().await?;
    let node = args.node.unwrap_or_default();
    let request = skerry_rpc::deadline(Request::new(pb::GetUsageRequest { node: node.clone() }), PATIENCE);
    let usage = client.get_usage(request).await.map_err(|status| {
        let failure = hub::failed("cannot read the bytes", &status);
        if status.code() == Code::NotFound {
            failure.code(exit::NOT_FOUND).cure("skerry status shows which nodes are connected")
        } else {
            failure
        }
    })?;
    let mut rows: Vec<Row> = usage
        .into_inner()
        .kinds
        .into_iter()
        .map(|k| Row::new(k.kind, (k.down_bytes, k.down_messages), (k.up_bytes, k.up_messages)))
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.down_bytes + row.up_bytes));
    let sum = |pick: fn(&Row) -> u64| rows.iter().map(pick).sum::<u64>();
    let total = Row::new(
        "total".into(),
        (sum(|r| r.down_bytes), sum(|r| r.down_messages)),
        (sum(|r| r.up_bytes), sum(|r| r.up_messages)),
    );
    if args.output != Output::Json && args.output != Output::Yaml {
        rows.push(total);
    }
    let columns = [
        column("KIND", "/kind"),
        column("DOWN", "/down"),
        column("MESSAGES", "/downMessages"),
        column("UP", "/up"),
        column("MESSAGES", "/upMessages"),
        wide("DOWN-BYTES", "/downBytes"),
        wide("UP-BYTES", "/upBytes"),
    ];
    ui::print_list(args.output, &columns, &rows, "no bytes yet")?;
    if args.output == Output::Table || args.output == Output::Wide {
        for session in hub::sessions(&mut client, &node).await? {
            let name = session.session.map(|s| s.node).unwrap_or_default();
            let (received, sent) = (ui::bytes(session.received_bytes), ui::bytes(session.sent_bytes));
            ui::line(format!("{name}: {received} received, {sent} sent on the connection, with TLS"));
        }
    }
    Ok(())
}
