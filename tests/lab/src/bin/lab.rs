//! `lab`: builds a topology, runs a program in one of its hosts, and removes everything when that ends.
//!
//! Without a program it keeps the topology until it is interrupted, and says how to enter its namespaces. A killed
//! one is cleaned up after by the next.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use skerry_lab::{Cable, Faults, Lab, Place, Process, Site, Topology, lan, pair, shared_carrier, sweep};
use tokio::signal::unix::{SignalKind, signal};

/// How often it looks whether the program has ended.
const POLL: Duration = Duration::from_millis(20);

/// A topology of networks and NATs, and a program in it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The names of all sites.
    Sites,
    /// Removes what killed runs left.
    Sweep,
    /// `left` and `right` at a site each.
    Pair {
        /// The site of `left`.
        left: Site,
        /// The site of `right`.
        right: Site,
        #[command(flatten)]
        run: Run,
    },
    /// `left` and `right` in homes behind one carrier.
    Carrier {
        /// The carrier's NAT does hair-pinning.
        #[arg(long)]
        hairpin: bool,
        #[command(flatten)]
        run: Run,
    },
    /// `left` and `right` in one network.
    Lan {
        /// Multicast reaches nobody.
        #[arg(long)]
        no_multicast: bool,
        #[command(flatten)]
        run: Run,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// The host to run the program in: left, right, relay-1 or relay-2.
    #[arg(long = "in", default_value = "left")]
    host: String,
    /// The largest packet of the cables to the internet, in bytes.
    #[arg(long, default_value_t = 1500)]
    mtu: u16,
    /// Their rate in kilobits a second.
    #[arg(long)]
    rate: Option<u32>,
    /// Their delay in milliseconds, one way.
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// Up to this much is added to it.
    #[arg(long, default_value_t = 0)]
    jitter: u64,
    /// Packets of 1,000 that they lose.
    #[arg(long, default_value_t = 0)]
    loss: u16,
    /// Packets of 1,000 that they reorder.
    #[arg(long, default_value_t = 0)]
    reorder: u16,
    /// Same seed, same losses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true)]
    program: Vec<String>,
}

impl Run {
    fn cable(&self) -> Cable {
        let faults = Faults {
            delay: Duration::from_millis(self.delay),
            jitter: Duration::from_millis(self.jitter),
            loss_per_mille: self.loss,
            reorder_per_mille: self.reorder,
            seed: self.seed,
        };
        let any = Faults { seed: self.seed, ..Faults::default() } != faults;
        Cable { mtu: self.mtu, rate: self.rate, faults: any.then_some(faults) }
    }

    /// Puts the cable everywhere but at the relays.
    fn apply(&self, mut topology: Topology) -> Topology {
        let uplinks = topology.networks.iter_mut().filter_map(|network| network.uplink.as_mut());
        for uplink in uplinks.filter(|uplink| uplink.to == Place::Internet) {
            uplink.cable = self.cable();
        }
        for host in topology.hosts.iter_mut().filter(|h| h.at == Place::Internet && !h.name.starts_with("relay-")) {
            host.cable = self.cable();
        }
        topology
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    let (topology, run) = match Arguments::parse().what {
        What::Sites => {
            for site in Site::ALL {
                writeln!(out, "{site}")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        What::Sweep => {
            for name in sweep()? {
                writeln!(out, "removed {name}")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        What::Pair { left, right, run } => (pair(left, right), run),
        What::Carrier { hairpin, run } => (shared_carrier(hairpin), run),
        What::Lan { no_multicast, run } => (lan(!no_multicast), run),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work(&run.apply(topology), &run))
}

async fn work(topology: &Topology, run: &Run) -> anyhow::Result<ExitCode> {
    // Before anything is built: from here on a signal ends the wait below, and what was built is removed.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let lab = Lab::build(topology)?;
    let mut err = std::io::stderr();
    for node in lab.nodes() {
        let addresses = lab.addresses(node).unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>();
        writeln!(err, "{node:14} ip netns exec {} ...  {}", lab.namespace(node)?, addresses.join(" "))?;
    }
    let Some((program, arguments)) = run.program.split_first() else {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        return Ok(ExitCode::SUCCESS);
    };
    let mut command = Command::new(program);
    command.args(arguments);
    let mut process = lab.spawn_in(&run.host, command).context("the program cannot be started")?;
    // The terminal has sent an interrupt to the program as well, which decides what it means.
    let ignore = async { while interrupt.recv().await.is_some() {} };
    tokio::select! {
        code = ended(&mut process) => code,
        () = ignore => Ok(ExitCode::FAILURE),
        _ = terminate.recv() => Ok(ExitCode::FAILURE),
        _ = hangup.recv() => Ok(ExitCode::FAILURE),
    }
}

async fn ended(process: &mut Process) -> anyhow::Result<ExitCode> {
    let status = loop {
        if let Some(status) = process.child().try_wait()? {
            break status;
        }
        tokio::time::sleep(POLL).await;
    };
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}
