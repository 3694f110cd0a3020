//! `skerry-mapper-modbus`: Modbus devices as a process.

use std::process::ExitCode;

use skerry_mapper_modbus::{ABOUT, Modbus};

fn main() -> ExitCode {
    skerry_mapper_sdk::run_with(&ABOUT, Modbus, skerry_mapper_dataplane::open)
}
