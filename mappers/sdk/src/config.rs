//! Configuration of a mapper: KubeEdge's `config.yaml` with the keys that its mappers have, and our own.
//!
//! Everything has a default, so a mapper also runs without a file. Unknown keys are refused.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::data_plane::DataPlaneConfig;
use crate::error::Error;
use crate::node::Identity;

/// Where the node listens; KubeEdge's.
const DEFAULT_NODE_SOCKET: &str = "/etc/kubeedge/dmi.sock";
/// Folder of the mapper's own socket; KubeEdge's.
const DEFAULT_SOCKET_FOLDER: &str = "/etc/kubeedge";
/// Port of the REST server; KubeEdge's.
const DEFAULT_HTTP_PORT: u16 = 7777;
/// Version of the interface in KubeEdge's terms.
const DEFAULT_API_VERSION: &str = "v1.0.0";
/// A configuration is a page of text.
const MAX_FILE_BYTES: usize = 256 * 1024;
/// Longest path of a unix socket, less what we append while it is made.
const MAX_SOCKET_PATH: usize = 100;

/// What a mapper is, if its configuration does not say otherwise.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Name of the mapper, a DNS name.
    pub name: &'static str,
    /// Its version: `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// The protocol whose devices it serves: `spec.protocol.protocolName`.
    pub protocol: &'static str,
}

/// The configuration of a mapper.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// KubeEdge's: the mapper's own socket.
    #[serde(default)]
    pub grpc_server: GrpcServer,
    /// KubeEdge's: who the mapper is and where the node is.
    #[serde(default)]
    pub common: Common,
    /// The REST server.
    #[serde(default)]
    pub rest: Rest,
    /// Address of the admin server with metrics and health; none without.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
    /// Namespaces whose devices the mapper takes; empty: all.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Where values go beside the node, for mappers that have a data plane.
    #[serde(default)]
    pub data_plane: DataPlaneConfig,
    /// Key of KubeEdge's older mappers, without a meaning here.
    #[serde(default)]
    pub dev_init: serde::de::IgnoredAny,
}

/// KubeEdge's section `grpc_server`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcServer {
    /// Path of the mapper's own socket, used only with nodes that speak `v1beta1`.
    #[serde(default)]
    pub socket_path: Option<PathBuf>,
}

/// KubeEdge's section `common`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Common {
    /// Name of the mapper.
    #[serde(default)]
    pub name: Option<String>,
    /// Its version.
    #[serde(default)]
    pub version: Option<String>,
    /// Version of the interface.
    #[serde(default)]
    pub api_version: Option<String>,
    /// The protocol whose devices it serves.
    #[serde(default)]
    pub protocol: Option<String>,
    /// KubeEdge's mappers read it and do not use it.
    #[serde(default)]
    pub address: Option<String>,
    /// Path of the node's socket.
    #[serde(default)]
    pub edgecore_sock: Option<String>,
    /// Port of the REST server, as text or number.
    #[serde(default)]
    pub http_port: Option<Port>,
}

/// A port as text or number; 0 takes any free one.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Port {
    /// 7777
    Number(u16),
    /// "7777"
    Text(String),
}

/// The REST server of the mapper (`/api/v1`).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rest {
    /// Whether it runs.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Address to listen on; KubeEdge's mappers use `0.0.0.0`.
    #[serde(default = "loopback")]
    pub address: IpAddr,
    /// Whether KubeEdge's path that writes by GET works. Any web page that a browser on this machine shows can
    /// use it, so it is off.
    #[serde(default)]
    pub write_by_get: bool,
    /// Whether whoever reaches an address beyond this machine may write without a client certificate.
    #[serde(default)]
    pub anonymous_writes: bool,
    /// Certificate of the server, PEM; with it, TLS.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// CA of clients, PEM; with it, clients need a certificate.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

