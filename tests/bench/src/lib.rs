//! Benchmarks: programs that measure the real binaries and compare the figures with their targets.
//!
//! Each `src/bin/*.rs` is one `make bench-…`. It prints its figures and exits with 1 when a target is
//! missed. Nothing here is a test: figures depend on the machine, promises about behaviour do not.

pub mod cluster;
pub mod cri;
pub mod edge;
pub mod figures;
pub mod machine;
pub mod modbus;
pub mod node;
pub mod pods;
pub mod proc;

use std::process::ExitCode;

/// The exit code of a benchmark: 1 when it failed or missed a target.
#[expect(clippy::print_stderr, reason = "this is a program for people")]
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a benchmark until it ends, or until it is told to end: then what it has started is taken away too.
///
/// # Errors
/// Those of the benchmark.
pub fn run<F: Future<Output = anyhow::Result<()>>>(benchmark: F) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            ended = benchmark => ended,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("terminated"),
        }
    })
}

/// Says what is going on to the person who waits.
#[expect(clippy::print_stderr, reason = "progress for the person who waits")]
pub fn say(text: &str) {
    eprintln!("… {text}");
}
