//! The whole way between a Device in the API and a register of the device: EdgeController and DeviceController on
//! the embedded API, CloudHub, EdgeHub and dmi with their stores, the mapper SDK with its driver. Each runs as a
//! process would ([`crate::part`]), on TCP with mutual TLS in the cloud and on unix sockets on the node; the
//! node's link goes through a proxy that can fail.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use skerry_cloudhub::{CloudHub, SourceConfig};
use skerry_common::NodeName;
use skerry_devicecontroller::{DeviceController, Sockets};
use skerry_dmi::{Connect, Dmi};
use skerry_edgecontroller::EdgeController;
use skerry_edgehub::{EdgeHub, LinkTimes};
use skerry_hub_tests::FaultProxy;
use skerry_identity::{Ca, CredentialStore, Credentials, NodeKey, TrustDomain};
use skerry_mapper_sdk::{CancellationToken, Mapper};
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::devices_client::DevicesClient;
use skerry_rpc::{Channel, Listen};
use skerry_telemetry::{Readiness, Registry};
use tonic::Code;

use crate::api::{Kubernetes, devices_api, nodes_api};
use crate::part::Part;
use crate::plant::{self, Plant};
use crate::relay::{self, Bug};

/// The trust domain.
pub(crate) const DOMAIN: &str = "skerry.test";
/// The node.
pub const NODE: &str = "edge-1";
/// Life of certificates: longer than any test.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a service may take to let go of its file when it was killed.
const LETS_GO: Duration = Duration::from_secs(10);
/// First port of the services: below those that the kernel gives away, so that one which restarts finds its own.
const PORTS: u16 = 20_000;

/// One of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Service {
    EdgeController,
    DeviceController,
    CloudHub,
    EdgeHub,
    Dmi,
    Mapper,
}

impl Service {
    /// In the order of starting.
    pub const ALL: [Self; 6] =
        [Self::EdgeController, Self::DeviceController, Self::CloudHub, Self::EdgeHub, Self::Dmi, Self::Mapper];
}

/// Where the services of the cloud listen.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    edgecontroller: SocketAddr,
    devicecontroller: SocketAddr,
    /// Where the hub finds DeviceController: there, or at a relay with a planted bug.
    seen: SocketAddr,
    hub: SocketAddr,
}

impl Addresses {
    /// An address of loopback for this process alone.
    fn new(bug: bool) -> Self {
        static USED: AtomicU16 = AtomicU16::new(0);
        let base = PORTS + 10 * USED.fetch_add(1, Ordering::Relaxed);
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let at = |offset| SocketAddr::from(([127, 1 + a % 100, b, c], base + offset));
        let devicecontroller = at(1);
        Self { edgecontroller: at(0), devicecontroller, seen: if bug { at(2) } else { devicecontroller }, hub: at(3) }
    }
}

/// See the module documentation.
pub struct System {
    /// A client of the user.
    pub client: Client,
    /// The API.
    pub kubernetes: Kubernetes,
    /// The devices.
    pub plant: Plant,
    /// The node's link.
    pub link: FaultProxy,
    parts: BTreeMap<Service, Part>,
    _relay: Option<Part>,
    bug: Option<Bug>,
    ca: Ca,
    addresses: Addresses,
    folder: tempfile::TempDir,
}

