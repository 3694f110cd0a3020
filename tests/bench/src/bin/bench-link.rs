//! `make bench-link`: how fast a dead link is noticed and mended, whether bulk changes disturb liveness, and
//! what an idle link costs.

use std::collections::HashMap;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::api::{Api, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use skerry_bench::cluster::{Cluster, Ports};
use skerry_bench::edge::Edge;
use skerry_bench::figures::{Figures, percentile};
use skerry_bench::say;
use skerry_common::kinds;
use skerry_hub_tests::Mode;
use skerry_proto::hub::v1::ListSessionsRequest;
use skerry_proto::hub::v1::hub_client::HubClient;
use skerry_rpc::{Channel, ClientLimits};
use tokio::time::Instant;

/// How long a link is silent.
const CUT: Duration = Duration::from_secs(60);

/// How long a step may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between looks.
const LOOK: Duration = Duration::from_millis(100);

/// API calls at a time.
const CONCURRENCY: usize = 32;

/// Seconds of a day.
const DAY: f64 = 86_400.0;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Cut,
    Services,
    Idle,
}

/// Measures the link between nodes and the cloud.
#[derive(Parser)]
struct Args {
    /// Parts to run; all without
    #[arg(long, value_enum)]
    part: Vec<Part>,
    /// Nodes whose link is cut, each once
    #[arg(long, default_value_t = 50)]
    cuts: usize,
    /// Nodes that see the Services
    #[arg(long, default_value_t = 40)]
    nodes: usize,
    /// Services that are relabelled
    #[arg(long, default_value_t = 2000)]
    services: usize,
    /// Minutes over which the idle link is counted
    #[arg(long, default_value_t = 10)]
    idle: u64,
}

fn main() -> ExitCode {
    skerry_bench::exit(skerry_bench::run(bench(Args::parse())))
}

async fn bench(args: Args) -> anyhow::Result<()> {
    let mut figures = Figures::default();
    let wanted = |part| args.part.is_empty() || args.part.contains(&part);
    say("starting the cloud");
    let cluster = Cluster::start(Ports(22_000)).await?;
    let folder = tempfile::tempdir()?;
    if wanted(Part::Idle) {
        idle(&cluster, folder.path(), args.idle, &mut figures).await?;
    }
    if wanted(Part::Cut) {
        cut(&cluster, folder.path(), args.cuts, &mut figures).await?;
    }
    if wanted(Part::Services) {
        services(&cluster, folder.path(), args.nodes, args.services, &mut figures).await?;
    }
    figures.verdict()
}

async fn nodes(
    cluster: &Cluster,
    folder: &std::path::Path,
    prefix: &str,
    count: usize,
) -> anyhow::Result<Vec<Arc<Edge>>> {
    let mut edges = Vec::new();
    for n in 0..count {
        edges.push(Arc::new(Edge::start(cluster, &format!("{prefix}-{n:03}"), folder).await?));
    }
    for edge in &edges {
        ready(cluster, edge.name.as_str(), true).await?;
    }
    Ok(edges)
}

