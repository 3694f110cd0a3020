//! A restart of the agent without the cloud, with pods that use configuration and tokens: once with all
//! containers gone, as after a reboot, and once with all of them running.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use skerry_bench::cri::Runtime;
use skerry_bench::figures::Figures;
use skerry_bench::pods::names;
use skerry_bench::say;
use skerry_proto::cri::v1::ContainerState;
use tokio::time::Instant;

use crate::Bench;

/// How long a step may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(20);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pods on the node
    #[arg(long, default_value_t = 20)]
    pods: usize,
}

pub(crate) async fn run(bench: &mut Bench, args: &Args, figures: &mut Figures) -> anyhow::Result<()> {
    configuration(bench).await?;
    let all = names("kept", args.pods);
    say(&format!("{} pods with configuration and tokens", args.pods));
    bench.pods.at_once(&all, &spec(&bench.pods.plain())).await?;
    let socket = bench.machine.containerd.socket();
    let runtime = Runtime::new(&socket, &bench.machine.containerd.dir().join("direct"))?;
    bench.machine.set_cloud(false);

    say("the agent is killed; containers go on");
    let before = running(&runtime).await?;
    anyhow::ensure!(before.len() == args.pods, "{} of {} containers run", before.len(), args.pods);
    bench.machine.kill_agent();
    let began = Instant::now();
    bench.machine.start_agent()?;
    // Each pod's first report is its status; before the cut all had been taken by the cloud.
    let told = async {
        while bench.machine.waiting_reports().await.unwrap_or_default() < args.pods as u64 {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.context("the agent says nothing about its pods")?;
    figures.at_most("restart_with_running_containers", began.elapsed().as_secs_f64(), "s", 3.0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = running(&runtime).await?;
    let touched = before.iter().filter(|(id, created)| after.get(*id) != Some(created)).count();
    figures.at_most("containers_touched", (touched + after.len() - (before.len() - touched)) as f64, "", 0.0);

    say("everything ends, as at a reboot");
    bench.machine.reboot()?;
    let began = Instant::now();
    bench.machine.start_agent()?;
    let back = async {
        loop {
            let now = running(&runtime).await.unwrap_or_default();
            if now.len() == args.pods {
                return now;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let now = tokio::time::timeout(PATIENCE, back).await.context("not all pods came back")?;
    figures.at_most("restart_after_reboot", began.elapsed().as_secs_f64(), "s", 15.0);
    anyhow::ensure!(now.keys().all(|id| !before.contains_key(id)), "a container survived the reboot");

    say("the cloud is back");
    bench.machine.set_cloud(true);
    let agreed = async {
        loop {
            let listed = bench.pods.list().await?;
            let restarted = listed.iter().filter(|pod| {
                let status = pod.status.as_ref();
                let container = status.and_then(|s| s.container_statuses.as_ref()?.first());
                status.is_some_and(|s| s.phase.as_deref() == Some("Running"))
                    && container.is_some_and(|c| c.ready && c.restart_count == 1)
            });
            if restarted.count() == args.pods {
                return anyhow::Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, agreed).await.context("the cloud does not see the restarted pods")??;
    Ok(())
}

/// Running containers of edged, with the time of their creation.
async fn running(runtime: &Runtime) -> anyhow::Result<BTreeMap<String, i64>> {
    let all = runtime.of_edged().await?;
    let running: Vec<_> = all.into_iter().filter(|c| c.state == ContainerState::ContainerRunning as i32).collect();
    let pods: BTreeSet<&str> = running.iter().map(|c| c.pod_sandbox_id.as_str()).collect();
    anyhow::ensure!(pods.len() == running.len(), "a pod has two containers");
    Ok(running.into_iter().map(|c| (c.id, c.created_at)).collect())
}

async fn configuration(bench: &Bench) -> anyhow::Result<()> {
    let client = bench.cluster.client.clone();
    let config = serde_json::from_value(json!({ "metadata": { "name": "config" }, "data": { "greeting": "hello" } }))?;
    Api::<ConfigMap>::namespaced(client.clone(), "default").create(&PostParams::default(), &config).await?;
    let secret = serde_json::from_value(json!({ "metadata": { "name": "key" }, "stringData": { "key": "k" } }))?;
    Api::<Secret>::namespaced(client, "default").create(&PostParams::default(), &secret).await?;
    Ok(())
}

/// A pod with variables and files of a ConfigMap and a Secret; the API adds its token.
fn spec(plain: &Value) -> Value {
    let mut spec = plain.clone();
    if let Some(container) = spec.pointer_mut("/containers/0").and_then(Value::as_object_mut) {
        let greeting = json!({ "configMapKeyRef": { "name": "config", "key": "greeting" } });
        container.insert("env".into(), json!([{ "name": "GREETING", "valueFrom": greeting }]));
        container.insert(
            "volumeMounts".into(),
            json!([{ "name": "config", "mountPath": "/config" }, { "name": "key", "mountPath": "/key" }]),
        );
    }
    if let Some(spec) = spec.as_object_mut() {
        let config = json!({ "name": "config", "configMap": { "name": "config" } });
        let key = json!({ "name": "key", "secret": { "secretName": "key" } });
        spec.insert("volumes".into(), json!([config, key]));
    }
    spec
}
