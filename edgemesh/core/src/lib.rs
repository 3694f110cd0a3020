//! EdgeMesh without IO, clock or randomness: what the mesh knows and how it decides.
//!
//! Objects, the time and random numbers come in as arguments; tables, choices and answers go out. So the
//! same code serves the agent, the proxy, the DNS server and the tests, which run it by tables and
//! properties. Nothing here blocks, opens a socket or reads a file.
