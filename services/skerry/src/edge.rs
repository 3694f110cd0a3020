//! `skerry edge`: the services of a node in one process.
//!
//! edgehub, edged and dmi run as tasks; the others reach edgehub over its unix socket, as they would from a
//! process of their own. A task that ends is fatal: the process stops and its supervisor starts it again,
//! while pods go on. systemd is told when the services are up, and its watchdog is fed while they are
//! alive. SIGTERM drains within [`DRAIN`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skerry_common::{NodeName, drain, exit, notify};
use skerry_dmi::Dmi;
use skerry_edged::{Edged, NodeConfig};
use skerry_edgehub::EdgeHub;
use skerry_identity::{Clock, CredentialStore, Credentials, TrustDomain};
use skerry_proto::edge::v1::GetStatusRequest;
use skerry_proto::edge::v1::edge_client::EdgeClient;
use tokio::sync::oneshot;
use tonic::Request;

use crate::failure::{Context as _, Failure, Result};
use crate::files::write_atomically;
use crate::tasks::Tasks;
use crate::{dial, places};

/// Time for the last reports to be stored and the connection to be closed.
const DRAIN: Duration = Duration::from_secs(10);

/// Longest time that edgehub may take to answer on its own machine.
const ANSWER: Duration = Duration::from_secs(5);

/// Options of `skerry edge`.
#[derive(Debug, Args)]
pub(crate) struct EdgeArgs {
    /// Directory of the node's state, as `skerry join` wrote it.
    #[arg(long, default_value = places::EDGE_DIR)]
    data_dir: PathBuf,
}

/// A taint of the Node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Taint {
    /// Its key.
    pub(crate) key: String,
    /// Its value; may be empty.
    #[serde(default)]
    pub(crate) value: String,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub(crate) effect: String,
}

impl Taint {
    /// Reads `key=value:Effect` or `key:Effect`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let wrong = || Failure::usage(format!("{text:?} is not a taint")).cure("write it as key=value:NoSchedule");
        let (left, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (key, value) = left.split_once('=').unwrap_or((left, ""));
        if key.is_empty() || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            return Err(wrong());
        }
        Ok(Self { key: key.into(), value: value.into(), effect: effect.into() })
    }
}

/// The configuration of a node: `edge.yaml` in its directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct EdgeConfig {
    /// Name of the node; its certificate says the same.
    pub(crate) node_name: NodeName,
    /// Hubs, as host:port.
    pub(crate) hubs: Vec<String>,
    /// The trust domain of the system.
    pub(crate) trust_domain: String,
    /// Directory of the node's state: where this file is.
    #[serde(skip)]
    pub(crate) data_dir: PathBuf,
    /// CRI socket; found by itself when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) runtime_endpoint: Option<String>,
    /// Where the logs of pods go.
    #[serde(default = "pod_log_dir")]
    pub(crate) pod_log_dir: PathBuf,
    /// Control group above all pods.
    #[serde(default = "cgroup_root")]
    pub(crate) cgroup_root: String,
    /// Address of edgehub's admin server; edged and dmi take the next ports.
    pub(crate) admin_listen: SocketAddr,
    /// Address of edged's kubelet API.
    #[serde(default = "kubelet_listen")]
    pub(crate) kubelet_listen: SocketAddr,
    /// CA of the client certificate with which a kube-apiserver comes to kubelets, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kubelet_client_ca: Option<PathBuf>,
    /// Labels of the Node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// Taints of the Node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) taints: Vec<Taint>,
    /// Directory of manifests of static pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) static_pod_path: Option<PathBuf>,
    /// DNS, limits, reservations, eviction, images, logs, shutdown; names and defaults are the kubelet's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) node: NodeConfig,
    /// Devices: the socket of mappers, who may use it, and what one may do.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) dmi: skerry_dmi::Options,
}

fn is_default<T: Default + PartialEq>(section: &T) -> bool {
    *section == T::default()
}

pub(crate) fn kubelet_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], places::KUBELET_PORT))
}

fn pod_log_dir() -> PathBuf {
    places::POD_LOG_DIR.into()
}

fn cgroup_root() -> String {
    skerry_edged::DEFAULT_CGROUP_ROOT.into()
}

impl EdgeConfig {
    /// Reads the configuration of the node in a directory.
    pub(crate) fn load(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join(places::EDGE_CONFIG);
        let mut config: Self = skerry_common::load(&path).map_err(|error| {
            Failure::usage("cannot start the node").because(&error).cure("skerry join <hub> --token <token>")
        })?;
        config.data_dir = places::absolute(data_dir)?;
        Ok(config)
    }

    /// Address of edged's admin server.
    pub(crate) fn edged_admin(&self) -> SocketAddr {
        self.admin(1)
    }

    /// Address of dmi's admin server.
    pub(crate) fn dmi_admin(&self) -> SocketAddr {
        self.admin(2)
    }

