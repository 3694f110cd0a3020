//! The steps of `skerry up`, in order.
//!
//! Each one waits until what it needs is there, and is safe to repeat.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::{Client, ResourceExt as _};
use skerry_common::NodeName;
use skerry_edged::NodeConfig;
use skerry_identity::TokenRequest;

use super::state::State;
use super::{UpArgs, example, units, wait};
use crate::failure::{Failure, Result};
use crate::join::{self, JoinArgs};
use crate::supervise::Places;
use crate::ui::{self, Steps};
use crate::{cluster, kubernetes, places, runtime};

/// The token of the node of `up` is used at once.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// The disk of a workstation is its user's: no pod is ended and no image removed for its sake.
fn shared_machine() -> NodeConfig {
    let mut node = NodeConfig { image_gc_high_threshold_percent: 100, ..NodeConfig::default() };
    node.eviction_hard.retain(|signal, _| !signal.contains("fs."));
    node
}

/// All of them.
pub(super) async fn all(args: &UpArgs, found: &Places, state: &State, steps: &mut Steps) -> Result<()> {
    if !state.cloud_only && state.runtime_endpoint.is_none() {
        units::runtime(found, &example::mappers(&args.example)?)?;
    }
    units::control_plane(found, state)?;
    let client = control_plane(found).await?;
    steps.done(format!("Kubernetes API at https://{}", state.ports.apiserver));

    let admin = &state.ports.admin;
    if state.processes {
        units::controllers(found, state)?;
    }
    ready(admin.edgecontroller).await;
    ready(admin.devicecontroller).await;
    if state.processes {
        units::hub(found, state)?;
    }
    ready(admin.hub).await;
    steps.done(format!("edgecontroller, devicecontroller, and cloudhub for nodes at {}", state.ports.hub));

    if !state.cloud_only {
        node(found, state, &client, steps).await?;
    }
    units::beside(found, &args.run)?;
    if !args.example.is_empty() {
        examples(args, &client, steps).await?;
    }
    next(args, found);
    Ok(())
}

async fn ready(admin: std::net::SocketAddr) {
    wait::until(async || wait::is_ready(admin).await.then_some(())).await;
}

async fn control_plane(found: &Places) -> Result<Client> {
    let file = found.dir.join(places::KUBECONFIG);
    Ok(wait::until(async || {
        // Written by the API server at its start; until then there is nothing to ask.
        let client = kubernetes::client(&file).await.ok()?;
        client.apiserver_version().await.ok()?;
        Some(client)
    })
    .await)
}

async fn node(found: &Places, state: &State, client: &Client, steps: &mut Steps) -> Result<()> {
    let data_dir = found.dir.join("edge");
    let endpoint = match &state.runtime_endpoint {
        Some(endpoint) => endpoint.clone(),
        None => {
            let ready = found.dir.join(runtime::READY);
            wait::until(async || ready.exists().then_some(())).await;
            steps.done("private containerd with the images of the example");
            format!("unix://{}", runtime::options(&found.dir).socket().display())
        }
    };
    if !data_dir.join(places::EDGE_CONFIG).exists() {
        let name = NodeName::parse(&state.node)
            .map_err(|error| Failure::usage(format!("{:?} is not a node name", state.node)).because(&error))?;
        let request = TokenRequest {
            lifetime: TOKEN_LIFETIME,
            uses: 1,
            labels: BTreeMap::from([("node-role.kubernetes.io/edge".into(), String::new())]),
            node: Some(name),
        };
        let (token, _) = cluster::create_token(client, request).await?;
        steps.done(format!("join token {} for {}", token.id(), state.node));
        let usual = state.ports.usual().then(|| skerry_dmi::DEFAULT_SOCKET.into());
        let args = JoinArgs {
            dmi_socket: usual.unwrap_or_else(|| data_dir.join(places::DMI_SOCKET)),
            hub: vec![state.ports.local_hub().to_string()],
            token: token.reveal(),
            node_name: Some(state.node.clone()),
            labels: Vec::new(),
            taints: Vec::new(),
            static_pod_path: None,
            runtime_endpoint: Some(endpoint),
            pod_log_dir: data_dir.join("pod-logs"),
            cgroup_root: runtime::options(&found.dir).cgroup_root,
            data_dir,
            admin_listen: state.ports.admin.edgehub,
            kubelet_listen: state.ports.kubelet,
            no_start: true,
            skip_checks: true,
            node: Box::new(shared_machine()),
        };
        join::join(&args, steps).await?;
    }
    units::edge(found, state)?;
    let nodes: Api<Node> = Api::all(client.clone());
    wait::until(async || {
        let node = nodes.get_opt(&state.node).await.ok()??;
        let conditions = node.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
    })
    .await;
    steps.done(format!("node {} is Ready", state.node));
    Ok(())
}

async fn examples(args: &UpArgs, client: &Client, steps: &mut Steps) -> Result<()> {
    let mut made = Vec::new();
    for folder in &args.example {
        made.extend(example::apply(client, folder).await?);
        steps.done(format!("{} applied", folder.display()));
    }
    let (pods, devices) = example::ready(&made, client, Duration::from_secs(args.timeout)).await?;
    let devices = if devices > 0 { format!(", and {devices} devices are read") } else { String::new() };
    steps.done(format!("{pods} pods are Running and ready{devices}"));
    for pod in example::pods(&made, client).await? {
        let status = pod.status.clone().unwrap_or_default();
        ui::line(format!(
            "    {}/{}   {}   {}   {}",
            pod.namespace().unwrap_or_default(),
            pod.name_any(),
            status.phase.unwrap_or_default(),
            pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default(),
            status.pod_ip.unwrap_or_default(),
        ));
    }
    for device in example::devices(&made).await? {
        ui::line(format!("    {device}"));
    }
    Ok(())
}

/// What to try next.
fn next(args: &UpArgs, found: &Places) {
    let program = std::env::args().next().unwrap_or_else(|| "skerry".into());
    let kubeconfig = args.dir.join(places::KUBECONFIG);
    let kubeconfig = kubeconfig.display();
    let is_default = args.dir == std::path::Path::new(places::UP_DIR);
    let flag = if is_default { String::new() } else { format!(" --kubeconfig {kubeconfig}") };
    let down = if is_default { "make down".to_owned() } else { format!("{program} down --dir {}", args.dir.display()) };
    ui::line(format!(
        "
kubeconfig: {}
try:
  kubectl --kubeconfig {kubeconfig} get pods -A -o wide
  kubectl --kubeconfig {kubeconfig} get events -A
  {program} status{flag}
  {program} net{flag}
  {down}",
        found.dir.join(places::KUBECONFIG).display()
    ));
}
