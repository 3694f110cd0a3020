//! `skerry-mapper-virtual`: made-up devices as a process.

use std::process::ExitCode;

use skerry_mapper_virtual::{ABOUT, Virtual};

fn main() -> ExitCode {
    skerry_mapper_sdk::run_with(&ABOUT, Virtual::default(), skerry_mapper_dataplane::open)
}
