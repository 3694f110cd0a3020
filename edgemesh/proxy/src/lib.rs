//! The mesh's data path in user space: connections and datagrams that the kernel could not send to their
//! backend itself, to a backend that this node reaches or through the tunnel to another node.
//!
//! The node's agent joins it with the rest: [`Choose`] is the service table with its balancer, [`Dial`] and the
//! streams for [`Proxy::receive`] are the tunnel, [`Admit`] is the table again. Nothing here knows Services.
//!
//! Invariants: no byte is lost or added, and an end is passed on as what it was, an end or a break; nobody who
//! says nothing keeps anybody else waiting; every wait has a deadline and everything that is kept has a bound
//! ([`Limits`], [`Policy`]).

mod accept;
mod connect;
mod dial;
mod duplex;
mod error;
mod events;
mod flow;
mod half;
mod inbound;
mod limits;
mod metrics;
mod pool;
mod proxy;
mod socket;
mod socks;
mod tcp;
mod udp;
mod wire;

pub use dial::{Dial, DialError};
pub use duplex::End;
pub use error::BindError;
pub use flow::{Candidate, Choice, Choose, Destination, Feedback, Flow, Plan, Policy, Seen, Target, Unserved};
pub use inbound::{Admit, Admitted};
pub use limits::Limits;
pub use proxy::Proxy;
pub use socket::Interception;
pub use socks::{SocksAccess, SocksListen};
pub use tcp::TcpListen;
pub use udp::UdpListen;