/// Waits until a node is Ready, or is not.
async fn ready(cluster: &Cluster, name: &str, want: bool) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(cluster.client.clone());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let node = api.get_opt(name).await?;
        if node.as_ref().is_some_and(is_ready) == want && node.is_some() {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "node {name} ready {want}: in vain");
        tokio::time::sleep(LOOK).await;
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn cut(cluster: &Cluster, folder: &std::path::Path, count: usize, figures: &mut Figures) -> anyhow::Result<()> {
    say(&format!("{count} silent cuts of {} s", CUT.as_secs()));
    let edges = nodes(cluster, folder, "cut", count).await?;
    let admin = Channel::tcp([&*cluster.hub_address], "cloudhub", cluster.admin()?, ClientLimits::default())?;
    let runs = edges.iter().enumerate().map(|(n, edge)| {
        let (edge, admin) = (edge.clone(), admin.clone());
        async move {
            // The cuts begin at different places between two pings.
            tokio::time::sleep(Duration::from_millis(190) * u32::try_from(n).unwrap_or(0)).await;
            let start = Instant::now();
            edge.link.set(Mode::Blackhole);
            let hub_noticed = async {
                loop {
                    let request = ListSessionsRequest { node: edge.name.to_string(), ..Default::default() };
                    let sessions = HubClient::new(admin.clone()).list_sessions(request).await?.into_inner().sessions;
                    if sessions.is_empty() {
                        return anyhow::Ok(start.elapsed().as_secs_f64());
                    }
                    tokio::time::sleep(LOOK).await;
                }
            };
            let node_noticed = async {
                while edge.connected().await? {
                    tokio::time::sleep(LOOK).await;
                }
                anyhow::Ok(start.elapsed().as_secs_f64())
            };
            let noticed = async { tokio::try_join!(hub_noticed, node_noticed) };
            let (at_hub, at_node) = tokio::time::timeout(PATIENCE, noticed).await.context("nobody noticed")??;
            tokio::time::sleep_until(start + CUT).await;
            ready(cluster, edge.name.as_str(), false).await.context("the cut was not seen in the API")?;
            edge.link.set(Mode::Pass);
            let back = Instant::now();
            ready(cluster, edge.name.as_str(), true).await?;
            anyhow::Ok((at_hub, at_node, back.elapsed().as_secs_f64()))
        }
    });
    let results = futures::future::try_join_all(runs).await?;
    let worst = |pick: fn(&(f64, f64, f64)) -> f64| results.iter().map(pick).fold(0.0, f64::max);
    figures.info("cuts", results.len() as f64, "");
    figures.at_most("hub_noticed_worst", worst(|r| r.0), "s", 15.0);
    figures.at_most("node_noticed_worst", worst(|r| r.1), "s", 15.0);
    figures.at_most("ready_again_worst", worst(|r| r.2), "s", 10.0);
    let mut ready: Vec<f64> = results.iter().map(|r| r.2).collect();
    figures.info("ready_again_p50", percentile(&mut ready, 0.5), "s");
    Ok(())
}

async fn services(
    cluster: &Cluster,
    folder: &std::path::Path,
    count: usize,
    services: usize,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    say(&format!("{services} Services, {count} nodes"));
    let api: Api<Service> = Api::namespaced(cluster.client.clone(), "default");
    let create = futures::stream::iter(0..services).map(|n| {
        let api = api.clone();
        async move {
            let service = serde_json::json!({
                "metadata": { "name": format!("service-{n:04}") },
                "spec": { "selector": { "app": format!("app-{n}") }, "ports": [{ "port": 80 }] },
            });
            api.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
            anyhow::Ok(())
        }
    });
    create.buffer_unordered(CONCURRENCY).try_collect::<Vec<_>>().await?;
    let edges = nodes(cluster, folder, "svc", count).await?;
    let deadline = Instant::now() + PATIENCE;
    for edge in &edges {
        while edge.count(kinds::SERVICE).await? < services as u64 {
            anyhow::ensure!(Instant::now() < deadline, "a node does not get its Services");
            tokio::time::sleep(LOOK).await;
        }
    }

    say("relabelling");
    let observed = Arc::new(Observed::default());
    let watches = [
        tokio::spawn(watch_nodes(cluster.client.clone(), observed.clone())),
        tokio::spawn(watch_leases(cluster.client.clone(), observed.clone())),
    ];
    let start = Instant::now();
    let relabel = futures::stream::iter(0..services).map(|n| {
        let api = api.clone();
        async move {
            let patch = serde_json::json!({ "metadata": { "labels": { "bench": "changed" } } });
            api.patch(&format!("service-{n:04}"), &PatchParams::default(), &Patch::Merge(patch)).await?;
            anyhow::Ok(())
        }
    });
    relabel.buffer_unordered(CONCURRENCY).try_collect::<Vec<_>>().await?;
    figures.info("relabel", start.elapsed().as_secs_f64(), "s");
    // Three renewals of every lease.
    tokio::time::sleep(Duration::from_secs(35)).await;
    for watch in watches {
        anyhow::ensure!(!watch.is_finished(), "a watch ended early: {:?}", watch.await);
        watch.abort();
    }
    let not_ready = observed.not_ready.load(Ordering::Relaxed);
    figures.at_most("nodes_not_ready", not_ready as f64, "transitions", 0.0);
    let mut late = observed.late.lock().map(|mut late| std::mem::take(&mut *late)).unwrap_or_default();
    anyhow::ensure!(!late.is_empty(), "no lease was renewed");
    figures.info("lease_renewals", late.len() as f64, "");
    figures.at_most("lease_renewal_late_p99", percentile(&mut late, 0.99), "s", 2.0);
    Ok(())
}

