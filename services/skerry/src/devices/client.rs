//! dmi of this node as the commands use it: where its socket is, and its errors in words for people.
//!
//! One connection, dialled once. Calls have deadlines; a watch has none.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skerry_common::exit;
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::devices_client::DevicesClient;
use skerry_rpc::limits::DMI_MESSAGE_BYTES;
use skerry_rpc::{Channel, ClientLimits, ConnectError, Target, connect_once};
use tonic::{Code, Request, Status, Streaming};

use super::near::near;
use super::{NodeArgs, show};
use crate::edge::EdgeConfig;
use crate::failure::{Failure, Result};
use crate::places;

/// Longest wait for an answer on the same machine; a desired value is written to disk in it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the node is started.
const START: &str = "start the node: systemctl start skerry-edge, or skerry edge";
/// Who may use the socket.
const WHO: &str = "run it as root, or let the user in: dmi.socketGroup or dmi.allowedUids in the node's edge.yaml, then restart the node";

/// See the module documentation.
#[derive(Debug, Clone)]
pub(super) struct Devices {
    client: DevicesClient<Channel>,
}

impl Devices {
    /// Connects to the node's socket.
    pub(super) async fn connect(node: &NodeArgs) -> Result<Self> {
        let socket = socket(node)?;
        let limits = ClientLimits { connect_timeout: PATIENCE, ..ClientLimits::local() };
        let connection = connect_once(&Target::unix(&socket), &limits).await.map_err(|e| unreachable(&socket, &e))?;
        Ok(Self { client: DevicesClient::new(connection.channel()).max_decoding_message_size(DMI_MESSAGE_BYTES) })
    }

    /// All devices of a namespace; of all, when it is empty.
    pub(super) async fn list(&mut self, namespace: &str) -> Result<Vec<pb::DeviceView>> {
        let request = pb::ListDevicesRequest { namespace: namespace.to_owned() };
        let answer = self.client.list_devices(asked(request)).await;
        Ok(answer.map_err(|status| failed("cannot list the devices", &status))?.into_inner().devices)
    }

    /// One device.
    pub(super) async fn get(&mut self, key: &pb::DeviceKey) -> Result<pb::DeviceView> {
        let request = pb::GetDeviceRequest { device: Some(key.clone()) };
        match self.client.get_device(asked(request)).await {
            Ok(view) => Ok(view.into_inner()),
            Err(status) if status.code() == Code::NotFound => Err(self.missing(key).await),
            Err(status) => Err(failed(&format!("cannot show the device {}", show::named(key)), &status)),
        }
    }

    /// Sets a desired value.
    pub(super) async fn set(&mut self, key: &pb::DeviceKey, property: &str, value: &str) -> Result<()> {
        let request =
            pb::SetDesiredRequest { device: Some(key.clone()), property: property.into(), value: value.into() };
        let set = self.client.set_desired(asked(request)).await;
        set.map(drop).map_err(|status| failed(&format!("cannot set {property}"), &status))
    }

    /// What a device has now; the mapper may take so long.
    pub(super) async fn read(
        &mut self,
        key: &pb::DeviceKey,
        properties: Vec<String>,
        timeout: Duration,
    ) -> Result<Vec<pb::TwinView>> {
        let what = format!("cannot read the device {}", show::named(key));
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let all = properties.is_empty();
        let request = pb::ReadDeviceRequest { device: Some(key.clone()), properties, timeout_ms };
        let answer = self.client.read_device(skerry_rpc::deadline(Request::new(request), timeout + PATIENCE)).await;
        match answer {
            Ok(answer) => Ok(answer.into_inner().twins),
            Err(status) if status.code() == Code::NotFound && all => Err(self.missing(key).await),
            // The node has answered: it is the device that did not.
            Err(status) if matches!(status.code(), Code::DeadlineExceeded | Code::FailedPrecondition) => {
                let failure = Failure::new(what).cause(show::plain(status.message())).code(exit::UNREACHABLE);
                Err(failure.cure("skerry describe device shows how it is, and the last values"))
            }
            Err(status) => Err(failed(&what, &status)),
        }
    }

    /// Each device as it is, then each that changes.
    pub(super) async fn watch(&mut self, namespace: &str) -> Result<Streaming<pb::DeviceChange>> {
        let request = pb::WatchDevicesRequest { namespace: namespace.to_owned() };
        let answer = self.client.watch_devices(request).await;
        Ok(answer.map_err(|status| failed(WATCHING, &status))?.into_inner())
    }

    /// All mappers.
    pub(super) async fn mappers(&mut self) -> Result<Vec<pb::MapperView>> {
        let answer = self.client.list_mappers(asked(pb::ListMappersRequest {})).await;
        Ok(answer.map_err(|status| failed("cannot list the mappers", &status))?.into_inner().mappers)
    }

    /// What to say about a device that is not there.
    async fn missing(&mut self, key: &pb::DeviceKey) -> Failure {
        // Without the names there is no help, and still an answer.
        let known = self.list("").await.unwrap_or_default();
        missing(key, &known.into_iter().filter_map(|view| view.key).collect::<Vec<_>>())
    }
}

/// What a watch that fails says.
pub(super) const WATCHING: &str = "cannot watch the devices";

/// The node has ended a watch.
pub(super) fn ended() -> Failure {
    Failure::new(WATCHING).cause("the node's services have stopped").code(exit::UNREACHABLE).cure(START)
}

fn asked<T>(message: T) -> Request<T> {
    skerry_rpc::deadline(Request::new(message), PATIENCE)
}

