//! `skerry-mapper-opcua`: the nodes of OPC UA servers as a process.

use std::process::ExitCode;

use skerry_mapper_opcua::{ABOUT, OpcUa};

fn main() -> ExitCode {
    skerry_mapper_sdk::run_with(&ABOUT, OpcUa::from_environment(), skerry_mapper_dataplane::open)
}
