//! More values than sinks take: the memory of the process and the bytes of the spool, measured, and every value
//! accounted for.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::json;
use skerry_mapper_sdk::{DataPlane as _, DataPlaneConfig, DataType, Definition, Value};
use tokio::process::Command;

use crate::server::{Server, once};
use crate::support::{BEGIN, Fixture, device, eventually};

/// Names of variables by which a test tells its process what to do.
const FOLDER: &str = "SKERRY_TEST_LOAD_SPOOL";
const PORTS: &str = "SKERRY_TEST_LOAD_PORTS";
const SINKS: usize = 4;
/// Values for each sink, and the bytes of one.
const VALUES: i64 = 40_000;
const LENGTH: usize = 1_000;
/// Most bytes that wait for one sink on disk.
const SPOOL_BYTES: u64 = 1024 * 1024;
/// The log of the spool's database: a checkpoint comes after 4 MiB.
const LOG_BYTES: u64 = 4 * 1024 * 1024;
/// Most memory that the values may cost, kB: for each sink 4 MiB that wait, as many that are being written down, and
/// a batch, unoptimised. All of them are 160 MB.
const MEMORY: u64 = 64 * 1024;

fn text(number: i64) -> Value {
    Value::Text(format!("{number:0LENGTH$}"))
}

/// `d<at>` and the server that its values go to.
fn devices(ports: &[u16]) -> Vec<Arc<Definition>> {
    let push = |port: u16| json!({"http": {"hostName": "127.0.0.1", "port": port, "timeout": 30_000}});
    let one = |(at, port): (usize, &u16)| device(&format!("d{at}"), DataType::String, &push(*port));
    ports.iter().enumerate().map(one).collect()
}

fn fixture(folder: &Path) -> Fixture {
    let config = DataPlaneConfig {
        folder: Some(folder.to_owned()),
        spool_bytes: Some(SPOOL_BYTES),
        ..DataPlaneConfig::default()
    };
    Fixture::with(config, Default::default())
}

/// What this process had in memory at most, kB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The process that is measured: started by the tests below, and nothing by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapper_under_load() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let ports: Vec<u16> =
        std::env::var(PORTS).unwrap().split_terminator(',').map(|port| port.parse().unwrap()).collect();
    let (before, mut kept) = (peak(), Vec::new());
    let fixture = fixture(Path::new(&folder));
    let devices = devices(&ports);
    devices.iter().for_each(|device| fixture.define(device));
    for number in 0..VALUES {
        for device in &devices {
            fixture.plane.record(device, 0, &text(number), BEGIN + number);
        }
        if devices.is_empty() {
            kept.extend((0..SINKS).map(|_| text(number)));
        }
        if number % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    fixture.plane.close().await;
    println!("\nmeasured {} {}", peak() - before, fixture.count("dropped"));
}

/// The memory that the values cost a process, kB, and how many it has dropped.
async fn measured(folder: &Path, ports: &[u16]) -> (u64, u64) {
    let ports: String = ports.iter().map(|port| format!("{port},")).collect();
    let process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "load::a_mapper_under_load", "--nocapture"])
        .env(FOLDER, folder)
        .env(PORTS, ports)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = process.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.strip_prefix("measured ")).unwrap_or_else(|| panic!("{said}"));
    let (memory, dropped) = line.split_once(' ').unwrap();
    (memory.parse().unwrap(), dropped.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_that_hang_cost_bounded_memory_and_disk_and_every_value_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    // They accept, by the kernel, and never answer.
    let hung: Vec<_> = (0..SINKS).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> = hung.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    let (memory, dropped) = measured(folder.path(), &ports).await;
    assert!(memory <= MEMORY, "{memory} kB");
    let bytes: u64 =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    println!("{memory} kB of memory, {bytes} bytes on disk, {dropped} values dropped");
    // Pages are not full, and the log has what all sinks have written since its last checkpoint.
    let most = 2 * SPOOL_BYTES * SINKS as u64 + LOG_BYTES;
    assert!(bytes <= most, "{bytes} bytes on disk");
    // The sinks are back: they get what was not dropped, in order, and it is the newest.
    drop(hung);
    let mut servers = Vec::new();
    for port in &ports {
        servers.push(Server::on(*port, |_| StatusCode::OK).await);
    }
    let next = fixture(folder.path());
    devices(&ports).iter().for_each(|device| next.define(device));
    let left = u64::try_from(VALUES).unwrap() * SINKS as u64 - dropped;
    let got = || servers.iter().map(|server| once(server.numbers())).collect::<Vec<_>>();
    let all = eventually(async || (next.count("delivered") >= left).then(got)).await;
    let all = all.unwrap_or_else(|| panic!("{} of {left} came", next.count("delivered")));
    assert_eq!(all.iter().map(|numbers| numbers.len() as u64).sum::<u64>(), left, "{dropped} were dropped");
    for numbers in all {
        assert_eq!(numbers, (numbers[0]..VALUES).collect::<Vec<_>>());
    }
    assert_eq!(next.count("dropped"), 0);
}

/// The same values where nothing bounds them: the measurement sees them.
#[tokio::test]
async fn control_without_a_bound_the_values_are_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (memory, _) = measured(folder.path(), &[]).await;
    assert!(memory > 2 * MEMORY, "{memory} kB");
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the sink is slow, on a thread that nobody else waits for")]
async fn a_slow_sink_gets_everything_in_order_while_more_comes_than_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(folder.path());
    // It takes at most 200 a second, and is handed 1,000 at once.
    let slow = Server::on(0, |_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        StatusCode::OK
    });
    let server = slow.await;
    let counter = device("counter", DataType::Int, &json!({"http": {"hostName": "127.0.0.1", "port": server.port}}));
    fixture.define(&counter);
    fixture.record(&counter, 0..1000);
    // Slow is not away: what waits for longer than a moment is on disk, and nothing else happens.
    fixture.until("spooled", 1).await;
    fixture.record(&counter, 1000..1500);
    fixture.until("delivered", 1500).await;
    assert_eq!(once(server.numbers()), (0..1500).collect::<Vec<_>>());
    assert_eq!((fixture.count("dropped"), fixture.count("failures")), (0, 0));
}
