//! The container runtime: its client, what it shows, and what it is told.

pub(crate) mod app_armor;
pub(crate) mod client;
pub(crate) mod container_config;
pub(crate) mod dns;
pub(crate) mod find;
pub(crate) mod observe;
pub(crate) mod relist;
pub(crate) mod sandbox_config;
pub(crate) mod security;
pub(crate) mod sysctls;

pub(crate) use client::{Cri, forget_earlier_agents};