impl Default for Rest {
    fn default() -> Self {
        Self {
            enabled: true,
            address: loopback(),
            write_by_get: false,
            anonymous_writes: false,
            cert_file: None,
            key_file: None,
            ca_file: None,
        }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::ReadConfig`], [`Error::ParseConfig`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::ReadConfig { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        Self::parse(&text).map_err(|source| Error::ParseConfig { path: path.to_owned(), source })
    }

    fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        if text.len() > MAX_FILE_BYTES {
            return Err(format!("more than {MAX_FILE_BYTES} bytes").into());
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(Into::into)
    }

    pub(crate) fn checked(&self, about: &About) -> Result<Checked, Error> {
        let or = |given: &Option<String>, default: &str| given.clone().unwrap_or_else(|| default.to_owned());
        let name = or(&self.common.name, about.name);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 253 || name.starts_with('.') || !name.chars().all(plain) {
            return Err(Error::Config("common.name must be letters, digits, '-', '_' and '.'".to_owned()));
        }
        let protocol = or(&self.common.protocol, about.protocol);
        if protocol.is_empty() {
            return Err(Error::Config("common.protocol is empty".to_owned()));
        }
        let socket = or(&self.common.edgecore_sock, DEFAULT_NODE_SOCKET);
        let node_socket = PathBuf::from(socket.strip_prefix("unix://").unwrap_or(&socket));
        let own = self.grpc_server.socket_path.clone();
        let own_socket = own.unwrap_or_else(|| Path::new(DEFAULT_SOCKET_FOLDER).join(format!("{name}.sock")));
        for (key, path) in [("common.edgecore_sock", &node_socket), ("grpc_server.socket_path", &own_socket)] {
            if !path.is_absolute() || path.as_os_str().len() > MAX_SOCKET_PATH {
                return Err(Error::Config(format!(
                    "{key} must be an absolute path of at most {MAX_SOCKET_PATH} bytes"
                )));
            }
        }
        let port = match &self.common.http_port {
            None => DEFAULT_HTTP_PORT,
            Some(Port::Number(port)) => *port,
            Some(Port::Text(port)) => {
                let wrong = |_| Error::Config(format!("common.http_port: {port:?} is not a port"));
                port.trim().parse().map_err(wrong)?
            }
        };
        let (cert, key, ca) = (&self.rest.cert_file, &self.rest.key_file, &self.rest.ca_file);
        if cert.is_some() != key.is_some() || (ca.is_some() && cert.is_none()) {
            return Err(Error::Config("rest: cert_file and key_file belong together, ca_file needs both".to_owned()));
        }
        let rest = self.rest.enabled.then(|| (SocketAddr::new(self.rest.address, port), self.rest.clone()));
        let identity = Identity {
            name,
            version: or(&self.common.version, about.version),
            api_version: or(&self.common.api_version, DEFAULT_API_VERSION),
            protocol,
            namespaces: self.namespaces.clone(),
        };
        Ok(Checked { identity, node_socket, own_socket, rest })
    }
}

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) identity: Identity,
    pub(crate) node_socket: PathBuf,
    pub(crate) own_socket: PathBuf,
    pub(crate) rest: Option<(SocketAddr, Rest)>,
}

fn yes() -> bool {
    true
}

fn loopback() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About = About { name: "virtual", version: "1", protocol: "virtual" };

    #[test]
    fn the_file_of_a_mapper_of_kubeedge_is_understood() {
        let text = "
            grpc_server:
              socket_path: /etc/kubeedge/arduino.sock
            common:
              name: arduino-mapper
              version: v1.13.0
              api_version: v1.0.0
              protocol: arduino
              address: 127.0.0.1
              edgecore_sock: /etc/kubeedge/dmi.sock
              http_port: \"7778\"
            dev_init:
              mode: register
        ";
        let checked = Config::parse(text).unwrap().checked(&ABOUT).unwrap();
        assert_eq!(checked.identity.name, "arduino-mapper");
        assert_eq!(checked.identity.protocol, "arduino");
        assert_eq!(checked.own_socket, Path::new("/etc/kubeedge/arduino.sock"));
        assert_eq!(checked.rest.unwrap().0, "127.0.0.1:7778".parse().unwrap());
    }

    #[test]
    fn without_a_file_there_are_defaults() {
        let checked = Config::parse("").unwrap().checked(&ABOUT).unwrap();
        assert_eq!(checked.own_socket, Path::new("/etc/kubeedge/virtual.sock"));
        assert_eq!(checked.node_socket, Path::new(DEFAULT_NODE_SOCKET));
        assert_eq!(checked.rest.unwrap().0, "127.0.0.1:7777".parse().unwrap());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let table = [
            "rset: {}",
            "common: {nmae: x}",
            "common: {name: ../x}",
            "common: {name: ''}",
            "common: {protocol: ''}",
            "common: {http_port: many}",
            "common: {http_port: 70000}",
            "common: {edgecore_sock: dmi.sock}",
            "grpc_server: {socket_path: relative}",
            "rest: {cert_file: /c}",
            "rest: {ca_file: /c}",
            "common: [",
        ];
        for text in table {
            let refused = Config::parse(text).map_or(true, |config| config.checked(&ABOUT).is_err());
            assert!(refused, "{text}");
        }
        assert!(Config::parse(&"#".repeat(MAX_FILE_BYTES + 1)).is_err());
    }
}
