//! `ip`, `tc` and `nft`, each started once for many lines, which it reads from its standard input.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::LabError;

/// Runs lines of `ip`.
pub(crate) fn ip(lines: &[String]) -> Result<(), LabError> {
    feed("ip", &["-batch", "-"], &(lines.join("\n") + "\n"))
}

/// Runs lines of `ip`, also those behind one that fails.
pub(crate) fn ip_all(lines: &[String]) -> Result<(), LabError> {
    feed("ip", &["-force", "-batch", "-"], &(lines.join("\n") + "\n"))
}

/// Whether these interfaces carry, as `ip link` sees them.
pub(crate) fn carry(interfaces: &[&str]) -> Result<bool, LabError> {
    let output = Command::new("ip").args(["-oneline", "link"]).output().map_err(LabError::io("ip cannot be run"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let carries = |interface: &&str| {
        let line = text.lines().find(|line| {
            let name = line.split_whitespace().nth(1).unwrap_or_default();
            name.split(['@', ':']).next() == Some(interface)
        });
        // A TAP device does not know its state.
        line.is_some_and(|line| line.contains("state UP") || line.contains("state UNKNOWN"))
    };
    Ok(interfaces.iter().all(carries))
}

/// Runs lines of `tc`.
pub(crate) fn tc(lines: &[String]) -> Result<(), LabError> {
    feed("tc", &["-batch", "-"], &(lines.join("\n") + "\n"))
}

/// Loads rules, all or nothing.
pub(crate) fn nft(rules: &str) -> Result<(), LabError> {
    feed("nft", &["-f", "-"], rules)
}

fn feed(program: &'static str, arguments: &[&str], text: &str) -> Result<(), LabError> {
    let failed = || LabError::io(format!("{program} cannot be run; root, iproute2 and nftables are needed"));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed())?;
    // A program that refuses a line may not read the others; its own words say more than the broken pipe.
    let fed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(failed())?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(LabError::Refused { program, message });
    }
    fed.map_err(failed())
}
