//! The command line: one subcommand per thing to do, `--kebab-case` flags, exit codes.
//!
//! Each command's flags are in its own module; this one lists the commands and calls them.

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::ui::{self, Output};
use crate::{check, devices, edge, join, mapper, reset, status};
#[cfg(feature = "cloud")]
use crate::{cloud, down, net, node, runtime, token, up};

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 not found, 3 refused, 4 unreachable or too late, 64 wrong usage.";

/// Extends Kubernetes to machines outside the data centre.
#[derive(Debug, Parser)]
#[command(name = "skerry", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// What is logged, for example `info,skerry_cloudhub=debug`.
    #[arg(long, global = true, env = "SKERRY_LOG", hide_env_values = true)]
    pub(crate) log_filter: Option<String>,
    /// Log lines as JSON.
    #[arg(long, global = true, env = "SKERRY_LOG_JSON")]
    pub(crate) log_json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a whole system on this machine, on an embedded control plane.
    #[cfg(feature = "cloud")]
    Up(up::UpArgs),
    /// Stop what `up` started, and leave nothing behind.
    #[cfg(feature = "cloud")]
    Down(down::DownArgs),
    /// Make this machine a node.
    Join(join::JoinArgs),
    /// Undo `join`.
    Reset(reset::ResetArgs),
    /// Run the services of a node: edgehub and edged in one process.
    Edge(edge::EdgeArgs),
    /// Run the embedded control plane and the cloud services in one process.
    #[cfg(feature = "cloud")]
    Cloud(cloud::CloudArgs),
    /// Run a private containerd (used by `up`).
    #[cfg(feature = "cloud")]
    #[command(hide = true)]
    Runtime(runtime::RuntimeArgs),
    /// Make, list and revoke join tokens.
    #[cfg(feature = "cloud")]
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Throw nodes out.
    #[cfg(feature = "cloud")]
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Show how the control plane and the nodes are, or how this node is.
    Status(status::StatusArgs),
    /// Show devices and mappers of this node.
    #[command(subcommand)]
    Get(devices::GetCommand),
    /// Show all about a device of this node.
    #[command(subcommand)]
    Describe(devices::DescribeCommand),
    /// Read a device of this node now.
    #[command(subcommand)]
    Read(devices::ReadCommand),
    /// Set what a device of this node shall have.
    #[command(subcommand)]
    Set(devices::SetCommand),
    /// Follow the devices of this node.
    #[command(subcommand)]
    Watch(devices::WatchCommand),
    /// Show what is missing on this machine, and how to mend it.
    Check(check::CheckArgs),
    /// Make mappers.
    #[command(subcommand)]
    Mapper(mapper::MapperCommand),
    /// Show bytes by node and kind.
    #[cfg(feature = "cloud")]
    Net(net::NetArgs),
    /// Show the version.
    Version(VersionArgs),
    /// Print a completion script.
    Completion(CompletionArgs),
}

/// Options of `skerry version`.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Options of `skerry completion`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell.
    shell: Shell,
}

impl Command {
    /// Whether the command is a service that logs, rather than a tool that prints.
    pub(crate) fn is_service(&self) -> bool {
        match self {
            #[cfg(feature = "cloud")]
            Self::Up(args) => args.stays(),
            #[cfg(feature = "cloud")]
            Self::Cloud(_) | Self::Runtime(_) => true,
            Self::Edge(_) => true,
            _ => false,
        }
    }

    /// Does it.
    pub(crate) async fn run(self) -> Result<()> {
        match self {
            #[cfg(feature = "cloud")]
            Self::Up(args) => up::run(args).await,
            #[cfg(feature = "cloud")]
            Self::Down(args) => down::run(args).await,
            Self::Join(args) => join::run(args).await,
            Self::Reset(args) => reset::run(args).await,
            Self::Edge(args) => edge::run(args).await,
            #[cfg(feature = "cloud")]
            Self::Cloud(args) => cloud::run(args).await,
            #[cfg(feature = "cloud")]
            Self::Runtime(args) => runtime::run(args).await,
            #[cfg(feature = "cloud")]
            Self::Token(command) => token::run(command).await,
            #[cfg(feature = "cloud")]
            Self::Node(command) => node::run(command).await,
            Self::Status(args) => status::run(args).await,
            Self::Get(command) => devices::get(command).await,
            Self::Describe(command) => devices::describe(command).await,
            Self::Read(command) => devices::read(command).await,
            Self::Set(command) => devices::set(command).await,
            Self::Watch(command) => devices::watch(command).await,
            Self::Check(args) => check::run(args).await,
            Self::Mapper(command) => mapper::run(command),
            #[cfg(feature = "cloud")]
            Self::Net(args) => net::run(args).await,
            Self::Version(args) => version(&args),
            Self::Completion(args) => completion(args.shell),
        }
    }
}

fn version(args: &VersionArgs) -> Result<()> {
    let version = skerry_telemetry::VERSION;
    if matches!(args.output, Output::Json | Output::Yaml) {
        return ui::print_value(args.output, &json!({ "version": version, "architecture": std::env::consts::ARCH }));
    }
    ui::line(format!("skerry {version} ({})", std::env::consts::ARCH));
    Ok(())
}

fn completion(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "skerry", &mut script);
    let script = String::from_utf8(script).map_err(|error| Failure::new("cannot print the script").because(&error))?;
    ui::line(script.trim_end());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_kebab_case_and_documented() {
        fn look(command: &clap::Command) {
            for argument in command.get_arguments() {
                if let Some(long) = argument.get_long() {
                    assert!(long.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{long}");
                }
                assert!(argument.get_help().is_some(), "{}: {}", command.get_name(), argument.get_id());
            }
            assert!(command.get_about().is_some(), "{}", command.get_name());
            command.get_subcommands().for_each(look);
        }
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        look(&command);
    }

    #[test]
    fn every_shell_has_a_script() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "skerry", &mut script);
            for word in ["revoke", "describe", "all-namespaces"] {
                assert!(String::from_utf8_lossy(&script).contains(word), "{shell}: {word}");
            }
        }
    }
}
