//! Many pods through one node: memory at the end against memory early on, and what they left behind.

use std::path::Path;
use std::time::Duration;

use skerry_bench::cri::Runtime;
use skerry_bench::figures::Figures;
use skerry_bench::pods::names;
use skerry_bench::say;

use crate::Bench;

/// Pods at a time.
const AT_A_TIME: usize = 10;
/// After this time memory that is free has gone back, and idle connections are closed.
const SETTLE: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pods in all
    #[arg(long, default_value_t = 3000)]
    pods: usize,
    /// Pods before the first look
    #[arg(long, default_value_t = 300)]
    first: usize,
}

pub(crate) async fn run(bench: &Bench, args: &Args, figures: &mut Figures) -> anyhow::Result<()> {
    let runtime = Runtime::new(&bench.machine.containerd.socket(), &bench.machine.containerd.dir().join("direct"))?;
    through(bench, 0, args.first).await?;
    let first = Look::take(bench, &runtime).await?;
    figures.info("wear_resident_first", first.resident_mb, "MB");
    through(bench, args.first, args.pods).await?;
    let last = Look::take(bench, &runtime).await?;
    figures.info("wear_pods", args.pods as f64, "");
    figures.info("wear_resident_last", last.resident_mb, "MB");
    figures.at_most("wear_resident_growth", (last.resident_mb / first.resident_mb - 1.0) * 100.0, "%", 5.0);
    figures.at_most("wear_descriptors_more", last.descriptors - first.descriptors, "", 0.0);
    figures.at_most("wear_threads_more", last.threads - first.threads, "", 0.0);
    figures.at_most("wear_mounts_left", last.mounts, "", 0.0);
    figures.at_most("wear_control_groups_left", last.groups, "", 0.0);
    figures.at_most("wear_files_left", last.files, "", 0.0);
    figures.at_most("wear_containers_left", last.containers, "", 0.0);
    Ok(())
}

async fn through(bench: &Bench, from: usize, to: usize) -> anyhow::Result<()> {
    let spec = bench.pods.plain();
    for begin in (from..to).step_by(AT_A_TIME) {
        if begin % 100 == 0 {
            say(&format!("{begin} pods"));
        }
        let batch = names(&format!("wear{begin}"), AT_A_TIME.min(to - begin));
        bench.pods.at_once(&batch, &spec).await?;
        bench.pods.delete(&batch).await?;
    }
    Ok(())
}

/// What the node has when no pod is on it.
struct Look {
    resident_mb: f64,
    descriptors: f64,
    threads: f64,
    mounts: f64,
    groups: f64,
    files: f64,
    containers: f64,
}

impl Look {
    async fn take(bench: &Bench, runtime: &Runtime) -> anyhow::Result<Self> {
        tokio::time::sleep(SETTLE).await;
        let (machine, agent) = (&bench.machine, bench.machine.agent()?);
        let pods = machine.pods_dirs();
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let points = table.lines().filter_map(|l| l.split(' ').nth(4)).map(Path::new);
        // The directory in memory is itself a mount, as long as the node is.
        let mounts = points.filter(|p| pods.iter().any(|dir| p.starts_with(dir) && p != dir));
        Ok(Self {
            resident_mb: agent.resident_kib()? * 1.024e-3,
            descriptors: agent.descriptors()? as f64,
            threads: agent.threads()? as f64,
            mounts: mounts.count() as f64,
            groups: pod_groups(Path::new("/sys/fs/cgroup"), &machine.containerd.cgroup_root(), 3) as f64,
            files: (pods.iter().map(|dir| entries(dir)).sum::<usize>() + entries(machine.logs_dir())) as f64,
            containers: runtime.of_edged().await?.len() as f64,
        })
    }
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).map(Iterator::count).unwrap_or_default()
}

/// Control groups of pods below the one of the node.
fn pod_groups(dir: &Path, root: &str, depth: usize) -> usize {
    let Ok(all) = std::fs::read_dir(dir) else { return 0 };
    let below = all.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| {
        let of_pod =
            e.file_name().to_string_lossy().starts_with("pod") && e.path().components().any(|c| c.as_os_str() == root);
        usize::from(of_pod) + if depth > 0 { pod_groups(&e.path(), root, depth - 1) } else { 0 }
    });
    below.sum()
}
