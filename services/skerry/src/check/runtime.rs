//! Probes of the container runtime: socket, programs, network plugins.

use std::path::{Path, PathBuf};

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Finding, PATIENCE};

/// Where runtimes listen, in the order in which they are tried.
pub(crate) const SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/cri-dockerd.sock",
];
/// Where network plugins are installed.
const PLUGIN_DIRECTORIES: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
const PLUGINS: [&str; 3] = ["bridge", "host-local", "loopback"];

/// The path of an endpoint such as `unix:///run/containerd/containerd.sock`.
pub(crate) fn socket_path(endpoint: &str) -> PathBuf {
    endpoint.strip_prefix("unix://").unwrap_or(endpoint).into()
}

/// Whether a runtime answers.
pub(super) async fn socket(endpoint: Option<&str>) -> Finding {
    let candidates: Vec<PathBuf> = match endpoint {
        Some(endpoint) => vec![socket_path(endpoint)],
        None => SOCKETS.iter().map(PathBuf::from).collect(),
    };
    let fix = "install and start containerd or CRI-O, or name its socket with --runtime-endpoint";
    let mut tried = Vec::new();
    for path in candidates {
        match timeout(PATIENCE, UnixStream::connect(&path)).await {
            Ok(Ok(_)) => return Finding::ok("runtime", format!("{} accepts connections", path.display())),
            Ok(Err(error)) if path.exists() => tried.push(format!("{}: {error}", path.display())),
            Ok(Err(_)) => {}
            Err(_) => tried.push(format!("{}: no answer", path.display())),
        }
    }
    let detail = if tried.is_empty() { "no CRI socket was found".to_owned() } else { tried.join("; ") };
    Finding::failed("runtime", detail, fix)
}

/// Whether the programs of a runtime are installed.
pub(super) fn programs() -> Vec<Finding> {
    let mut findings = Vec::new();
    let runc = ["runc", "crun", "youki"].into_iter().find_map(find);
    findings.push(match runc {
        Some(path) => Finding::ok("oci-runtime", path.display().to_string()),
        None => Finding::warning("oci-runtime", "runc is not in the path", "apt-get install runc"),
    });
    let has = |plugin: &str| PLUGIN_DIRECTORIES.iter().find(|d| Path::new(d).join(plugin).exists());
    let missing: Vec<_> = PLUGINS.into_iter().filter(|p| has(p).is_none()).collect();
    findings.push(match (missing.is_empty(), has("bridge")) {
        (true, Some(directory)) => Finding::ok("cni", format!("plugins in {directory}")),
        _ => Finding::warning(
            "cni",
            format!("missing plugins: {}", missing.join(", ")),
            "apt-get install containernetworking-plugins; pods with hostNetwork work without",
        ),
    });
    findings
}

/// Looks a program up as `execvp` would, and where root's programs are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let also = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(also).map(|d| d.join(program)).find(|p| p.is_file())
}
