//! The limit of all pods together: the machine without what is reserved.
//!
//! Called by the node's task when it looks; blocking, a few small files, written only when they
//! differ. The group is the one above all pods; without it (a runtime whose control groups are not
//! known, a driver that keeps them itself) nothing is done. Invariants: a limit below what is in use
//! now is not set, because the kernel would kill for it; what is not reserved is not limited.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cgroups::Driver;
use crate::node_config::NodeConfig;
use crate::stats::cgroup::{MOUNT, read_number};

/// Shares of one CPU with version 1.
const SHARES_PER_CPU: i128 = 1024;

/// What to write: a file below the mount, and the value.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    file: PathBuf,
    value: String,
}

fn settings(
    config: &NodeConfig,
    top: &str,
    unified: bool,
    memory: i64,
    milli_cpu: i128,
    max_pid: i128,
) -> Vec<Setting> {
    let group = |controller: &str| {
        if unified { PathBuf::from(top) } else { Path::new(controller).join(top) }
    };
    let mut all = Vec::new();
    let mut set = |controller: &str, v1: &str, v2: &str, value: i128| {
        let file = group(controller).join(if unified { v2 } else { v1 });
        all.push(Setting { file, value: value.max(1).to_string() });
    };
    let reserved = |name: &str| config.reserved_milli(name);
    if reserved("memory") > 0 {
        let left = i128::from(memory).saturating_sub(reserved("memory") / 1000);
        set("memory", "memory.limit_in_bytes", "memory.max", left);
    }
    if reserved("cpu") > 0 {
        let shares = (milli_cpu.saturating_sub(reserved("cpu")) * SHARES_PER_CPU / 1000).clamp(2, 262_144);
        // The mapping of the container runtimes.
        let weight = 1 + (shares - 2) * 9_999 / 262_142;
        set("cpu", "cpu.shares", "cpu.weight", if unified { weight } else { shares });
    }
    if reserved("pid") > 0 {
        set("pids", "pids.max", "pids.max", max_pid.saturating_sub(reserved("pid") / 1000));
    }
    all
}

/// See the module documentation.
pub(super) fn enforce(config: &NodeConfig, driver: Driver, top: &str, memory: i64) {
    if driver != Driver::Cgroupfs || !config.enforces_pods() {
        return;
    }
    let mount = Path::new(MOUNT);
    let unified = mount.join("cgroup.controllers").exists();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let milli_cpu = i128::try_from(cpus).unwrap_or(1).saturating_mul(1000);
    let max_pid = read_number(Path::new("/proc/sys/kernel/pid_max")).map_or(0, i128::from);
    for setting in settings(config, top.trim_start_matches('/'), unified, memory, milli_cpu, max_pid) {
        if let Err(error) = apply(mount, &setting) {
            tracing::warn!(file = %setting.file.display(), %error, "limit of all pods not set");
        }
    }
}

fn apply(mount: &Path, setting: &Setting) -> io::Result<()> {
    let path = mount.join(&setting.file);
    // The runtime makes the group with the first pod.
    let Ok(now) = fs::read_to_string(&path) else { return Ok(()) };
    if now.trim() == setting.value {
        return Ok(());
    }
    fs::write(&path, &setting.value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    #[test]
    fn only_what_is_reserved_is_limited() {
        let mut config = NodeConfig::default();
        assert_eq!(settings(&config, "skerrypods", true, 1 << 30, 2000, 1000), []);
        config.kube_reserved = ["memory", "cpu", "pid"]
            .into_iter()
            .zip(["512Mi", "500m", "100"])
            .map(|(k, v)| (k.to_owned(), Quantity(v.into())))
            .collect::<BTreeMap<_, _>>();
        let of = |unified| -> Vec<(String, String)> {
            let all = settings(&config, "skerrypods", unified, 1 << 30, 2000, 1000);
            all.into_iter().map(|s| (s.file.display().to_string(), s.value)).collect()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            of(false),
            [
                pair("memory/skerrypods/memory.limit_in_bytes", "536870912"),
                pair("cpu/skerrypods/cpu.shares", "1536"),
                pair("pids/skerrypods/pids.max", "900"),
            ]
        );
        assert_eq!(of(true)[1], pair("skerrypods/cpu.weight", "59"));
    }

    #[test]
    fn a_limit_is_written_where_the_group_is() {
        let dir = tempfile::tempdir().unwrap();
        let setting = Setting { file: "g/memory.max".into(), value: "5".into() };
        apply(dir.path(), &setting).unwrap();
        assert!(!dir.path().join("g").exists());
        fs::create_dir(dir.path().join("g")).unwrap();
        fs::write(dir.path().join("g/memory.max"), "max\n").unwrap();
        apply(dir.path(), &setting).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("g/memory.max")).unwrap(), "5");
    }
}
