//! What begins a stream of the tunnel, and who may open one.
//!
//! The node that opens a stream sends a [`Header`], the other one a [`Reply`]; then bytes flow as they are.
//! The receiving node decides by [`authorise`], by its own table and nothing that the header claims: a stream
//! leads to an endpoint of the node that the mesh carries, or to a port of the node that its operator named, and
//! nowhere else. Who the peer is was settled before the first stream; every peer is a node of the cluster.

mod authorise;
mod header;
#[cfg(test)]
mod tests;

pub use authorise::{NodePorts, authorise};
pub use header::{Header, HeaderError, MAX_HEADER, ProxyInfo, REPLY_LEN, Refusal, Reply, Target, Trace, VERSION};
