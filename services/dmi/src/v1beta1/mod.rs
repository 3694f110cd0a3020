//! KubeEdge's Device Mapper Interface, version v1beta1: names, numbers and order of calls are KubeEdge's.
//!
//! [`server`] takes what mappers call. A mapper that has registered is called back on its own socket by a
//! worker ([`worker`]) of its own, so that one that hangs keeps nobody else.

mod address;
mod convert;
mod server;
mod worker;

pub(crate) use server::{Managed, Workers};