    fn admin(&self, offset: u16) -> SocketAddr {
        SocketAddr::new(self.admin_listen.ip(), self.admin_listen.port().saturating_add(offset))
    }

    /// The configuration file of edgehub in a process of its own.
    pub(crate) fn edgehub_file(&self) -> Value {
        json!({
            "nodeName": self.node_name,
            "hubs": self.hubs,
            "trustDomain": self.trust_domain,
            "credentials": self.data_dir.join(places::EDGE_CREDENTIALS),
            "store": self.data_dir.join(places::EDGE_STORE),
        })
    }

    /// The configuration file of edged in a process of its own.
    pub(crate) fn edged_file(&self) -> Value {
        let mut file = json!({
            "nodeName": self.node_name,
            "rootDir": self.data_dir.join(places::EDGED_ROOT),
            "podLogDir": self.pod_log_dir,
            "cgroupRoot": self.cgroup_root,
            "edgehub": self.data_dir.join(places::EDGE_SOCKET),
            "labels": self.labels,
            "taints": self.taints,
            "node": self.node,
            "api": {
                "listen": self.kubelet_listen,
                "credentials": self.data_dir.join(places::EDGE_CREDENTIALS),
                "trustDomain": self.trust_domain,
                "clientCaFile": self.kubelet_client_ca,
            },
        });
        if let (Some(dir), Some(file)) = (&self.static_pod_path, file.as_object_mut()) {
            file.insert("staticPodPath".into(), dir.display().to_string().into());
        }
        if let (Some(endpoint), Some(file)) = (&self.runtime_endpoint, file.as_object_mut()) {
            file.insert("runtimeEndpoint".into(), endpoint.clone().into());
        }
        file
    }

    /// The configuration file of dmi in a process of its own.
    pub(crate) fn dmi_file(&self) -> Value {
        json!({
            "nodeName": self.node_name,
            "store": self.data_dir.join(places::DMI_STORE),
            "edgehub": self.data_dir.join(places::EDGE_SOCKET),
            "dmi": self.dmi,
        })
    }

    /// Writes it. With this file the node is complete.
    pub(crate) fn save(&self) -> Result<()> {
        let text = serde_saphyr::to_string(self).or_fail(|| "cannot write the node's configuration".into())?;
        write_atomically(&self.data_dir.join(places::EDGE_CONFIG), text.as_bytes(), 0o600)
    }
}

/// Runs the node's services until told to stop.
pub(crate) async fn run(args: EdgeArgs) -> Result<()> {
    notify::close_handed_over();
    let config = EdgeConfig::load(&args.data_dir)?;
    let deadline = DRAIN.saturating_add(Duration::try_from(config.node.shutdown_grace_period).unwrap_or_default());
    let mut tasks = Tasks::new(deadline);
    // EdgeHub stops after the others, whose last words it takes.
    let (after_others, hub_stop) = drain::channel(DRAIN);
    edgehub(&config, &mut tasks, hub_stop).await?;
    let dmi_ended = dmi(&config, &mut tasks).await?;
    edged(&config, &mut tasks, dmi_ended, after_others).await?;
    notify::notify("READY=1");
    tracing::info!(node = %config.node_name, "node services run");
    let socket = config.data_dir.join(places::EDGE_SOCKET);
    tokio::select! {
        ended = tasks.run() => ended,
        () = notify::feed(async || answers(&socket).await) => Ok(()),
    }
}

/// Whether edgehub answers the services of its node: what the watchdog is about.
async fn answers(socket: &Path) -> bool {
    let request = skerry_rpc::deadline(Request::new(GetStatusRequest {}), ANSWER);
    EdgeClient::new(dial::unix(socket)).get_status(request).await.is_ok()
}

async fn edgehub(config: &EdgeConfig, tasks: &mut Tasks, stop: drain::Watch) -> Result<()> {
    let (registry, _) = tasks.admin(config.admin_listen).await?;
    let hub = skerry_edgehub::Config {
        node_name: config.node_name.clone(),
        hubs: config.hubs.clone(),
        trust_domain: config.trust_domain.clone(),
        credentials: config.data_dir.join(places::EDGE_CREDENTIALS),
        store: config.data_dir.join(places::EDGE_STORE),
        services: true,
        devices: true,
        times: skerry_edgehub::LinkTimes::default(),
    };
    let listen = skerry_edgehub::Listen::Socket(config.data_dir.join(places::EDGE_SOCKET));
    let hub = EdgeHub::build(hub, listen, &registry).await.or_fail(|| "cannot start edgehub".into())?;
    tasks.spawn("edgehub", async move { hub.run(stop).await.or_fail(|| "it ended".into()) });
    Ok(())
}

