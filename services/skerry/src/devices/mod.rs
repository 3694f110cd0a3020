//! `skerry get|describe|read|set|watch`: the devices and mappers of this node, with or without the cloud.
//!
//! Everything is asked of dmi on the node's socket, and shown as dmi has it: a value that is not fresh is
//! shown as such, with its age. What devices and mappers say is text of others: control characters in it do
//! not reach the terminal.

mod client;
mod describe;
mod near;
mod read;
mod set;
mod show;
mod watch;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use skerry_proto::dmi::v1 as pb;

use crate::failure::Result;
use crate::ui::{self, Output};

use self::client::Devices;

/// The commands of `skerry get`.
#[derive(Debug, Subcommand)]
pub(crate) enum GetCommand {
    /// List the devices of this node.
    Devices(ListArgs),
    /// Show one device.
    Device(DeviceArgs),
    /// List the mappers that this node knows.
    Mappers(MappersArgs),
}

/// The commands of `skerry describe`.
#[derive(Debug, Subcommand)]
pub(crate) enum DescribeCommand {
    /// Show all about a device: twins, conditions, problems.
    Device(DescribeArgs),
}

/// The commands of `skerry read`.
#[derive(Debug, Subcommand)]
pub(crate) enum ReadCommand {
    /// Ask the mapper of a device for what it has now.
    Device(read::ReadArgs),
}

/// The commands of `skerry set`.
#[derive(Debug, Subcommand)]
pub(crate) enum SetCommand {
    /// Set desired values; each holds until the cloud changes that property.
    Device(set::SetArgs),
}

/// The commands of `skerry watch`.
#[derive(Debug, Subcommand)]
pub(crate) enum WatchCommand {
    /// Show each device, then each that changes.
    Devices(ListArgs),
}

/// Which node.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeArgs {
    /// Socket of the node's devices; found by itself from the node's configuration.
    #[arg(long, conflicts_with = "data_dir")]
    pub(crate) socket: Option<PathBuf>,
    /// Directory of the node's state, as `skerry join` wrote it.
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Options of the commands that list devices.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this namespace.
    #[arg(long, short, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// All namespaces.
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Which node.
    #[command(flatten)]
    node: NodeArgs,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

impl ListArgs {
    /// As the service has it: empty for all.
    fn namespace(&self) -> String {
        if self.all_namespaces { String::new() } else { self.namespace.clone() }
    }
}

/// Which device.
#[derive(Debug, Clone, Args)]
pub(crate) struct WhichArgs {
    /// Name of the device.
    name: String,
    /// Its namespace.
    #[arg(long, short, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// Which node.
    #[command(flatten)]
    node: NodeArgs,
}

impl WhichArgs {
    fn key(&self) -> pb::DeviceKey {
        pb::DeviceKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// Options of `skerry get device`.
#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// Which device.
    #[command(flatten)]
    which: WhichArgs,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Options of `skerry describe device`.
#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// Which device.
    #[command(flatten)]
    which: WhichArgs,
}

/// Options of `skerry get mappers`.
#[derive(Debug, Args)]
pub(crate) struct MappersArgs {
    /// Which node.
    #[command(flatten)]
    node: NodeArgs,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// kubectl's.
const DEFAULT_NAMESPACE: &str = "default";

/// `skerry get`.
pub(crate) async fn get(command: GetCommand) -> Result<()> {
    match command {
        GetCommand::Devices(args) => {
            let views = Devices::connect(&args.node).await?.list(&args.namespace()).await?;
            let empty = if args.all_namespaces {
                "no devices on this node".into()
            } else {
                format!("no devices in the namespace {}: -A shows all", args.namespace)
            };
            print(args.output, args.all_namespaces, &views, &empty)
        }
        GetCommand::Device(args) => {
            let view = Devices::connect(&args.which.node).await?.get(&args.which.key()).await?;
            if matches!(args.output, Output::Json | Output::Yaml) {
                return ui::print_value(args.output, &show::device(&view));
            }
            print(args.output, false, &[view], "")
        }
        GetCommand::Mappers(args) => {
            let mappers = Devices::connect(&args.node).await?.mappers().await?;
            let shown: Vec<_> = mappers.iter().map(show::mapper).collect();
            if matches!(args.output, Output::Json | Output::Yaml) {
                return ui::print_value(args.output, &shown);
            }
            let now = Timestamp::now();
            let rows: Vec<_> = mappers.iter().map(|mapper| show::mapper_row(mapper, now)).collect();
            ui::print_list(args.output, show::MAPPERS, &rows, "no mapper has registered on this node")
        }
    }
}

fn print(output: Output, namespaces: bool, views: &[pb::DeviceView], empty: &str) -> Result<()> {
    if matches!(output, Output::Json | Output::Yaml) {
        let shown: Vec<_> = views.iter().map(show::device).collect();
        return ui::print_value(output, &shown);
    }
    let now = Timestamp::now();
    let rows: Vec<_> = views.iter().map(|view| show::row(view, now)).collect();
    ui::print_list(output, &show::columns(namespaces), &rows, empty)
}

/// `skerry describe`.
pub(crate) async fn describe(command: DescribeCommand) -> Result<()> {
    let DescribeCommand::Device(args) = command;
    let view = Devices::connect(&args.which.node).await?.get(&args.which.key()).await?;
    for line in describe::lines(&view, Timestamp::now()) {
        ui::line(line);
    }
    Ok(())
}

/// `skerry read`.
pub(crate) async fn read(command: ReadCommand) -> Result<()> {
    let ReadCommand::Device(args) = command;
    read::run(args).await
}

/// `skerry set`.
pub(crate) async fn set(command: SetCommand) -> Result<()> {
    let SetCommand::Device(args) = command;
    set::run(args).await
}

/// `skerry watch`.
pub(crate) async fn watch(command: WatchCommand) -> Result<()> {
    let WatchCommand::Devices(args) = command;
    watch::run(&args).await
}
