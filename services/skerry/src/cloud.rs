//! `skerry cloud`: the embedded control plane and the cloud services in one process.
//!
//! API server, controllers, edgecontroller, devicecontroller and cloudhub run as tasks, built in that order because each
//! needs the one before. They talk to each other as they would from processes of their own, by HTTPS
//! and gRPC on loopback. `skerry up` starts it; the directory says where things are. A task that ends
//! ends the process, and its supervisor starts it again: state is in the API server's SQLite alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use skerry_cloudhub::{CloudHub, SourceConfig};
use skerry_controllers::Controllers;
use skerry_devicecontroller::{DeviceController, Sockets};
use skerry_edgecontroller::EdgeController;
use skerry_rpc::Listen;

use crate::failure::{Context as _, Failure, Result};
use crate::files::write_atomically;
use crate::tasks::Tasks;
use crate::up::state::{Ports, State};
use crate::{cluster, kubernetes, places};

/// Name of the hub of `up`: there is one.
pub(crate) const HUB_NAME: &str = "hub-0";
/// Folder of the API server's database and keys, in the directory of `up`.
pub(crate) const APISERVER_DATA: &str = "apiserver";
/// Time for requests in flight, reports and goodbyes.
const DRAIN: Duration = Duration::from_secs(20);

/// Options of `skerry cloud`.
#[derive(Debug, Args)]
pub(crate) struct CloudArgs {
    /// Directory of `skerry up`.
    #[arg(long, default_value = places::UP_DIR)]
    dir: PathBuf,
}

/// Runs them until told to stop.
pub(crate) async fn run(args: CloudArgs) -> Result<()> {
    let dir = places::absolute(&args.dir)?;
    let state = State::read(&dir)
        .ok_or_else(|| Failure::usage(format!("{} was not made by skerry up", dir.display())).cure("skerry up"))?;
    let mut tasks = Tasks::new(DRAIN);
    apiserver(&dir, &state.ports, &mut tasks).await?;
    controllers(&dir, &state.ports, &mut tasks).await?;
    edgecontroller(&dir, &state.ports, &mut tasks).await?;
    devicecontroller(&dir, &state.ports, &mut tasks).await?;
    cloudhub(&dir, &state.ports, &mut tasks).await?;
    tracing::info!(hub = %state.ports.hub, "cloud services run");
    tasks.run().await
}

/// The services behind the hub.
pub(crate) fn sources(ports: &Ports) -> Vec<SourceConfig> {
    vec![
        SourceConfig::edgecontroller(vec![ports.edgecontroller.to_string()]),
        SourceConfig::devicecontroller(vec![ports.devicecontroller.to_string()]),
    ]
}

async fn apiserver(dir: &Path, ports: &Ports, tasks: &mut Tasks) -> Result<()> {
    let what = || "cannot start the API server".to_owned();
    let (registry, _) = tasks.admin(ports.admin.apiserver).await?;
    let config = skerry_apiserver::Config {
        listen: ports.apiserver,
        registry,
        kubelet: Some(skerry_apiserver::KubeletConfig {
            credentials: cluster::credentials_of(dir, cluster::APISERVER),
            trust_domain: places::TRUST_DOMAIN.to_owned(),
        }),
        ..skerry_apiserver::Config::new(dir.join(APISERVER_DATA))
    };
    let server = config.build().await.or_fail(what)?;
    // Anew each time: after the data folder was emptied the API has another CA.
    let kubeconfig = server.admin_kubeconfig().or_fail(what)?;
    write_atomically(&dir.join(places::KUBECONFIG), kubeconfig.as_bytes(), 0o600)?;
    let stop = tasks.stop();
    tasks.spawn("apiserver", async move { server.run(stop).await.or_fail(|| "it ended".into()) });
    Ok(())
}

async fn controllers(dir: &Path, ports: &Ports, tasks: &mut Tasks) -> Result<()> {
    let (registry, readiness) = tasks.admin(ports.admin.controllers).await?;
    let file = dir.join(places::KUBECONFIG);
    let client = kubernetes::client(&file).await?;
    let mut controllers = Controllers::new(client, kubernetes::ca_pem(&file)?);
    controllers.readiness = readiness;
    controllers.metrics = registry.register(skerry_controllers::Metrics::new);
    let stop = tasks.stop();
    tasks.spawn("controllers", async move { controllers.run(stop).await.or_fail(|| "it ended".into()) });
    Ok(())
}

async fn edgecontroller(dir: &Path, ports: &Ports, tasks: &mut Tasks) -> Result<()> {
    let what = || "cannot start edgecontroller".to_owned();
    let (registry, readiness) = tasks.admin(ports.admin.edgecontroller).await?;
    let config = skerry_edgecontroller::Config {
        listen: ports.edgecontroller,
        trust_domain: places::TRUST_DOMAIN.to_owned(),
        credentials: cluster::kept_credentials(dir),
        ..skerry_edgecontroller::Config::default()
    };
    let client = kubernetes::client(&dir.join(places::KUBECONFIG)).await?;
    let listen = Listen::Tcp(config.listen);
    let controller = EdgeController::build(&config, listen, client, &registry, &readiness).await.or_fail(what)?;
    let stop = tasks.stop();
    tasks.spawn("edgecontroller", async move { controller.run(stop).await.or_fail(|| "it ended".into()) });
    Ok(())
}

async fn devicecontroller(dir: &Path, ports: &Ports, tasks: &mut Tasks) -> Result<()> {
    let what = || "cannot start devicecontroller".to_owned();
    let (registry, readiness) = tasks.admin(ports.admin.devicecontroller).await?;
    let config = skerry_devicecontroller::Config {
        listen: ports.devicecontroller,
        webhook: ports.webhook,
        webhook_url: Some(format!("https://{}", ports.webhook)),
        credentials: cluster::credentials_of(dir, cluster::DEVICECONTROLLER),
        trust_domain: places::TRUST_DOMAIN.to_owned(),
        ..skerry_devicecontroller::Config::default()
    };
    let client = kubernetes::client(&dir.join(places::KUBECONFIG)).await?;
    let sockets = Sockets::tcp(&config);
    let controller = DeviceController::build(&config, sockets, client, &registry, &readiness).await.or_fail(what)?;
    let stop = tasks.stop();
    tasks.spawn("devicecontroller", async move { controller.run(stop).await.or_fail(|| "it ended".into()) });
    Ok(())
}

async fn cloudhub(dir: &Path, ports: &Ports, tasks: &mut Tasks) -> Result<()> {
    let what = || "cannot start cloudhub".to_owned();
    let (registry, readiness) = tasks.admin(ports.admin.hub).await?;
    let config = skerry_cloudhub::Config {
        name: HUB_NAME.to_owned(),
        listen: ports.hub,
        credentials: cluster::credentials_of(dir, cluster::CLOUDHUB),
        trust_domain: places::TRUST_DOMAIN.to_owned(),
        sources: sources(ports),
        registry: cluster::EDGECONTROLLER.to_owned(),
    };
    let hub = CloudHub::build(config, &registry, &readiness).await.or_fail(what)?;
    let stop = tasks.stop();
    tasks.spawn("cloudhub", async move { hub.run(stop).await.or_fail(|| "it ended".into()) });
    Ok(())
}