/// Starts dmi. The receiver hears when it has ended.
async fn dmi(config: &EdgeConfig, tasks: &mut Tasks) -> Result<oneshot::Receiver<()>> {
    let (registry, _) = tasks.admin(config.dmi_admin()).await?;
    let options = skerry_dmi::Config {
        dmi: config.dmi.clone(),
        ..skerry_dmi::Config::new(config.node_name.clone(), config.data_dir.join(places::DMI_STORE))
    };
    let connect = skerry_dmi::Connect::Socket(config.data_dir.join(places::EDGE_SOCKET));
    let dmi = Dmi::build(options, connect, &registry).await.or_fail(|| "cannot start dmi".into())?;
    let stop = tasks.stop();
    let guard = stop.guard();
    let (ended, hears) = oneshot::channel();
    tasks.spawn("dmi", async move {
        let _guard = guard;
        let _ended = ended;
        dmi.run(stop).await.or_fail(|| "it ended".into())
    });
    Ok(hears)
}

async fn edged(
    config: &EdgeConfig,
    tasks: &mut Tasks,
    dmi_ended: oneshot::Receiver<()>,
    after: drain::Trigger,
) -> Result<()> {
    let (registry, _) = tasks.admin(config.edged_admin()).await?;
    let socket = config.data_dir.join(places::EDGE_SOCKET);
    let taint =
        |t: &Taint| skerry_edged::Taint { key: t.key.clone(), value: t.value.clone(), effect: t.effect.clone() };
    let api = skerry_edged::Api {
        listen: config.kubelet_listen,
        client_ca_file: config.kubelet_client_ca.clone(),
        ..skerry_edged::Api::new(config.data_dir.join(places::EDGE_CREDENTIALS), config.trust_domain.clone())
    };
    let options = skerry_edged::Config {
        api: Some(api),
        root_dir: config.data_dir.join(places::EDGED_ROOT),
        pod_log_dir: config.pod_log_dir.clone(),
        cgroup_root: config.cgroup_root.clone(),
        runtime_endpoint: config.runtime_endpoint.clone(),
        edgehub: socket.clone(),
        labels: config.labels.clone(),
        taints: config.taints.iter().map(taint).collect(),
        static_pod_path: config.static_pod_path.clone(),
        node: config.node.clone(),
        ..skerry_edged::Config::new(config.node_name.clone())
    };
    let edged = Edged::build(options, skerry_edged::Connect::Socket(socket), &registry);
    let edged = edged.await.or_fail(|| "cannot start edged".into())?;
    let stop = tasks.stop();
    let guard = stop.guard();
    tasks.spawn("edged", async move {
        let _guard = guard;
        let ended = edged.run(stop).await.or_fail(|| "it ended".into());
        let _ = dmi_ended.await;
        after.drain().await;
        ended
    });
    Ok(())
}

/// The node's newest good credentials.
pub(crate) fn credentials(data_dir: &Path) -> Result<Credentials> {
    let unusable = || Failure::new("the node's credentials cannot be used").code(exit::REFUSED);
    let config = EdgeConfig::load(data_dir)?;
    let domain = TrustDomain::parse(&config.trust_domain).map_err(|error| unusable().because(&error))?;
    let store =
        CredentialStore::open(data_dir.join(places::EDGE_CREDENTIALS)).map_err(|error| unusable().because(&error))?;
    let loaded = store.load(&domain, &Clock::system());
    match (loaded.newest, loaded.rejected.first()) {
        (Some((credentials, ..)), _) => Ok(credentials),
        (None, Some((_, error))) => Err(unusable().because(error).cure("skerry reset, then skerry join")),
        (None, None) => Err(unusable().cause("there are none").cure("skerry join <hub> --token <token>")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_configuration_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let config = EdgeConfig {
            node_name: NodeName::parse("edge-1").unwrap(),
            hubs: vec!["hub.example:10000".into()],
            trust_domain: "skerry.local".into(),
            data_dir: dir.path().to_owned(),
            runtime_endpoint: None,
            pod_log_dir: pod_log_dir(),
            cgroup_root: cgroup_root(),
            admin_listen: places::loopback(places::EDGEHUB_ADMIN_PORT),
            kubelet_listen: kubelet_listen(),
            kubelet_client_ca: Some("/etc/kubernetes/pki/ca.crt".into()),
            labels: BTreeMap::from([("zone".into(), "yes".into())]),
            taints: vec![Taint::parse("a=b:NoExecute").unwrap(), Taint::parse("c:NoSchedule").unwrap()],
            static_pod_path: Some("/etc/kubernetes/manifests".into()),
            node: NodeConfig { shutdown_grace_period: jiff::SignedDuration::from_secs(90), ..NodeConfig::default() },
            dmi: skerry_dmi::Options { socket: dir.path().join("dmi.sock"), ..skerry_dmi::Options::default() },
        };
        config.save().unwrap();
        assert_eq!(EdgeConfig::load(dir.path()).unwrap(), config);
    }

    #[test]
    fn taints_are_checked() {
        for wrong in ["a", "a=b", "a=b:Never", "=b:NoSchedule", ":NoSchedule"] {
            assert!(Taint::parse(wrong).is_err(), "{wrong}");
        }
    }
}