/// What the watches saw.
#[derive(Default)]
struct Observed {
    /// How often a node was seen not ready.
    not_ready: AtomicUsize,
    /// How much later than its interval each renewal of a lease came, in seconds.
    late: Mutex<Vec<f64>>,
}

async fn watch_nodes(client: kube::Client, observed: Arc<Observed>) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client);
    let mut events = api.watch(&WatchParams::default(), "0").await?.boxed();
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Modified(node) = event
            && node.metadata.name.as_ref().is_some_and(|name| name.starts_with("svc-"))
            && !is_ready(&node)
        {
            observed.not_ready.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

async fn watch_leases(client: kube::Client, observed: Arc<Observed>) -> anyhow::Result<()> {
    /// EdgeController renews each lease this often.
    const INTERVAL: f64 = 10.0;
    let api: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let mut events = api.watch(&WatchParams::default(), "0").await?.boxed();
    let mut seen: HashMap<String, Instant> = HashMap::new();
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Modified(lease) = event
            && let Some(name) = lease.metadata.name.filter(|name| name.starts_with("svc-"))
        {
            let now = Instant::now();
            if let Some(before) = seen.insert(name, now)
                && let Ok(mut late) = observed.late.lock()
            {
                late.push((now.duration_since(before).as_secs_f64() - INTERVAL).max(0.0));
            }
        }
    }
    Ok(())
}

async fn idle(cluster: &Cluster, folder: &std::path::Path, minutes: u64, figures: &mut Figures) -> anyhow::Result<()> {
    say(&format!("an idle link with 5 pods over {minutes} minutes"));
    let edges = nodes(cluster, folder, "idle", 1).await?;
    let edge = edges.first().context("one node")?;
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    for n in 0..5 {
        let pod = serde_json::json!({
            "metadata": { "name": format!("idle-{n}") },
            "spec": {
                "nodeName": edge.name,
                "automountServiceAccountToken": false,
                "containers": [{ "name": "main", "image": "registry.example/app:1" }],
            },
        });
        api.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    }
    while edge.count(kinds::POD).await? < 5 {
        tokio::time::sleep(LOOK).await;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    let port = cluster.hub_address.rsplit(':').next().context("a port")?.to_owned();
    // Counts what IP carries, both ways, with all headers of TCP and IP.
    let counter = Counter::start(&port)?;
    let payload = edge.link.bytes();
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(minutes * 60)).await;
    let share = DAY / start.elapsed().as_secs_f64();
    let bytes = counter.bytes()? as f64;
    figures.at_most("idle_link_per_day", bytes * share / 1e6, "MB", 5.0);
    figures.info("idle_link_payload_per_day", (edge.link.bytes() - payload) as f64 * share / 1e6, "MB");
    Ok(())
}

/// Packet counters of one port, in a table of our own that is removed on drop.
struct Counter(String);

impl Counter {
    fn start(port: &str) -> anyhow::Result<Self> {
        let table = format!("skerry_bench_{}", std::process::id());
        let this = Self(table.clone());
        nft(&["add", "table", "inet", &table])?;
        nft(&["add", "chain", "inet", &table, "in", "{ type filter hook input priority 0 ; }"])?;
        nft(&["add", "rule", "inet", &table, "in", "tcp", "dport", port, "counter"])?;
        nft(&["add", "rule", "inet", &table, "in", "tcp", "sport", port, "counter"])?;
        Ok(this)
    }

    fn bytes(&self) -> anyhow::Result<u64> {
        let listing: serde_json::Value = serde_json::from_str(&nft(&["-j", "list", "table", "inet", &self.0])?)?;
        let rules = listing.pointer("/nftables").and_then(|rules| rules.as_array()).context("a list of rules")?;
        let expressions = rules.iter().filter_map(|entry| entry.pointer("/rule/expr")?.as_array()).flatten();
        Ok(expressions.filter_map(|expression| expression.pointer("/counter/bytes")?.as_u64()).sum())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = nft(&["delete", "table", "inet", &self.0]);
    }
}

fn nft(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("nft").args(arguments).output().context("nft is needed: make test installs it")?;
    anyhow::ensure!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
