//! Nothing is left: neither by a laboratory that ends, nor by one that is killed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skerry_lab::{Host, Lab, LabError, Site, Topology, lan, pair, sweep};

use crate::probe::LONG;

/// Namespaces of laboratories of this process, or of another one.
fn namespaces(pid: u32) -> BTreeSet<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten();
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&format!("skerry-lab-{pid}-"))).collect()
}

fn output(program: &str, arguments: &[&str]) -> String {
    String::from_utf8(Command::new(program).args(arguments).output().unwrap().stdout).unwrap()
}

/// Rules and links of the machine itself. Counters of rules change by themselves.
fn machine() -> (BTreeSet<String>, BTreeSet<String>) {
    let links = output("ip", &["-o", "link"]);
    let names = links.lines().filter_map(|line| line.split_whitespace().nth(1));
    // Tests of other crates may have theirs at the same time; ours would have one of these names.
    let ours = |name: &&str| {
        ["eth", "wan", "lan", "c", "p"].iter().any(|kind| {
            let number = name.split(['@', ':']).next().and_then(|name| name.strip_prefix(kind));
            number.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
        })
    };
    let rules = output("nft", &["list", "tables"]);
    let rules = rules.lines().filter(|line| line.contains("lab"));
    (names.filter(ours).map(str::to_owned).collect(), rules.map(str::to_owned).collect())
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000");
    command
}

fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn identity(path: &str) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_dropped_laboratory_leaves_nothing() {
    let own = std::process::id();
    let before = machine();
    for topology in [pair(Site::CarrierNat, Site::Symmetric), lan(false), Topology::new()] {
        let lab = Lab::build(&topology).unwrap();
        assert_eq!(namespaces(own).len(), lab.nodes().count());
        assert_eq!(machine(), before, "nothing outside of its namespaces while it is there, either");
    }
    assert_eq!(machine(), before);
    assert_eq!(namespaces(own), BTreeSet::new());
}

#[test]
fn programs_end_with_their_guard_and_with_the_laboratory() {
    let lab = Lab::build(&pair(Site::Public, Site::Public)).unwrap();
    let mut relay = lab.spawn_in("relay-1", sleeper()).unwrap();
    let killed = relay.child().id();
    assert!(runs(killed));
    assert!(!relay.kill().unwrap().success());
    assert!(!runs(killed));
    let dropped = lab.spawn_in("relay-1", sleeper()).unwrap().child().id();
    assert!(!runs(dropped));
    // Also one that nobody waits for.
    let mut forgotten = lab.in_host("left", || sleeper().spawn()).unwrap().unwrap();
    drop(lab);
    assert!(!forgotten.wait().unwrap().success());
}

#[test]
fn a_laboratory_that_cannot_be_built_leaves_nothing() {
    let own = std::process::id();
    // A rate of nothing is refused by `tc`, after the namespaces are there.
    let cable = skerry_lab::Cable { rate: Some(0), ..skerry_lab::Cable::default() };
    let topology = Topology::new().host(Host::public("a")).host(Host::public("b").cable(cable));
    let error = Lab::build(&topology).unwrap_err();
    assert!(matches!(error, LabError::Refused { program: "tc", .. }), "{error}");
    assert_eq!(namespaces(own), BTreeSet::new());
    let lab = Lab::build(&Topology::new().host(Host::public("a"))).unwrap();
    assert!(matches!(lab.address("b"), Err(LabError::Unknown(name)) if name == "b"));
}

#[test]
fn what_a_killed_process_left_is_swept() {
    let program = env!("CARGO_BIN_EXE_lab");
    let arguments = ["pair", "symmetric", "carrier-nat", "--delay", "5", "--", "sleep", "1000"];
    let mut lab = Command::new(program).args(arguments).stderr(Stdio::piped()).spawn().unwrap();
    let pid = lab.id();
    let lines = BufReader::new(lab.stderr.take().unwrap()).lines();
    let seen = lines.map_while(Result::ok).take(8).filter(|line| line.contains("netns")).count();
    assert_eq!(seen, 8, "the internet, three gateways, four hosts");
    let names = namespaces(pid);
    assert_eq!(names.len(), 8);
    let places: Vec<_> = names.iter().filter_map(|name| identity(&format!("/run/netns/{name}"))).collect();
    let programs = || {
        let pids = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| identity(&format!("/proc/{pid}/ns/net")).is_some_and(|of| places.contains(&of))).collect()
    };
    eventually("the program runs", || Vec::len(&programs()) == 1);
    let program = programs()[0];
    // While its process lives nobody touches it.
    assert!(sweep().unwrap().iter().all(|name| !names.contains(name)));
    assert_eq!(namespaces(pid), names);
    lab.kill().unwrap();
    eventually("it is dead", || !runs(pid));
    // Also before somebody has waited for it. Another test may be faster than this one: what counts is the result.
    sweep().unwrap();
    assert_eq!(namespaces(pid), BTreeSet::new());
    eventually("the program is killed", || !runs(program));
    lab.wait().unwrap();
}

#[test]
fn the_program_ends_with_its_own_code_or_a_signal_and_cleans_up() {
    let lab = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let run = ["lan", "--no-multicast", "--in", "right", "--", "ip", "-4", "-brief", "address"];
    let output = lab(&run).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("192.168.1.12/24"), "{text}");
    assert_eq!(lab(&["carrier", "--hairpin", "--", "false"]).output().unwrap().status.code(), Some(1));
    assert_eq!(lab(&["sites"]).output().unwrap().stdout.split(|b| *b == b'\n').count(), Site::ALL.len() + 1);

    let mut waiting = lab(&["pair", "public", "full-cone"]).spawn().unwrap();
    let pid = waiting.id();
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("netns"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGINT).unwrap();
    let began = Instant::now();
    while waiting.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(30), "it goes on");
        std::thread::yield_now();
    }
    assert_eq!(namespaces(pid), BTreeSet::new());
}