impl System {
    /// Starts everything, with a node that is Ready and a model whose properties are all whole numbers.
    ///
    /// # Errors
    /// When a part cannot be started.
    pub async fn start(properties: &[&str], bug: Option<Bug>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let kubernetes = Kubernetes::start(folder.path()).await?;
        let client = kubernetes.client("user");
        let ca = skerry_edgecontroller::ca(client.clone(), &TrustDomain::parse(DOMAIN)?).await?;
        let addresses = Addresses::new(bug.is_some_and(Bug::on_the_way));
        let link = FaultProxy::start(addresses.hub).await?;
        let mut system = Self {
            client,
            kubernetes,
            plant: Plant::default(),
            link,
            parts: BTreeMap::new(),
            _relay: None,
            bug,
            ca,
            addresses,
            folder,
        };
        for service in ["cloudhub", "devicecontroller"] {
            system.save(service, &system.service(service)?)?;
        }
        let (name, key) = (NodeName::parse(NODE)?, NodeKey::generate()?);
        let issued = system.ca.issue_node(&key.csr()?, &name, LIFE, now())?;
        system.save(NODE, &Credentials::from_answer(&issued.pem(), &system.ca.certificate_pem(), &key)?)?;
        system.objects(properties).await?;
        if let Some(bug) = bug.filter(|bug| bug.on_the_way()) {
            let ends = relay::Ends {
                listen: addresses.seen,
                target: addresses.devicecontroller,
                server: skerry_hub_tests::watch(system.service("devicecontroller")?)?,
                client: skerry_hub_tests::watch(system.service("cloudhub")?)?,
            };
            system._relay = Some(relay::start(bug, ends, system.kubernetes.clone()).await?);
        }
        for service in Service::ALL {
            system.run(service).await?;
        }
        Ok(system)
    }

