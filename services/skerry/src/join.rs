//! `skerry join`: turns this machine into a node.
//!
//! In this order, so that a failure leaves nothing half-done: check the words, look at the machine,
//! reach the hub whose CA has the key that the token names, prove the token, check what came back,
//! write the credentials, and last the configuration, which makes the node complete. What was written
//! before a failure is removed. The token's secret is sent once, to a verified hub, and never stored.
//! Joining again with the same name and hub is no failure and changes nothing.

mod request;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use skerry_common::{NodeName, exit};
use skerry_identity::{CredentialStore, Token};

use crate::edge::{EdgeConfig, Taint};
use crate::failure::{Context as _, Failure, Result};
use crate::places;
use crate::ui::{self, Steps};
use crate::{check, systemd};

/// Most labels and taints that are taken; more is a mistake.
const MAX_LABELS: usize = 64;

/// Options of `skerry join`.
#[derive(Debug, Clone, Args)]
pub(crate) struct JoinArgs {
    /// The hub, as host:port; several, separated by commas, for several replicas.
    #[arg(value_delimiter = ',', required = true)]
    pub(crate) hub: Vec<String>,
    /// The token, from `skerry token create`.
    #[arg(long, env = "SKERRY_TOKEN", hide_env_values = true, required = true)]
    pub(crate) token: String,
    /// Name of the node; this machine's host name when not given.
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// Labels of the Node, as key=value.
    #[arg(long, value_delimiter = ',')]
    pub(crate) labels: Vec<String>,
    /// Taints of the Node, as key=value:Effect.
    #[arg(long, value_delimiter = ',')]
    pub(crate) taints: Vec<String>,
    /// Directory of manifests of static pods, which run whatever the API says.
    #[arg(long)]
    pub(crate) static_pod_path: Option<PathBuf>,
    /// CRI socket; found by itself when not given.
    #[arg(long)]
    pub(crate) runtime_endpoint: Option<String>,
    /// Directory of the node's state.
    #[arg(long, default_value = places::EDGE_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Where the logs of pods go.
    #[arg(long, default_value = places::POD_LOG_DIR)]
    pub(crate) pod_log_dir: PathBuf,
    /// Control group above all pods.
    #[arg(long, default_value = skerry_edged::DEFAULT_CGROUP_ROOT)]
    pub(crate) cgroup_root: String,
    /// Address of edgehub's admin server; edged and dmi take the next ports.
    #[arg(long, default_value_t = places::loopback(places::EDGEHUB_ADMIN_PORT))]
    pub(crate) admin_listen: std::net::SocketAddr,
    /// Address of the kubelet API: logs, exec and port-forward of this node's pods.
    #[arg(long, default_value_t = crate::edge::kubelet_listen())]
    pub(crate) kubelet_listen: std::net::SocketAddr,
    /// Neither install nor start the service.
    #[arg(long)]
    pub(crate) no_start: bool,
    /// Join although the machine lacks something that `skerry check` names.
    #[arg(long)]
    pub(crate) skip_checks: bool,
    /// How the node looks after itself; changed in the file.
    #[arg(skip)]
    pub(crate) node: Box<skerry_edged::NodeConfig>,
    /// Socket of mappers: where KubeEdge's look for it.
    #[arg(long, default_value = skerry_dmi::DEFAULT_SOCKET)]
    pub(crate) dmi_socket: PathBuf,
}

/// Joins, and tells how.
pub(crate) async fn run(args: JoinArgs) -> Result<()> {
    let mut steps = Steps::new();
    let config = join(&args, &mut steps).await?;
    if args.no_start {
        ui::note(format!("start the node with: skerry edge --data-dir {}", config.data_dir.display()));
    } else if systemd::is_here() {
        let program = std::env::current_exe().or_fail(|| "cannot find this program".into())?;
        systemd::install(&program, &config.data_dir).await?;
        steps.done("skerry-edge.service installed and started");
    } else {
        ui::note("this machine does not run systemd: start the node with your own supervisor");
        ui::note(format!("  skerry edge --data-dir {}", config.data_dir.display()));
    }
    ui::note(format!("node {} has joined ({:.1} s)", config.node_name, steps.total()));
    Ok(())
}

/// Everything but the service.
pub(crate) async fn join(args: &JoinArgs, steps: &mut Steps) -> Result<EdgeConfig> {
    let token = Token::parse(&args.token).map_err(|error| {
        Failure::usage("cannot read the token").because(&error).cure("copy the whole line of skerry token create")
    })?;
    let config = wanted(args)?;
    if let Some(existing) = already_joined(&config)? {
        steps.done(format!("this machine is node {} already", existing.node_name));
        return Ok(existing);
    }
    if !args.skip_checks {
        preflight(args, &config.data_dir).await?;
    }
    steps.done("this machine can be a node");
    let granted = request::certificate(&args.hub, &token, &config.node_name).await?;
    steps.done(format!("the hub gave a certificate for {}", config.node_name));
    let config = EdgeConfig {
        trust_domain: granted.trust_domain,
        // What the operator gave to the token wins over what the machine says about itself.
        labels: config.labels.into_iter().chain(granted.labels).collect(),
        ..config
    };
    let fresh = !config.data_dir.exists();
    if let Err(failure) = write(&config, &granted.credentials) {
        let _ = fs::remove_file(config.data_dir.join(places::EDGE_CONFIG));
        let _ = fs::remove_dir_all(config.data_dir.join(places::EDGE_CREDENTIALS));
        if fresh {
            let _ = fs::remove_dir(&config.data_dir);
        }
        return Err(failure);
    }
    steps.done(format!("credentials and configuration are in {}", config.data_dir.display()));
    Ok(config)
}

