//! `skerry read device`: what the device has now, asked of its mapper. The last known values are `skerry get device`.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use skerry_common::exit;

use super::client::Devices;
use super::{WhichArgs, describe, set, show};
use crate::failure::{Failure, Result};
use crate::ui::{self, Output};

/// Options of `skerry read device`.
#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// Which device.
    #[command(flatten)]
    which: WhichArgs,
    /// Which properties; all without them.
    properties: Vec<String>,
    /// How long the device may take: 5s, 1m; a minute at most.
    #[arg(long, default_value = "5s", value_parser = set::patience)]
    timeout: Duration,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Reads, and prints. Fails when none of the values is good.
pub(super) async fn run(args: ReadArgs) -> Result<()> {
    let key = args.which.key();
    let mut devices = Devices::connect(&args.which.node).await?;
    let twins = devices.read(&key, args.properties, args.timeout).await?;
    if matches!(args.output, Output::Json | Output::Yaml) {
        ui::print_value(args.output, &twins.iter().map(show::twin).collect::<Vec<_>>())?;
    } else {
        let now = Timestamp::now();
        let rows: Vec<_> = twins.iter().map(|twin| describe::twin(twin, now)).collect();
        ui::print_list(args.output, describe::READINGS, &rows, "the device has no properties")?;
    }
    if !twins.is_empty() && twins.iter().all(|twin| show::quality(twin) != "Good") {
        let failure = Failure::new(format!("nothing could be read of the device {}", show::named(&key)));
        return Err(failure.code(exit::UNREACHABLE));
    }
    Ok(())
}
