//! The kubelet's HTTPS API: logs, exec, attach, port-forward, and what is measured.
//!
//! Its callers are an API server (the embedded one, or a kube-apiserver) and tools with a token. Paths,
//! options and texts of errors are the kubelet's. [`listen`] ends connections, [`auth`] says who may,
//! [`reviews`] asks the cloud about callers, [`route`] says what is asked for, [`find`] which pod and
//! container that is; [`measured`] renders statistics, [`logs`] reads files, and [`stream`] passes exec, attach and port-forward on to the runtime's streaming server, byte by byte.
//!
//! Invariants: nothing is answered before the caller is known and allowed; a stream ends with its client,
//! its container or its limits, whichever is first, and then nothing of it is left: no task, no connection,
//! and no process of an exec ([`claim`]). Limits: [`limits`].
//! When the agent stops, all streams end; on a crash clients see a closed connection.

mod answer;
mod auth;
mod claim;
mod find;
mod limits;
mod listen;
mod logs;
mod measured;
mod pods;
mod reviews;
mod route;
mod run;
mod serve;
mod stream;
mod streams;

pub(crate) use listen::Server;
pub(crate) use serve::Shared;
pub(crate) use streams::Streams;
