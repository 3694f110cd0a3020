//! One connection to the kubelet of a node, for one request.
//!
//! Where it is, the Node says; that it is the node, its certificate. Limits: [`DIAL`] to connect,
//! [`ANSWER`] until the head of the answer; keep-alive finds a peer that went without a word.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use skerry_apimachinery::json::{int_at, list_at, str_at};
use skerry_apimachinery::{About, ApiError};
use skerry_common::NodeName;
use skerry_identity::{node_client, server_name};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::state::Api;

/// Connect and handshake.
const DIAL: Duration = Duration::from_secs(10);
/// Until the answer begins: the kubelet asks the runtime before.
const ANSWER: Duration = Duration::from_secs(45);
/// A silent connection is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A node's kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    node: NodeName,
    address: SocketAddr,
}

impl Target {
    /// Where the Node says that its kubelet is.
    pub(crate) fn find(api: &Api, name: &str) -> Result<Self, ApiError> {
        let about = || About::new("", "nodes", name);
        let node = api.storage.get("/nodes", "", name).ok_or_else(|| ApiError::NotFound(about()))?;
        Self::of(name, &node.value())
    }

    fn of(name: &str, node: &Value) -> Result<Self, ApiError> {
        let nowhere = |what: &str| ApiError::Unavailable(format!("node {name} has no {what} for its kubelet"));
        let node_name = NodeName::parse(name).map_err(|_| nowhere("name that can be verified"))?;
        let addresses = list_at(node, "/status/addresses");
        let of = |kind: &str| {
            let mut ours = addresses.iter().filter(|a| str_at(a, "/type") == kind);
            ours.find_map(|a| str_at(a, "/address").parse::<IpAddr>().ok())
        };
        let ip = of("InternalIP").or_else(|| of("ExternalIP")).ok_or_else(|| nowhere("address"))?;
        let port = int_at(node, "/status/daemonEndpoints/kubeletEndpoint/Port");
        let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0).ok_or_else(|| nowhere("port"))?;
        Ok(Self { node: node_name, address: SocketAddr::new(ip, port) })
    }
}

/// Sends a request and waits for the head of its answer.
pub(crate) async fn send(
    api: &Api,
    target: &Target,
    mut request: http::Request<Body>,
) -> Result<http::Response<Incoming>, ApiError> {
    let failed = |what: String| ApiError::Internal(format!("error dialing backend: {}: {what}", target.address));
    let host = HeaderValue::from_str(&target.address.to_string()).map_err(|e| failed(e.to_string()))?;
    request.headers_mut().insert(header::HOST, host);
    let tls = node_client(&api.kubelets()?.watch, &target.node).map_err(|e| failed(skerry_common::chain(&e)))?;
    let tls = tls.ok_or_else(|| ApiError::Unavailable("there is no certificate for kubelets yet".into()))?;
    let connect = async {
        let stream = TcpStream::connect(target.address).await?;
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
        // The verifier knows which node it wants; the name on the wire tells nobody anything.
        let name = server_name("kubelet").map_err(std::io::Error::other)?;
        TlsConnector::from(std::sync::Arc::new(tls)).connect(name, stream).await
    };
    let stream = tokio::time::timeout(DIAL, connect).await.map_err(|_| failed("no answer".into()))?;
    let stream = stream.map_err(|e| failed(e.to_string()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.to_string()))?;
    // It ends with its one answer, or hands the connection over to a stream.
    tokio::spawn(connection.with_upgrades());
    let answer = tokio::time::timeout(ANSWER, sender.send_request(request)).await;
    answer.map_err(|_| failed("no answer".into()))?.map_err(|e| failed(e.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn where_a_kubelet_is() {
        let node = |addresses: Value, port: Value| json!({"status": {"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
        let addresses = json!([{"type": "Hostname", "address": "h"}, {"type": "ExternalIP", "address": "192.0.2.9"},
            {"type": "InternalIP", "address": "192.0.2.1"}]);
        let found = Target::of("edge-1", &node(addresses.clone(), json!(10250))).unwrap();
        assert_eq!(found.address, "192.0.2.1:10250".parse().unwrap());
        for (addresses, port) in [
            (addresses.clone(), json!(null)),
            (addresses.clone(), json!(0)),
            (addresses, json!(70000)),
            (json!([{"type": "Hostname", "address": "h"}]), json!(10250)),
            (json!([{"type": "InternalIP", "address": "example.org"}]), json!(10250)),
        ] {
            let error = Target::of("edge-1", &node(addresses, port)).unwrap_err();
            assert!(matches!(error, ApiError::Unavailable(_)), "{error}");
        }
        assert!(Target::of("Not_A_Name", &json!({})).is_err());
    }
}