    async fn objects(&self, properties: &[&str]) -> anyhow::Result<()> {
        let create = PostParams::default();
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
        let nodes = nodes_api(&self.client);
        nodes.create(&create, &serde_json::from_value(node)?).await?;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Test"}]}});
        nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(ready)).await?;
        let properties: Vec<Value> = properties
            .iter()
            .map(|name| {
                json!({"name": name, "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "1000000",
                    "visitors": {"protocolName": "plant", "configData": {}}})
            })
            .collect();
        let model = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
            "metadata": {"name": "m"}, "spec": {"protocol": "plant", "properties": properties}});
        devices_api(&self.client, "DeviceModel").create(&create, &serde_json::from_value(model)?).await?;
        Ok(())
    }

    /// Makes a device of the node with these properties, all of which shall be 0.
    ///
    /// # Errors
    /// When the API refuses it.
    pub async fn device(&self, name: &str, properties: &[&str]) -> anyhow::Result<()> {
        let properties: Vec<Value> = properties
            .iter()
            .map(|name| {
                json!({"name": name, "desired": {"value": "0"}, "collectCycle": 200, "reportCycle": 1000,
                    "reportToCloud": true})
            })
            .collect();
        let device = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": {"name": name},
            "spec": {"nodeName": NODE, "deviceModelRef": {"name": "m"},
                "protocol": {"protocolName": "plant", "configData": {}}, "properties": properties}});
        devices_api(&self.client, "Device").create(&PostParams::default(), &serde_json::from_value(device)?).await?;
        Ok(())
    }

    /// Deletes a device, and waits until the node knows nothing of it.
    ///
    /// # Errors
    /// When the API refuses, or the node still has it.
    pub async fn remove(&self, name: &str) -> anyhow::Result<()> {
        devices_api(&self.client, "Device").delete(name, &DeleteParams::default()).await?;
        crate::eventually(async || {
            let request = pb::GetDeviceRequest { device: Some(key(name)) };
            match self.devices().get_device(request).await {
                Err(status) if status.code() == Code::NotFound => Ok(()),
                other => Err(format!("{name} is not gone: {other:?}")),
            }
        })
        .await
    }

    /// Starts a service that does not run.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(&mut self, service: Service) -> anyhow::Result<()> {
        let part = match service {
            Service::EdgeController => self.edgecontroller().await,
            Service::DeviceController => self.devicecontroller().await,
            Service::CloudHub => self.cloudhub().await,
            Service::EdgeHub => self.edgehub().await,
            Service::Dmi => self.dmi().await,
            Service::Mapper => self.mapper().await,
        };
        let part = part.with_context(|| format!("{service:?} does not start"))?;
        self.parts.insert(service, part);
        Ok(())
    }

    /// Stops a service in good order.
    ///
    /// # Errors
    /// When it did not end well.
    pub async fn stop(&mut self, service: Service) -> anyhow::Result<()> {
        match self.parts.remove(&service) {
            Some(part) => part.stop().await,
            None => Ok(()),
        }
    }

    /// Ends a service at once, as a crash.
    ///
    /// # Errors
    /// When its threads stay.
    pub async fn kill(&mut self, service: Service) -> anyhow::Result<()> {
        let Some(part) = self.parts.remove(&service) else { return Ok(()) };
        part.kill().await?;
        if service == Service::Dmi && self.bug == Some(Bug::NotDurable) {
            std::fs::remove_dir_all(self.path("dmi"))?;
        }
        Ok(())
    }

    /// Services that have ended by themselves.
    pub fn ended(&self) -> Vec<Service> {
        self.parts.iter().filter(|(_, part)| part.ended()).map(|(service, _)| *service).collect()
    }

    /// What people at the node use.
    pub fn devices(&self) -> DevicesClient<Channel> {
        DevicesClient::new(Channel::unix(self.socket())).max_decoding_message_size(4 << 20)
    }

    /// A device as people at the node see it.
    ///
    /// # Errors
    /// When dmi does not answer, or does not know it.
    pub async fn view(&self, name: &str) -> anyhow::Result<pb::DeviceView> {
        let request = pb::GetDeviceRequest { device: Some(key(name)) };
        Ok(self.devices().get_device(request).await?.into_inner())
    }

    /// The socket of dmi.
    pub fn socket(&self) -> PathBuf {
        self.path("dmi.sock")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn service(&self, name: &str) -> anyhow::Result<Credentials> {
        Ok(skerry_edgecontroller::issue_service_credentials(&self.ca, name, &[])?)
    }

    fn save(&self, name: &str, credentials: &Credentials) -> anyhow::Result<()> {
        CredentialStore::open(self.path(name))?.save(credentials)?;
        Ok(())
    }

    async fn edgecontroller(&self) -> anyhow::Result<Part> {
        let (kubernetes, address) = (self.kubernetes.clone(), self.addresses.edgecontroller);
        let part = Part::start("edgecontroller", move |stop| async move {
            let config = skerry_edgecontroller::Config {
                trust_domain: DOMAIN.to_owned(),
                ..skerry_edgecontroller::Config::default()
            };
            let client = kubernetes.client("edgecontroller");
            let (registry, readiness) = (Registry::new(), Readiness::new());
            let built = EdgeController::build(&config, Listen::Tcp(address), client, &registry, &readiness).await?;
            Ok(((), async move { Ok(built.run(stop).await?) }))
        });
        Ok(part.await?.0)
    }

    async fn devicecontroller(&self) -> anyhow::Result<Part> {
        let (kubernetes, address) = (self.kubernetes.clone(), self.addresses.devicecontroller);
        let credentials = self.path("devicecontroller");
        let part = Part::start("devicecontroller", move |stop| async move {
            let config = skerry_devicecontroller::Config {
                credentials,
                trust_domain: DOMAIN.to_owned(),
                value_seconds: 1,
                ..skerry_devicecontroller::Config::default()
            };
            let sockets = Sockets { sync: Listen::Tcp(address), webhook: None };
            let client = kubernetes.client("devicecontroller");
            let (registry, readiness) = (Registry::new(), Readiness::new());
            let built = DeviceController::build(&config, sockets, client, &registry, &readiness).await?;
            Ok(((), async move { Ok(built.run(stop).await?) }))
        });
        Ok(part.await?.0)
    }

    async fn cloudhub(&self) -> anyhow::Result<Part> {
        let Addresses { edgecontroller, seen, hub, .. } = self.addresses;
        let config = skerry_cloudhub::Config {
            name: "hub-0".to_owned(),
            listen: hub,
            credentials: self.path("cloudhub"),
            trust_domain: DOMAIN.to_owned(),
            sources: vec![
                SourceConfig::edgecontroller(vec![edgecontroller.to_string()]),
                SourceConfig::devicecontroller(vec![seen.to_string()]),
            ],
            registry: "edgecontroller".to_owned(),
        };
        let part = Part::start("cloudhub", move |stop| async move {
            let built = CloudHub::build(config, &Registry::new(), &Readiness::new()).await?;
            Ok(((), async move { Ok(built.run(stop).await?) }))
        });
        Ok(part.await?.0)
    }

    async fn edgehub(&self) -> anyhow::Result<Part> {
        let config = skerry_edgehub::Config {
            node_name: NodeName::parse(NODE)?,
            hubs: vec![self.link.address().to_string()],
            trust_domain: DOMAIN.to_owned(),
            credentials: self.path(NODE),
            store: self.path("edgehub"),
            services: false,
            devices: true,
            times: LinkTimes { retry_soon: Duration::from_millis(500), ..LinkTimes::default() },
        };
        let socket = self.path("edgehub.sock");
        let part = Part::start("edgehub", move |stop| async move {
            let deadline = tokio::time::Instant::now() + LETS_GO;
            let built = loop {
                let listen = skerry_edgehub::Listen::Socket(socket.clone());
                match EdgeHub::build(config.clone(), listen, &Registry::new()).await {
                    // One that was killed lets go of its file when its last thread is gone.
                    Err(skerry_edgehub::EdgeHubError::Store(error))
                        if error.code() == "store_in_use" && tokio::time::Instant::now() < deadline =>
                    {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    built => break built?,
                }
            };
            Ok(((), async move { Ok(built.run(stop).await?) }))
        });
        Ok(part.await?.0)
    }

    async fn dmi(&self) -> anyhow::Result<Part> {
        let mut config = skerry_dmi::Config::new(NodeName::parse(NODE)?, self.path("dmi"));
        config.dmi.socket = self.socket();
        config.dmi.mapper_socket_dirs = vec![self.folder.path().to_owned()];
        config.dmi.status_seconds = 1;
        // Nothing may be written for its own sake while the tests look whether anything is.
        config.dmi.refresh_seconds = 3_600;
        config.dmi.checkpoint_seconds = 2;
        let connect = Connect::Socket(self.path("edgehub.sock"));
        let part = Part::start("dmi", move |stop| async move {
            let deadline = tokio::time::Instant::now() + LETS_GO;
            let built = loop {
                match Dmi::build(config.clone(), connect.clone(), &Registry::new()).await {
                    Err(skerry_dmi::Error::Store(error))
                        if error.code() == "store_in_use" && tokio::time::Instant::now() < deadline =>
                    {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    built => break built?,
                }
            };
            Ok(((), async move { Ok(built.run(stop).await?) }))
        });
        Ok(part.await?.0)
    }

    async fn mapper(&self) -> anyhow::Result<Part> {
        let mut config = skerry_mapper_sdk::Config::default();
        config.grpc_server.socket_path = Some(self.path("mapper.sock"));
        config.common.edgecore_sock = self.socket().to_str().map(str::to_owned);
        config.rest.enabled = false;
        let plant = self.plant.clone();
        let part = Part::start("mapper", move |stop| async move {
            let mapper = Mapper::build(&config, &plant::ABOUT, plant, &Registry::new(), &Readiness::new()).await?;
            let (token, mut stop) = (CancellationToken::new(), stop);
            let run = async move {
                let running = mapper.run(token.clone());
                let stopping = async {
                    let guard = stop.stopped().await;
                    token.cancel();
                    guard
                };
                let ((), guard) = tokio::join!(running, stopping);
                drop(guard);
                Ok(())
            };
            Ok(((), run))
        });
        Ok(part.await?.0)
    }
}

/// The name of a device for dmi.
pub fn key(name: &str) -> pb::DeviceKey {
    pb::DeviceKey { namespace: "default".into(), name: name.into() }
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