fn write(config: &EdgeConfig, credentials: &skerry_identity::Credentials) -> Result<()> {
    let what = || "cannot store the credentials".to_owned();
    let store = CredentialStore::open(config.data_dir.join(places::EDGE_CREDENTIALS)).or_fail(what)?;
    store.save(credentials).or_fail(what)?;
    config.save()
}

/// The configuration that the arguments ask for; the trust domain comes with the certificate.
fn wanted(args: &JoinArgs) -> Result<EdgeConfig> {
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    let node_name = NodeName::parse(&name).map_err(|error| {
        Failure::usage(format!("{name:?} cannot be a node name")).because(&error).cure("choose one with --node-name")
    })?;
    for hub in &args.hub {
        let port =
            hub.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?);
        if port.is_none() {
            return Err(Failure::usage(format!("{hub:?} is not an address")).cure("write it as host:port"));
        }
    }
    if args.labels.len() > MAX_LABELS || args.taints.len() > MAX_LABELS {
        return Err(Failure::usage(format!("more than {MAX_LABELS} labels or taints")));
    }
    let mut labels = BTreeMap::new();
    for label in &args.labels {
        let (key, value) = label
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("{label:?} is not a label")).cure("write it as key=value"))?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    let taints = args.taints.iter().map(|taint| Taint::parse(taint)).collect::<Result<_>>()?;
    Ok(EdgeConfig {
        node_name,
        hubs: args.hub.clone(),
        trust_domain: String::new(),
        data_dir: places::absolute(&args.data_dir)?,
        runtime_endpoint: args.runtime_endpoint.clone(),
        pod_log_dir: places::absolute(&args.pod_log_dir)?,
        cgroup_root: args.cgroup_root.clone(),
        admin_listen: args.admin_listen,
        kubelet_listen: args.kubelet_listen,
        kubelet_client_ca: None,
        labels,
        taints,
        static_pod_path: args.static_pod_path.as_deref().map(places::absolute).transpose()?,
        node: (*args.node).clone(),
        dmi: skerry_dmi::Options { socket: places::absolute(&args.dmi_socket)?, ..skerry_dmi::Options::default() },
    })
}

fn already_joined(config: &EdgeConfig) -> Result<Option<EdgeConfig>> {
    let path = config.data_dir.join(places::EDGE_CONFIG);
    if !path.exists() {
        return Ok(None);
    }
    let existing = EdgeConfig::load(&config.data_dir)?;
    if existing.node_name == config.node_name && existing.hubs == config.hubs {
        return Ok(Some(existing));
    }
    Err(Failure::new(format!("this machine is already node {} of {}", existing.node_name, existing.hubs.join(",")))
        .cure("skerry reset --force, then join again"))
}

async fn preflight(args: &JoinArgs, data_dir: &Path) -> Result<()> {
    let findings = check::preflight(args.runtime_endpoint.as_deref(), data_dir).await;
    for finding in &findings {
        ui::note(format!("{}: {}. {}", finding.check, finding.detail, finding.fix));
    }
    if findings.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = findings.iter().map(|f| f.check).collect();
    Err(Failure::new("this machine cannot be a node")
        .cause(names.join(", "))
        .cure("mend it, or use --skip-checks")
        .code(exit::FAILED))
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().or_fail(|| "cannot read the host name".into())?;
    Ok(name.to_string_lossy().to_lowercase())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser as _;

    fn args(words: &[&str]) -> JoinArgs {
        let all = ["skerry", "join"].iter().chain(words).copied();
        match crate::cli::Cli::try_parse_from(all).unwrap().command {
            crate::cli::Command::Join(args) => args,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn arguments_become_a_configuration() {
        let words = [
            "hub.example:10000",
            "--token",
            "t",
            "--node-name",
            "edge-1",
            "--labels",
            "a=b,c=",
            "--taints",
            "x=y:NoSchedule",
        ];
        let config = wanted(&args(&words)).unwrap();
        assert_eq!(config.node_name.as_str(), "edge-1");
        assert_eq!(config.labels.get("c").map(String::as_str), Some(""));
        assert_eq!(config.taints.len(), 1);
    }

    #[test]
    fn wrong_words_are_usage_errors() {
        for words in [
            &["hub", "--token", "t", "--node-name", "a"][..],
            &["hub:1", "--token", "t", "--node-name", "../a"],
            &["hub:1", "--token", "t", "--node-name", "A_b"],
            &["hub:1", "--token", "t", "--node-name", "a", "--labels", "novalue"],
            &["hub:1", "--token", "t", "--node-name", "a", "--taints", "x=y:Sometimes"],
        ] {
            assert_eq!(wanted(&args(words)).unwrap_err().code, exit::USAGE, "{words:?}");
        }
    }

    #[tokio::test]
    async fn a_failed_join_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("node");
        let token = format!("0123456789.{}.{}", "s".repeat(43), "a".repeat(64));
        let mut join_args = args(&["127.0.0.1:1", "--token", &token, "--node-name", "a", "--skip-checks"]);
        join_args.data_dir = data.clone();
        let failure = join(&join_args, &mut Steps::new()).await.unwrap_err();
        assert_eq!(failure.code, exit::UNREACHABLE, "{failure}");
        assert!(!data.exists());
    }
}
