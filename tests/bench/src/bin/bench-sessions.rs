//! `make bench-sessions`: many nodes on one hub process.
//!
//! Memory and processor time of the hub per idle session; then pods for every node, until all are in
//! sync; then all nodes cut at once and back, with nothing changed and with a part of the pods changed.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams, PostParams};
use skerry_bench::cluster::{Cluster, Ports};
use skerry_bench::figures::Figures;
use skerry_bench::node::{Node, Totals};
use skerry_bench::say;
use skerry_common::{Key, NodeName, kinds};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Connections that begin at a time, and API calls at a time.
const CONCURRENCY: usize = 64;

/// Sessions that begin at a time.
const BEGINNERS: usize = 48;

/// How long a step may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measures one hub with many nodes.
#[derive(Parser)]
struct Args {
    /// Nodes
    #[arg(long, default_value_t = 10_000)]
    nodes: usize,
    /// Pods of each node
    #[arg(long, default_value_t = 10)]
    pods: usize,
    /// Seconds over which idle processor time is measured
    #[arg(long, default_value_t = 30)]
    idle: u64,
}

fn main() -> ExitCode {
    let run = || -> anyhow::Result<()> {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        // A connection is a file, here and in the hub, which inherits the limit.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        skerry_bench::run(bench(Args::parse()))
    };
    skerry_bench::exit(run())
}

async fn bench(args: Args) -> anyhow::Result<()> {
    let mut figures = Figures::default();
    let count = args.nodes as f64;
    say("starting the cloud");
    let cluster = Cluster::start(Ports(21_000)).await?;
    let (before_kib, totals) = (cluster.hub.resident_kib()?, Arc::new(Totals::default()));

    say(&format!("issuing {} certificates", args.nodes));
    let nodes = (0..args.nodes)
        .map(|n| {
            let name = NodeName::parse(&format!("node-{n:05}"))?;
            let credentials = cluster.node(&name)?;
            Node::new(name, &cluster.hub_address, credentials, totals.clone(), false)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;

    say("connecting");
    let started = Instant::now();
    let mut sessions = connect(&nodes, &totals);
    until("all nodes are in sync", &totals, || totals.in_sync.load(Ordering::Relaxed) == args.nodes).await?;
    figures.info("connect_all", started.elapsed().as_secs_f64(), "s");
    say("registering");
    register(&nodes).await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let resident = (cluster.hub.resident_kib()? - before_kib) / count;
    figures.at_most("session_resident", resident, "KiB", 30.0);
    let idle = cluster.hub.cpu_share(Duration::from_secs(args.idle)).await?;
    figures.at_most("idle_cpu", idle * 100.0, "% of a core", 6.0);

    say(&format!("creating {} pods", args.nodes * args.pods));
    let upserts = totals.upserts.load(Ordering::Relaxed);
    let bytes = traffic(&nodes, &totals);
    let started = Instant::now();
    create_pods(&cluster, &nodes, args.pods).await?;
    figures.info("create_pods", started.elapsed().as_secs_f64(), "s");
    let all = args.nodes * args.pods;
    until("every node has its pods", &totals, || nodes.iter().map(|node| node.count(kinds::POD)).sum::<usize>() == all)
        .await?;
    figures.info("pods_in_sync", started.elapsed().as_secs_f64(), "s");
    let spent = traffic(&nodes, &totals) - bytes;
    figures.info("bytes_per_node", spent as f64 / count, "bytes");
    let deltas = (totals.upserts.load(Ordering::Relaxed) - upserts) as f64 / all as f64;
    figures.info("upserts_per_pod", deltas, "");
    let resident = (cluster.hub.resident_kib()? - before_kib) / count;
    figures.info("session_resident_with_pods", resident, "KiB");

    for (name, changed) in [("unchanged", 0), ("one_percent_changed", all / 100)] {
        say(&format!("cutting all nodes, {changed} pods change meanwhile"));
        for node in &nodes {
            node.cut();
        }
        sessions.join_all().await;
        change_pods(&cluster, &nodes, args.pods, changed).await?;
        let bytes = totals.bytes.load(Ordering::Relaxed);
        let (started, upserts) = (Instant::now(), totals.upserts.load(Ordering::Relaxed));
        sessions = connect(&nodes, &totals);
        until("all nodes are back in sync", &totals, || totals.in_sync.load(Ordering::Relaxed) == args.nodes).await?;
        figures.info(&format!("reconnect_{name}"), started.elapsed().as_secs_f64(), "s");
        let spent = (traffic(&nodes, &totals) - bytes) as f64 / count;
        if changed == 0 {
            figures.at_most("reconnect_bytes_unchanged", spent, "bytes", 3072.0);
        } else {
            figures.info("reconnect_bytes_one_percent_changed", spent, "bytes");
        }
        let sent = totals.upserts.load(Ordering::Relaxed) - upserts;
        figures.info(&format!("reconnect_upserts_{name}"), sent as f64, "objects");
    }
    figures.info("session_failures", totals.failures.load(Ordering::Relaxed) as f64, "");
    drop(sessions);
    figures.verdict()
}

/// Runs a session of every node; a session that fails begins again.
fn connect(nodes: &[Arc<Node>], totals: &Arc<Totals>) -> JoinSet<()> {
    let gate = Arc::new(tokio::sync::Semaphore::new(BEGINNERS));
    let mut sessions = JoinSet::new();
    for node in nodes {
        let (node, totals, gate) = (node.clone(), totals.clone(), gate.clone());
        sessions.spawn(async move {
            loop {
                // All nodes have one address here, and of one address the hub takes only so many
                // connections at a time that have not shown a certificate yet.
                let Ok(permit) = gate.clone().acquire_owned().await else { return };
                match node.session(permit).await {
                    Ok(()) => return,
                    Err(error) => {
                        totals.failures.fetch_add(1, Ordering::Relaxed);
                        if let Ok(mut last) = totals.last_failure.lock() {
                            *last = format!("{error:#}");
                        }
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                }
            }
        });
    }
    sessions
}

async fn register(nodes: &[Arc<Node>]) -> anyhow::Result<()> {
    let registrations = futures::stream::iter(nodes).map(|node| async move {
        let name = node.name().to_string();
        let body = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        });
        node.report(kinds::NODE_REGISTRATION, Key::new("", &*name), body.to_string().into_bytes()).await
    });
    let results: Vec<_> = registrations.buffer_unordered(CONCURRENCY).collect().await;
    let failed = results.iter().filter(|result| result.is_err()).count();
    let first = results.into_iter().find_map(Result::err);
    first.map_or(Ok(()), |error| Err(error.context(format!("{failed} registrations failed"))))
}

async fn create_pods(cluster: &Cluster, nodes: &[Arc<Node>], pods: usize) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    let each = nodes.iter().flat_map(|node| (0..pods).map(move |n| (node.name().clone(), n)));
    let created = futures::stream::iter(each).map(|(node, n)| {
        let api = api.clone();
        async move {
            let pod = serde_json::json!({
                "metadata": { "name": format!("{node}-{n}"), "labels": { "app": "bench" } },
                "spec": {
                    "nodeName": node,
                    "automountServiceAccountToken": false,
                    "containers": [{
                        "name": "main",
                        "image": "registry.example/app:1",
                        "env": [{ "name": "N", "value": n.to_string() }],
                    }],
                },
            });
            let pod: Pod = serde_json::from_value(pod)?;
            api.create(&PostParams::default(), &pod).await?;
            anyhow::Ok(())
        }
    });
    let mut created = created.buffer_unordered(CONCURRENCY);
    while let Some(result) = created.next().await {
        result.context("cannot create a pod")?;
    }
    Ok(())
}

