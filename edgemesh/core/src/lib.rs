//! EdgeMesh without IO, clock or randomness: what the mesh knows and how it decides.
//!
//! Objects, the time and random numbers come in as arguments; tables, choices and answers go out. So the
//! same code serves the agent, the proxy, the DNS server and the tests, which run it by tables and
//! properties. Nothing here blocks, opens a socket or reads a file.

mod balance;
pub mod names;
mod route;
mod rule;
mod table;
mod tunnel;

pub use balance::{
    Balancer, Candidate, Client, Defaults, EndpointStatus, MAX_ATTEMPTS, MAX_CLIENTS, Place, Settings, Tier,
};
pub use route::{Ask, Choice, EARLY, MAX_PEEK, Neighbours, Plan, Route, Router, Unserved, Way};
pub use rule::{
    ConnectionPool, DestinationRule, HashKey, Keepalive, MAX_HEADER_NAME, MAX_PORT_SETTINGS, MAX_WARNINGS,
    OutlierDetection, Policy, Reason, Traffic, Warning,
};
pub use table::{
    Distribution, EDGEMESH_PROXY_NAME, Effect, Endpoint, Family, Filter, Host, IpRange, MAX_ADDRESSES, MAX_BODY,
    MAX_OBJECTS, MAX_PORTS, MAX_SLICE_ENDPOINTS, MESH_PREFIX, Malformed, Match, Node, Origin,
    PROXY_PROTOCOL_ANNOTATION, PortEndpoints, PortSpec, Protocol, ProxyProtocol, RangeError, Rejected,
    SERVICE_PROXY_NAME, Service, ServiceKind, ServiceSpec, Table, TableBuilder, TrafficPolicy, Via,
};
pub use tunnel::{
    Header, HeaderError, MAX_HEADER, NodePorts, ProxyInfo, REPLY_LEN, Refusal, Reply, Target, Trace, VERSION, authorise,
};
