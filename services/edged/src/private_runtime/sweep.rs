//! Takes a private runtime away: everything that can be found from its directories and its bridge.
//!
//! Called before a start, at a stop, on drop, and by `skerry down` in another process; blocking, on
//! a blocking thread. The order is: daemon, container processes and shims, mounts and network
//! namespaces, packet filter rules, bridge, control groups, files.
//!
//! Invariants: a process is killed only when its command line names our socket or configuration, or
//! when it descends from such a shim; every step is idempotent and goes on after an error of another.
//! Limits: processes get [`STOP_TIMEOUT`], removal of directories some attempts, because a killed
//! process may hold a mount a moment longer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{CRI_NAMESPACE, RuntimeOptions, STOP_TIMEOUT};
use crate::error::Error;
use crate::mounts::unmount_below;

const POLL: Duration = Duration::from_millis(20);
/// A control group or a directory can be busy for a moment after its last process died.
const ATTEMPTS: usize = 100;
/// The chain of the portmap plugin that all published ports are in.
const PORT_CHAIN: &str = "CNI-HOSTPORT-DNAT";
/// Whether the kernel forwards packets.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// In the state directory: it did not before this runtime was started.
const FORWARDING_NOTE: &str = "forwarding.off";
/// How deep pods lie in a hierarchy: hierarchy, parent, class, pod, container.
const CGROUP_DEPTH: usize = 6;

/// Ends a daemon that an earlier process started with the same configuration file.
pub(super) fn stop_daemon(options: &RuntimeOptions) {
    let config = options.config_path();
    let Some(config) = config.to_str() else { return };
    let daemons: Vec<i32> =
        processes().into_iter().filter(|p| p.is("containerd") && p.has_arg(config)).map(|p| p.pid).collect();
    for pid in &daemons {
        // A frozen process takes the signal only when it goes on.
        let _ = kill(Pid::from_raw(*pid), Signal::SIGTERM);
        let _ = kill(Pid::from_raw(*pid), Signal::SIGCONT);
    }
    let deadline = Instant::now() + STOP_TIMEOUT;
    while daemons.iter().any(|pid| alive(*pid)) {
        if Instant::now() > deadline {
            for pid in &daemons {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            break;
        }
        std::thread::sleep(POLL);
    }
}

/// Waits for a child that was told to end; kills it after `timeout`.
pub(super) fn wait_or_kill(child: &mut Child, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(POLL);
    }
}

/// Removes all pods and all of the runtime but the images. The daemon must have ended.
pub(super) fn sweep(options: &RuntimeOptions) -> Result<(), Error> {
    let ids = container_ids(options);
    kill_shims(options);
    for address in shim_sockets(options) {
        let _ = fs::remove_file(address);
    }
    let _ = unmount_below(&[&options.root, &options.state]);
    remove_rules(&options.bridge);
    remove_port_chains();
    remove_bridge(&options.bridge);
    remove_network_cache(&options.bridge, &ids);
    restore_forwarding(options);
    remove_cgroups(&ids);
    crate::cgroups::remove_root(&options.cgroup_root);
    remove_dir(&options.state)
}

/// Ends all shims with all that runs under them.
pub(super) fn lose_processes(options: &RuntimeOptions) {
    kill_shims(options);
    for address in shim_sockets(options) {
        let _ = fs::remove_file(address);
    }
}

struct Process {
    pid: i32,
    parent: i32,
    args: Vec<String>,
}

impl Process {
    fn is(&self, program: &str) -> bool {
        self.args.first().and_then(|a| a.rsplit('/').next()) == Some(program)
    }

    fn has_arg(&self, arg: &str) -> bool {
        self.args.iter().any(|a| a == arg)
    }
}

fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let args = fs::read(entry.path().join("cmdline")).ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name in brackets may hold anything; the fields after it are plain.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            let args = args.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
            Some(Process { pid, parent, args })
        })
        .collect()
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie is dead; its parent may be somebody else.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn kill_shims(options: &RuntimeOptions) {
    let socket = options.socket();
    let Some(socket) = socket.to_str() else { return };
    let deadline = Instant::now() + STOP_TIMEOUT;
    loop {
        let all = processes();
        let mut doomed: BTreeSet<i32> = all
            .iter()
            .filter(|p| p.args.first().is_some_and(|a| a.contains("containerd-shim")) && p.has_arg(socket))
            .map(|p| p.pid)
            .collect();
        let shims = doomed.clone();
        loop {
            let more: Vec<i32> =
                all.iter().filter(|p| doomed.contains(&p.parent) && !doomed.contains(&p.pid)).map(|p| p.pid).collect();
            if more.is_empty() {
                break;
            }
            doomed.extend(more);
        }
        doomed.retain(|pid| alive(*pid));
        if doomed.is_empty() || Instant::now() > deadline {
            return;
        }
        // Containers first: as long as the shim lives it reaps them, and none escapes to init.
        let children: Vec<i32> = doomed.difference(&shims).copied().collect();
        for pid in if children.is_empty() { doomed.into_iter().collect() } else { children } {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(POLL);
    }
}

fn bundles(options: &RuntimeOptions) -> Vec<PathBuf> {
    let dir = options.state.join("containerd/io.containerd.runtime.v2.task").join(CRI_NAMESPACE);
    fs::read_dir(dir).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

fn container_ids(options: &RuntimeOptions) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for dir in [
        options.state.join("containerd/io.containerd.grpc.v1.cri/containers"),
        options.state.join("containerd/io.containerd.grpc.v1.cri/sandboxes"),
    ] {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        ids.extend(entries.flatten().filter_map(|e| e.file_name().into_string().ok()));
    }
    ids.extend(bundles(options).iter().filter_map(|p| p.file_name()?.to_str().map(str::to_owned)));
    ids.retain(|id| id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    ids
}

/// The shim puts its socket outside of our directories and notes its address in the bundle.
fn shim_sockets(options: &RuntimeOptions) -> Vec<PathBuf> {
    bundles(options)
        .iter()
        .filter_map(|bundle| fs::read_to_string(bundle.join("address")).ok())
        .filter_map(|a| a.trim().strip_prefix("unix://").map(PathBuf::from))
        .filter(|p| p.starts_with("/run/containerd/s"))
        .collect()
}

fn run(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Rules of the bridge and portmap plugins carry the name of the network in their comment.
fn remove_rules(network: &str) {
    let marks = [format!("name: \\\"{network}\\\""), format!("name: {network} ")];
    for program in ["iptables", "ip6tables"] {
        let Some(rules) = run(program, &["-w", "-t", "nat", "-S"]) else { continue };
        let mut chains = BTreeSet::new();
        for line in rules.lines().filter(|l| marks.iter().any(|m| l.contains(m.as_str()))) {
            let words = split_rule(line);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let (Some((&"-A", spec)), Some(jump)) = (words.split_first(), words.iter().position(|w| *w == "-j")) else {
                continue;
            };
            if let Some(target) =
                words.get(jump + 1).filter(|t| t.starts_with("CNI-") && !t.starts_with("CNI-HOSTPORT"))
            {
                chains.insert((*target).to_owned());
            }
            let mut args = vec!["-w", "-t", "nat", "-D"];
            args.extend(spec);
            run(program, &args);
        }
        for chain in &chains {
            run(program, &["-w", "-t", "nat", "-F", chain]);
            run(program, &["-w", "-t", "nat", "-X", chain]);
        }
    }
}

/// The chains that the portmap plugin makes once for all networks, where no network has a port any more.
/// One transaction: it fails as a whole when somebody has just published one.
fn remove_port_chains() {
    for program in ["iptables", "ip6tables"] {
        let Some(rules) = run(program, &["-w", "-t", "nat", "-S"]) else { continue };
        let mut script = String::from("*nat\n");
        let used = |chain: &str| rules.lines().any(|l| l.starts_with(&format!("-A {chain} ")));
        if !rules.lines().any(|l| l == format!("-N {PORT_CHAIN}")) || used(PORT_CHAIN) {
            continue;
        }
        let ours = |l: &&str| l.contains("-j CNI-HOSTPORT-") || l.starts_with("-A CNI-HOSTPORT-");
        for line in rules.lines().filter(ours) {
            script.push_str(&line.replacen("-A ", "-D ", 1));
            script.push('\n');
        }
        for chain in rules.lines().filter_map(|l| l.strip_prefix("-N ")).filter(|c| c.starts_with("CNI-HOSTPORT-")) {
            script.push_str(&format!("-X {chain}\n"));
        }
        script.push_str("COMMIT\n");
        let restore = Command::new(format!("{program}-restore"))
            .args(["-w", "--noflush"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(mut child) = restore {
            if let Some(mut stdin) = child.stdin.take() {
                // A refused script shows in the exit status; then somebody uses the chains.
                let _ = stdin.write_all(script.as_bytes());
            }
            let _ = child.wait();
        }
    }
}

/// Remembers that this machine does not forward packets: the bridge plugin is about to change that.
pub(super) fn note_forwarding(options: &RuntimeOptions) -> Result<(), Error> {
    let note = options.state.join(FORWARDING_NOTE);
    if fs::read_to_string(FORWARDING).is_ok_and(|v| v.trim() == "0") {
        fs::write(&note, "").map_err(|e| Error::io(&note, e))?;
    }
    Ok(())
}

/// Stops forwarding packets if it was our network that began it, and nobody else has a bridge by now.
fn restore_forwarding(options: &RuntimeOptions) {
    let is_bridge = |e: fs::DirEntry| e.path().join("bridge").exists();
    let others = fs::read_dir("/sys/class/net").is_ok_and(|mut all| all.any(|e| e.is_ok_and(is_bridge)));
    if options.state.join(FORWARDING_NOTE).exists() && !others {
        let _ = fs::write(FORWARDING, "0");
    }
}

/// Splits a line of `iptables -S`: words, with quotes and backslashes.
fn split_rule(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => (quoted, any) = (!quoted, true),
            '\\' => word.extend(chars.next()),
            ' ' if !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => word.push(c),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

fn remove_bridge(bridge: &str) {
    if Path::new("/sys/class/net").join(bridge).join("bridge").exists() {
        run("ip", &["link", "delete", bridge, "type", "bridge"]);
    }
}

/// The network library caches results under a fixed path: of our network, and of the loopback of each
/// sandbox, which has the sandbox's id in its name.
fn remove_network_cache(network: &str, sandboxes: &BTreeSet<String>) {
    let Ok(entries) = fs::read_dir("/var/lib/cni/results") else { return };
    let prefix = format!("{network}-");
    let loopback = |name: &str| name.strip_prefix("cni-loopback-")?.strip_suffix("-lo").map(str::to_owned);
    let ours = |name: &str| name.starts_with(&prefix) || loopback(name).is_some_and(|id| sandboxes.contains(&id));
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(ours) {
            let _ = fs::remove_file(entry.path());
        }
    }
    // Succeeds only when nobody else uses it.
    let _ = fs::remove_dir("/var/lib/cni/results");
    let _ = fs::remove_dir("/var/lib/cni");
}

fn remove_cgroups(ids: &BTreeSet<String>) {
    if ids.is_empty() {
        return;
    }
    let mut found = BTreeMap::new();
    find_cgroups(Path::new("/sys/fs/cgroup"), ids, CGROUP_DEPTH, &mut found);
    for path in found.into_keys() {
        remove_cgroup(&path);
        let mut parent = path.parent();
        while let Some(dir) = parent {
            let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let ours = name.starts_with("pod") || matches!(name, "besteffort" | "burstable" | "k8s.io");
            // Not empty: another runtime uses it, and the kernel refuses.
            if !ours || fs::remove_dir(dir).is_err() {
                break;
            }
            parent = dir.parent();
        }
    }
}

fn find_cgroups(dir: &Path, ids: &BTreeSet<String>, depth: usize, found: &mut BTreeMap<PathBuf, ()>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        if entry.file_name().to_str().is_some_and(|n| ids.contains(n)) {
            found.insert(entry.path(), ());
        } else if depth > 0 {
            find_cgroups(&entry.path(), ids, depth - 1, found);
        }
    }
}

fn remove_cgroup(path: &Path) {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            remove_cgroup(&entry.path());
        }
    }
    for _ in 0..ATTEMPTS {
        match fs::remove_dir(path) {
            Err(e) if e.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32) => std::thread::sleep(POLL),
            _ => return,
        }
    }
}

/// Removes a directory; a killed process may hold it for a moment.
pub(super) fn remove_dir(path: &Path) -> Result<(), Error> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => last = Some(e),
        }
        let _ = unmount_below(&[path]);
        std::thread::sleep(POLL);
    }
    last.map_or(Ok(()), |e| Err(Error::io(path, e)))
}

/// The end of a log file, for an error message.
pub(super) fn tail(path: &Path, bytes: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = fs::File::open(path) {
        let len = file.metadata().map(|m| m.len()).unwrap_or_default();
        let _ = file.seek(SeekFrom::Start(len.saturating_sub(bytes)));
        let _ = file.take(bytes).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_split_as_the_shell_would() {
        let words =
            split_rule(r#"-A POSTROUTING -s 10.1.0.2/32 -m comment --comment "name: \"br\" id: \"abc\"" -j CNI-1"#);
        assert_eq!(words.get(7).map(String::as_str), Some(r#"name: "br" id: "abc""#));
        assert_eq!(words.last().map(String::as_str), Some("CNI-1"));
    }
}