/// The failure for a device that is not among the known ones.
fn missing(key: &pb::DeviceKey, known: &[pb::DeviceKey]) -> Failure {
    let failure = Failure::new(format!("the device {} is not on this node", show::named(key))).code(exit::NOT_FOUND);
    if let Some(other) = known.iter().find(|other| other.name == key.name) {
        return failure.cure(format!("it is in another namespace: -n {}", other.namespace));
    }
    let here = known.iter().filter(|other| other.namespace == key.namespace).map(|other| other.name.as_str());
    match near(&key.name, here).as_slice() {
        [] if known.is_empty() => {
            failure.cure("no devices are assigned to this node: see spec.nodeName of the Device in the cloud")
        }
        [] => failure.cure("skerry get devices -A"),
        names => failure.cure(format!("did you mean {}?", names.join(" or "))),
    }
}

/// Where the node's dmi listens.
fn socket(node: &NodeArgs) -> Result<PathBuf> {
    let configured = |dir: &Path| skerry_common::load::<EdgeConfig>(&dir.join(places::EDGE_CONFIG));
    match (&node.socket, &node.data_dir) {
        (Some(socket), _) => Ok(socket.clone()),
        (None, Some(dir)) => Ok(configured(dir)
            .map_err(|error| {
                let failure = Failure::usage(format!("{} is not the directory of a node", dir.display()));
                failure.because(&error).cure("name the directory that skerry join wrote to, or the --socket")
            })?
            .dmi
            .socket),
        // Only root can read the configuration: for others it is the usual socket.
        (None, None) => {
            let usual = || skerry_dmi::DEFAULT_SOCKET.into();
            Ok(configured(Path::new(places::EDGE_DIR)).map_or_else(|_| usual(), |config| config.dmi.socket))
        }
    }
}

fn unreachable(socket: &Path, error: &ConnectError) -> Failure {
    let failure = Failure::new("cannot reach the devices of this node").because(error).code(exit::UNREACHABLE);
    let ConnectError::Io { source, .. } = error else { return failure.cure(START) };
    match source.kind() {
        ErrorKind::NotFound => failure.cure(format!(
            "{START}; if its socket is not {}, name the node's directory with --data-dir, or the --socket",
            socket.display()
        )),
        ErrorKind::PermissionDenied => failure.code(exit::REFUSED).cure(WHO),
        _ => failure.cure(START),
    }
}

/// A refused or failed call as a failure.
pub(super) fn failed(what: &str, status: &Status) -> Failure {
    let failure = Failure::new(what).cause(show::plain(status.message()));
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => failure.code(exit::UNREACHABLE).cure(START),
        Code::Unauthenticated | Code::PermissionDenied => failure.code(exit::REFUSED).cure(WHO),
        Code::NotFound => failure.code(exit::NOT_FOUND),
        Code::InvalidArgument => failure.code(exit::USAGE),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(namespace: &str, name: &str) -> pb::DeviceKey {
        pb::DeviceKey { namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn a_device_that_is_missing_has_a_cure() {
        let known = [key("plant", "boiler-1"), key("plant", "pump"), key("lab", "scale")];
        for (wanted, cure) in [
            (key("plant", "boiler1"), "did you mean boiler-1?"),
            (key("default", "pump"), "-n plant"),
            (key("lab", "boiler-2"), "skerry get devices -A"),
        ] {
            let failure = missing(&wanted, &known);
            assert_eq!(failure.code, exit::NOT_FOUND);
            assert!(failure.to_string().contains(cure), "{failure}");
        }
        assert!(missing(&key("a", "b"), &[]).to_string().contains("spec.nodeName"));
    }

    #[test]
    fn the_socket_is_the_one_of_the_nodes_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let node = |socket: Option<&str>, data_dir: Option<&Path>| NodeArgs {
            socket: socket.map(Into::into),
            data_dir: data_dir.map(Path::to_owned),
        };
        assert_eq!(socket(&node(Some("/x.sock"), None)).unwrap(), Path::new("/x.sock"));
        let failure = socket(&node(None, Some(dir.path()))).unwrap_err();
        assert_eq!(failure.code, exit::USAGE);
        let text = "nodeName: edge-1\nhubs: []\ntrustDomain: t\nadminListen: 127.0.0.1:1\ndmi: {socket: /run/x.sock}\n";
        std::fs::write(dir.path().join(places::EDGE_CONFIG), text).unwrap();
        assert_eq!(socket(&node(None, Some(dir.path()))).unwrap(), Path::new("/run/x.sock"));
    }

    #[test]
    fn what_cannot_be_reached_says_who_may_and_what_to_start() {
        let error = |kind: ErrorKind| ConnectError::Io { address: "/d.sock".into(), source: kind.into() };
        let denied = unreachable(Path::new("/d.sock"), &error(ErrorKind::PermissionDenied));
        assert_eq!(denied.code, exit::REFUSED);
        assert!(denied.to_string().contains("dmi.socketGroup"), "{denied}");
        for kind in [ErrorKind::NotFound, ErrorKind::ConnectionRefused] {
            let down = unreachable(Path::new("/d.sock"), &error(kind));
            assert_eq!(down.code, exit::UNREACHABLE);
            assert!(down.to_string().contains("systemctl start skerry-edge"), "{down}");
        }
        let refused = failed("x", &Status::permission_denied("the user 7 may not"));
        assert_eq!(refused.code, exit::REFUSED);
        assert_eq!(failed("x", &Status::invalid_argument("too large")).code, exit::USAGE);
    }
}
