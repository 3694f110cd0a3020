//! DNS of a node: names of the cluster from the mesh's table, everything else from the node's name servers, through a
//! cache that goes on when they do not answer.
//!
//! The agent runs it on 169.254.96.16, which edged tells its pods. It stands alone: no tunnel, no API server and no
//! other program is needed for the cluster's names, and what upstream has said before is answered for three days more.
//!
//! What pods get in their `resolv.conf` (Kubernetes' `dnsPolicy: ClusterFirst`) is not decided here: `nameserver
//! 169.254.96.16`, `search <ns>.svc.<domain> svc.<domain> <domain>` and what the node has, `options ndots:5`. So
//! `orders.shop` is asked for below each of these first; the server sees whole names only, and answers at once which of
//! them do not exist.
//!
//! The server is our own and the wire format is hickory's. hickory's server spawns a task for every datagram and takes
//! every connection, without a bound; here nothing is unbounded, and what is in memory is answered without a task.
//!
//! | part | does |
//! |---|---|
//! | `udp`, `tcp`, `bind` | sockets |
//! | `query`, `packet` | questions in place, answers as bytes |
//! | `answerer` | decides; `zone` for the cluster, `store` and `upstream` for the rest |

mod answerer;
mod bind;
mod cache;
mod config;
mod error;
mod lifetime;
mod metrics;
mod packet;
mod query;
mod server;
mod sources;
mod store;
mod tcp;
mod udp;
mod upstream;
mod zone;

pub use config::Config;
pub use error::DnsError;
pub use server::{Dns, DnsHandle};
pub use upstream::servers::{ServerState, ServerStatus};
pub use zone::{ClusterZone, Zone};
