//! Probes of the network: forwarding, bridges, names, the way to the hub, free ports.

use std::fs;
use std::path::Path;

use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::timeout;

use super::{Finding, PATIENCE};

/// All of them.
pub(super) async fn probes(hub: Option<&str>, free_ports: &[u16]) -> Vec<Finding> {
    let mut findings = vec![forwarding(), bridge(), resolver()];
    if let Some(hub) = hub {
        findings.push(reach(hub).await);
    }
    for port in free_ports {
        findings.push(free(*port).await);
    }
    findings
}

fn forwarding() -> Finding {
    if fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|v| v.trim() == "1") {
        Finding::ok("forwarding", "net.ipv4.ip_forward=1")
    } else {
        Finding::warning(
            "forwarding",
            "net.ipv4.ip_forward=0: pods reach this machine only",
            "sysctl -w net.ipv4.ip_forward=1",
        )
    }
}

fn bridge() -> Finding {
    let loaded = fs::read_to_string("/proc/modules").is_ok_and(|m| m.lines().any(|l| l.starts_with("bridge ")));
    if loaded || Path::new("/proc/sys/net/bridge").exists() {
        return Finding::ok("bridge", "the kernel has it");
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = Path::new("/lib/modules").join(release.trim());
    let built_in = fs::read_to_string(modules.join("modules.builtin")).unwrap_or_default();
    if built_in.contains("/bridge.ko") || modules.join("kernel/net/bridge").exists() {
        Finding::ok("bridge", "the kernel has it, built in or as a module")
    } else {
        Finding::warning("bridge", "could not be found out", "modprobe bridge; pods with hostNetwork work without")
    }
}

fn resolver() -> Finding {
    let servers: Vec<String> = fs::read_to_string("/etc/resolv.conf")
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.strip_prefix("nameserver "))
        .map(|s| s.trim().to_owned())
        .collect();
    if servers.is_empty() {
        Finding::warning("dns", "no name server in /etc/resolv.conf", "add one, or use addresses instead of names")
    } else {
        Finding::ok("dns", servers.join(", "))
    }
}

async fn reach(hub: &str) -> Finding {
    let addresses: Vec<_> = match timeout(PATIENCE, lookup_host(hub)).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            return Finding::failed("hub", format!("{hub}: {error}"), "check the name, the port and the name servers");
        }
        Err(_) => return Finding::failed("hub", format!("{hub}: the name servers do not answer"), "check the network"),
    };
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Finding::ok("hub", format!("{address} accepts connections")),
            Ok(Err(error)) => last = format!("{address}: {error}"),
            Err(_) => last = format!("{address}: no answer"),
        }
    }
    Finding::failed("hub", last, "check that the hub runs and that no firewall is in between")
}

async fn free(port: u16) -> Finding {
    match TcpListener::bind(("127.0.0.1", port)).await {
        Ok(_) => Finding::ok("port", format!("{port} is free")),
        Err(error) => Finding::failed("port", format!("{port}: {error}"), "stop who uses it, or choose another port"),
    }
}
