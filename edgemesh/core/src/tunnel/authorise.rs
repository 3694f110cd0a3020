//! Where a stream from another node may lead. Pure; called for each stream before anything is dialled.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::header::{Header, Refusal, Target};
use crate::table::{Protocol, Table};

/// Ports of the node itself that its operator opened for other nodes, such as that of ssh. None at first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodePorts(pub BTreeSet<(Protocol, u16)>);

/// Where the stream leads; for a port of the node, `node` with that port.
///
/// # Errors
/// [`Refusal::Forbidden`] when it is neither an endpoint on this node nor one of its open ports.
pub fn authorise(
    header: &Header,
    table: &Table,
    ports: &NodePorts,
    node: std::net::IpAddr,
) -> Result<SocketAddr, Refusal> {
    match header.target {
        Target::Endpoint(address) if table.is_local_endpoint(header.protocol, address) => Ok(address),
        Target::Node(port) if ports.0.contains(&(header.protocol, port)) => Ok(SocketAddr::new(node, port)),
        Target::Endpoint(_) | Target::Node(_) => Err(Refusal::Forbidden),
    }
}