/// Changes the first pod of as many nodes as asked for.
async fn change_pods(cluster: &Cluster, nodes: &[Arc<Node>], pods: usize, count: usize) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    let names =
        nodes.iter().flat_map(|node| (0..pods).map(move |n| format!("{}-{n}", node.name()))).step_by(pods.max(1));
    let changed = futures::stream::iter(names.take(count)).map(|name| {
        let api = api.clone();
        async move {
            let patch = serde_json::json!({ "metadata": { "annotations": { "bench": "changed" } } });
            api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            anyhow::Ok(())
        }
    });
    let mut changed = changed.buffer_unordered(CONCURRENCY);
    while let Some(result) = changed.next().await {
        result.context("cannot change a pod")?;
    }
    Ok(())
}

/// Bytes of all nodes so far.
fn traffic(nodes: &[Arc<Node>], totals: &Totals) -> u64 {
    nodes.iter().for_each(|node| node.count_bytes());
    totals.bytes.load(Ordering::Relaxed)
}

async fn until(what: &str, totals: &Totals, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let (deadline, mut said) = (Instant::now() + PATIENCE, Instant::now());
    while !done() {
        let last = totals.last_failure.lock().map(|last| last.clone()).unwrap_or_default();
        anyhow::ensure!(Instant::now() < deadline, "in vain: {what}; last failure: {last}");
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            say(&format!(
                "waiting until {what}: {} connected, {} in sync, {} objects, {} failures {last}",
                totals.connected.load(Ordering::Relaxed),
                totals.in_sync.load(Ordering::Relaxed),
                totals.upserts.load(Ordering::Relaxed),
                totals.failures.load(Ordering::Relaxed),
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
