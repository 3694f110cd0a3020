//! `skerry token`: makes, lists and revokes join tokens.
//!
//! A token is shown once, when it is made; the cluster keeps only a hash of its secret. Tokens can
//! also be read with kubectl: they are Secrets in the namespace of Skerry.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use skerry_common::{NodeName, exit};
use skerry_identity::{TokenRecord, TokenRequest};

use crate::cluster;
use crate::failure::{Failure, Result};
use crate::kubernetes::ClusterArgs;
use crate::ui::{self, Output, column, wide};

/// A token for longer than this is a mistake; nodes renew their certificates without one.
const MAX_LIFETIME: Duration = Duration::from_secs(366 * 86_400);
/// A token for more machines than this is a mistake.
const MAX_USES: u32 = 100_000;

/// The commands about tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it; it is not shown again.
    Create(CreateArgs),
    /// List tokens.
    List(ListArgs),
    /// Make tokens useless; nodes that joined with them stay.
    Revoke(RevokeArgs),
}

/// Options of `skerry token create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// How long it is valid: 30m, 1h, 7d.
    #[arg(long, default_value = "1h", value_parser = duration)]
    ttl: Duration,
    /// How many machines may join with it.
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// Labels that its nodes get, as key=value.
    #[arg(long = "label", value_delimiter = ',')]
    labels: Vec<String>,
    /// The only node that may join with it.
    #[arg(long)]
    node_name: Option<String>,
    /// Which cluster.
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Options of `skerry token list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Which cluster.
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Options of `skerry token revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Ids of the tokens: the part before the first dot.
    #[arg(required = true)]
    ids: Vec<String>,
    /// Which cluster.
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Does it.
pub(crate) async fn run(command: TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Create(args) => create(args).await,
        TokenCommand::List(args) => list(args).await,
        TokenCommand::Revoke(args) => revoke(args).await,
    }
}

async fn create(args: CreateArgs) -> Result<()> {
    if args.uses == 0 || args.uses > MAX_USES {
        return Err(Failure::usage(format!("--uses must be 1 to {MAX_USES}")));
    }
    let mut labels = BTreeMap::new();
    for label in &args.labels {
        let (key, value) = label
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("{label:?} is not a label")).cure("write it as key=value"))?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    let node = args.node_name.as_deref().map(NodeName::parse).transpose();
    let node = node.map_err(|error| Failure::usage("cannot use the node name").because(&error))?;
    let request = TokenRequest { lifetime: args.ttl, uses: args.uses, labels, node };
    let client = args.cluster.client().await?;
    let (token, record) = cluster::create_token(&client, request).await?;
    if matches!(args.output, Output::Json | Output::Yaml) {
        let value =
            json!({ "token": token.reveal(), "id": record.id, "expires": record.expires, "uses": record.uses_left });
        return ui::print_value(args.output, &value);
    }
    ui::line(token.reveal());
    ui::note(format!(
        "valid until {}, for {} machine(s); on the machine: skerry join <hub> --token <token>",
        record.expires, record.uses_left
    ));
    Ok(())
}

/// A token as it is listed: nothing in it is secret.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    state: &'static str,
    uses_left: u32,
    expires: Timestamp,
    created: Timestamp,
    labels: BTreeMap<String, String>,
    node: Option<NodeName>,
}

impl Row {
    fn new(record: TokenRecord, now: Timestamp) -> Self {
        let state = if record.revoked {
            "revoked"
        } else if record.expires <= now {
            "expired"
        } else if record.uses_left == 0 {
            "used up"
        } else {
            "valid"
        };
        Self {
            id: record.id,
            state,
            uses_left: record.uses_left,
            expires: record.expires,
            created: record.created,
            labels: record.labels,
            node: record.node,
        }
    }
}

async fn list(args: ListArgs) -> Result<()> {
    let client = args.cluster.client().await?;
    let now = Timestamp::now();
    let mut rows: Vec<Row> = cluster::tokens(&client).await?.into_iter().map(|r| Row::new(r, now)).collect();
    rows.sort_by_key(|row| row.created);
    let columns = [
        column("ID", "/id"),
        column("STATE", "/state"),
        column("USES-LEFT", "/usesLeft"),
        column("EXPIRES", "/expires"),
        column("LABELS", "/labels"),
        wide("NODE", "/node"),
        wide("CREATED", "/created"),
    ];
    ui::print_list(args.output, &columns, &rows, "no tokens: skerry token create")
}

async fn revoke(args: RevokeArgs) -> Result<()> {
    let client = args.cluster.client().await?;
    let mut missing = Vec::new();
    for id in &args.ids {
        // A whole token is taken too: people copy what they have.
        let id = id.split('.').next().unwrap_or_default();
        if cluster::revoke_token(&client, id).await? {
            ui::note(format!("token {id} is revoked"));
        } else {
            missing.push(id.to_owned());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("no such token: {}", missing.join(", "))).code(exit::NOT_FOUND).cure("skerry token list"))
}

/// Reads `90s`, `30m`, `1h`, `7d`.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration: write 90s, 30m, 1h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| wrong())?;
    let duration = Duration::from_secs(number.saturating_mul(seconds));
    if duration.is_zero() || duration > MAX_LIFETIME {
        return Err(format!("{text:?} is not between 1s and 366d"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(duration("90s").unwrap().as_secs(), 90);
        assert_eq!(duration("7d").unwrap().as_secs(), 604_800);
        for wrong in ["", "1", "h", "-1h", "1w", "0s", "10000d", "1hh", "99999999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_state_of_a_token_is_a_word() {
        let now = Timestamp::now();
        let hash = "a".repeat(64);
        let (_, record) = skerry_identity::Token::generate(&hash, TokenRequest::default(), now).unwrap();
        assert_eq!(Row::new(record.clone(), now).state, "valid");
        assert_eq!(Row::new(TokenRecord { uses_left: 0, ..record.clone() }, now).state, "used up");
        assert_eq!(Row::new(TokenRecord { revoked: true, ..record.clone() }, now).state, "revoked");
        assert_eq!(Row::new(TokenRecord { expires: now, ..record }, now).state, "expired");
    }
}
