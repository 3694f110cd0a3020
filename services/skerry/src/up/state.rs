//! What `up` was asked for: written once, read by `up`, `down`, `status` and the services it starts.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::{Context as _, Result};
use crate::files::write_atomically;
use crate::places;

const FILE: &str = "up.json";

/// Addresses of the admin servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admin {
    /// Of cloudhub.
    pub(crate) hub: SocketAddr,
    /// Of edgecontroller.
    pub(crate) edgecontroller: SocketAddr,
    /// Of devicecontroller.
    pub(crate) devicecontroller: SocketAddr,
    /// Of the API server.
    pub(crate) apiserver: SocketAddr,
    /// Of the controllers.
    pub(crate) controllers: SocketAddr,
    /// Of edgehub; edged and dmi take the next ports.
    pub(crate) edgehub: SocketAddr,
}

/// Ports of a system that `up` starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ports {
    /// Address that nodes connect to.
    pub(crate) hub: SocketAddr,
    /// The embedded API server.
    pub(crate) apiserver: SocketAddr,
    /// edgecontroller, for cloudhub.
    pub(crate) edgecontroller: SocketAddr,
    /// devicecontroller, for cloudhub.
    pub(crate) devicecontroller: SocketAddr,
    /// devicecontroller, for admission reviews.
    pub(crate) webhook: SocketAddr,
    /// The node's kubelet API: reached by the node's address, so on every interface.
    pub(crate) kubelet: SocketAddr,
    /// The admin servers.
    pub(crate) admin: Admin,
}

fn every_interface(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], port))
}

impl Default for Ports {
    fn default() -> Self {
        use places::loopback;
        Self {
            hub: every_interface(places::HUB_PORT),
            apiserver: loopback(places::APISERVER_PORT),
            edgecontroller: loopback(places::EDGECONTROLLER_PORT),
            devicecontroller: loopback(places::DEVICECONTROLLER_PORT),
            webhook: loopback(places::DEVICECONTROLLER_WEBHOOK_PORT),
            kubelet: every_interface(places::KUBELET_PORT),
            admin: Admin {
                hub: loopback(places::HUB_ADMIN_PORT),
                edgecontroller: loopback(places::EDGECONTROLLER_ADMIN_PORT),
                devicecontroller: loopback(places::DEVICECONTROLLER_ADMIN_PORT),
                apiserver: loopback(places::APISERVER_ADMIN_PORT),
                controllers: loopback(places::CONTROLLERS_ADMIN_PORT),
                edgehub: loopback(places::EDGEHUB_ADMIN_PORT),
            },
        }
    }
}

impl Ports {
    /// All ports counted up from `base`, on loopback but for the kubelet API: for a second system on the same machine.
    pub(crate) fn from_base(base: u16) -> Self {
        let at = |offset: u16| places::loopback(base.saturating_add(offset));
        Self {
            hub: at(0),
            apiserver: at(1),
            edgecontroller: at(2),
            devicecontroller: at(10),
            webhook: at(11),
            kubelet: every_interface(base.saturating_add(9)),
            admin: Admin {
                hub: at(3),
                edgecontroller: at(4),
                devicecontroller: at(15),
                apiserver: at(5),
                controllers: at(6),
                edgehub: at(12),
            },
        }
    }

    /// Whether these are the usual ones: the only system of this machine.
    pub(crate) fn usual(&self) -> bool {
        self.admin == Self::default().admin
    }

    /// How this machine reaches the hub.
    pub(crate) fn local_hub(&self) -> SocketAddr {
        if self.hub.ip().is_unspecified() { places::loopback(self.hub.port()) } else { self.hub }
    }
}

/// What `up` was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Every service as its own process.
    pub(crate) processes: bool,
    /// A CRI socket that was given; without it there is a private runtime.
    pub(crate) runtime_endpoint: Option<String>,
    /// Without a node.
    pub(crate) cloud_only: bool,
    /// Name of the node.
    pub(crate) node: String,
    /// Where everything listens.
    pub(crate) ports: Ports,
}

impl State {
    /// Reads it; `None` when there is none.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.join(FILE)).ok()?).ok()
    }

    /// Writes it.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).or_fail(|| "cannot write up.json".into())?;
        write_atomically(&dir.join(FILE), &bytes, 0o644)
    }
}
