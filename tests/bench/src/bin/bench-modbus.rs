//! `make bench-modbus`: the Modbus mapper between devices that answer at once and a node that counts: points a
//! second, memory and processor time, requests for registers in a row, and how soon values are back after the
//! cable was pulled. Needs root, for the cable.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use skerry_bench::figures::{Figures, percentile};
use skerry_bench::modbus::{Asked, Cable, Node, device_of, serve};
use skerry_bench::proc::{Process, binaries};
use skerry_bench::say;
use tokio::time::{Instant, sleep};

/// The first port of the devices.
const PORT: u16 = 5_020;
/// Units behind one port.
const UNITS: usize = 10;
/// Registers of a device.
const POINTS: u16 = 500;
/// How often they are read.
const CYCLE: Duration = Duration::from_secs(1);
/// Cycle of the device whose cable is pulled.
const FAST: Duration = Duration::from_millis(100);
/// How long a step may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// A value that was under way when the cable was pulled has arrived after so long.
const UNDER_WAY: Duration = Duration::from_millis(250);
/// What the mapper may take: megabytes, and cores.
const MEMORY: f64 = 100.0;
const CORES: f64 = 1.0;
/// Requests for 500 registers in a row, of 125 at most.
const REQUESTS: f64 = 4.0;
/// How soon values are back, seconds.
const BACK: f64 = 2.0;
/// After so many pulls the person who waits hears of them.
const PROGRESS: u64 = 10;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Rate,
    Pull,
}

/// Measures the Modbus mapper.
#[derive(Parser)]
struct Args {
    /// Parts to run; all without
    #[arg(long, value_enum)]
    part: Vec<Part>,
    /// The mapper; the one beside this program without
    #[arg(long)]
    program: Option<PathBuf>,
    /// Points a second; a fiftieth more are there to be read
    #[arg(long, default_value_t = 50_000)]
    points: usize,
    /// Seconds over which they are counted
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// How often the cable is pulled
    #[arg(long, default_value_t = 100)]
    pulls: u64,
}

fn main() -> ExitCode {
    skerry_bench::exit(skerry_bench::run(bench(Args::parse())))
}

async fn bench(args: Args) -> anyhow::Result<()> {
    let program = match args.program {
        Some(program) => std::path::absolute(program)?,
        None => binaries()?.join("skerry-mapper-modbus"),
    };
    let mut figures = Figures::default();
    let wanted = |part| args.part.is_empty() || args.part.contains(&part);
    if wanted(Part::Rate) {
        rate(&program, args.points, args.seconds, &mut figures).await?;
    }
    if wanted(Part::Pull) {
        pull(&program, args.pulls, &mut figures).await?;
    }
    figures.verdict()
}

/// The mapper at its end of the cable.
fn mapper(program: &Path, cable: &Cable, node: &Node, folder: &Path) -> anyhow::Result<Process> {
    let config = folder.join("config.yaml");
    let socket = node.socket().to_str().context("a path of letters")?;
    let own = folder.join("own.sock");
    let text = format!(
        "grpc_server:\n  socket_path: {}\ncommon:\n  edgecore_sock: {socket}\nrest:\n  enabled: false\n",
        own.display()
    );
    std::fs::write(&config, text)?;
    let program = [program.to_str(), Some("--config-file"), config.to_str()];
    let program: Vec<&str> = program.into_iter().collect::<Option<_>>().context("paths of letters")?;
    Process::start(Path::new("ip"), &cable.run(&program), folder)
}

async fn rate(program: &Path, points: usize, seconds: u64, figures: &mut Figures) -> anyhow::Result<()> {
    let cable = Cable::new()?;
    let folder = tempfile::tempdir()?;
    let asked = Arc::new(Asked::default());
    let mut devices = Vec::new();
    // What is read in each second is all that there is: without some more, a late packet would be a missed target.
    for at in 0..(points + points / 50).div_ceil(usize::from(POINTS)) {
        let port = PORT + u16::try_from(at / UNITS)?;
        if at % UNITS == 0 {
            serve(cable.listen(port)?, Arc::clone(&asked));
        }
        devices.push(device_of(&format!("meter-{at}"), port, u8::try_from(at % UNITS + 1)?, POINTS, CYCLE));
    }
    let count = devices.len();
    say(&format!("{count} devices of {POINTS} registers, each second"));
    let mut node = Node::start(folder.path(), devices).await?;
    let mapper = mapper(program, &cable, &node, folder.path())?;
    node.next(PATIENCE).await?;
    // The devices are set up, and each was read a few times.
    sleep(CYCLE * 5).await;
    let (good, begun) = (node.seen().good, Instant::now());
    let cpu = mapper.cpu_share(Duration::from_secs(seconds)).await?;
    let took = begun.elapsed().as_secs_f64();
    let (good, (rounds, requests)) = (node.seen().good - good, asked.so_far());
    // A measurement of a minute at most: all are far below 2^53.
    #[expect(clippy::cast_precision_loss)]
    let [good, rounds, requests, target] = [good, rounds, requests, points as u64].map(|count| count as f64);
    figures.at_least("modbus: points reported", good / took, "points/s", target);
    figures.at_most("modbus: memory of the mapper", mapper.resident_kib()? * 1.024e-3, "MB", MEMORY);
    figures.info("modbus: memory of the mapper at its most", mapper.peak_kib()? * 1.024e-3, "MB");
    figures.at_most("modbus: processor of the mapper", cpu, "cores", CORES);
    figures.info("modbus: reads of 500 registers in a row", rounds, "reads");
    figures.at_most("modbus: requests of one of them, the most", requests, "requests", REQUESTS);
    Ok(())
}

async fn pull(program: &Path, pulls: u64, figures: &mut Figures) -> anyhow::Result<()> {
    let cable = Cable::new()?;
    let folder = tempfile::tempdir()?;
    serve(cable.listen(PORT)?, Arc::default());
    let devices = vec![device_of("meter", PORT, 1, 20, FAST)];
    let mut node = Node::start(folder.path(), devices).await?;
    let _mapper = mapper(program, &cable, &node, folder.path())?;
    node.next(PATIENCE).await?;
    say(&format!("the cable is pulled {pulls} times, for 0.5 to 5 seconds"));
    let mut back = Vec::new();
    for turn in 0..pulls {
        node.next(PATIENCE).await?;
        cable.pull()?;
        sleep(UNDER_WAY).await;
        let before = node.seen().good;
        // Spread evenly, in an order that repeats only after all lengths.
        sleep(Duration::from_millis(250 + (turn * 1_370) % 4_500)).await;
        anyhow::ensure!(node.seen().good == before, "values came over a cable that was pulled");
        cable.plug()?;
        let plugged = Instant::now();
        let first = node.next(PATIENCE).await?;
        back.push(first.duration_since(plugged).as_secs_f64());
        if (turn + 1) % PROGRESS == 0 {
            say(&format!("pulled {} times", turn + 1));
        }
    }
    figures.info("modbus: pulls of the cable", pulls as f64, "");
    figures.info("modbus: values back after a pulled cable, p50", percentile(&mut back, 0.5), "s");
    figures.at_most("modbus: values back after a pulled cable, longest", percentile(&mut back, 1.0), "s", BACK);
    Ok(())
}
