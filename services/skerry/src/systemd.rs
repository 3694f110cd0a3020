//! The systemd unit of a node: installed by `join`, removed by `reset`.
//!
//! Everything goes through `systemctl` with an argument vector. On a machine that was not booted with
//! systemd nothing is installed, and the caller tells the user what to run instead.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::failure::{Context as _, Failure, Result};
use crate::files::write_atomically;

const UNIT: &str = "skerry-edge.service";
const UNIT_PATH: &str = "/etc/systemd/system/skerry-edge.service";
const TEMPLATE: &str = include_str!("../systemd/skerry-edge.service");

/// Whether systemd runs this machine (as `sd_booted` finds out).
pub(crate) fn is_here() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Installs, enables and starts the unit.
pub(crate) async fn install(program: &Path, data_dir: &Path) -> Result<()> {
    let text = render(program, data_dir)?;
    write_atomically(Path::new(UNIT_PATH), text.as_bytes(), 0o644)?;
    systemctl(&["daemon-reload"]).await?;
    systemctl(&["enable", "--now", "--no-block", UNIT]).await
}

/// Stops and removes the unit, if it is there.
pub(crate) async fn remove() -> Result<()> {
    if !Path::new(UNIT_PATH).exists() {
        return Ok(());
    }
    if is_here() {
        systemctl(&["disable", "--now", UNIT]).await?;
    }
    fs::remove_file(UNIT_PATH).or_fail(|| format!("cannot remove {UNIT_PATH}"))?;
    if is_here() {
        systemctl(&["daemon-reload"]).await?;
    }
    Ok(())
}

fn render(program: &Path, data_dir: &Path) -> Result<String> {
    let plain = |path: &Path| {
        // What systemd would read as more than a word: refused rather than escaped.
        let text = path.to_str().filter(|t| !t.contains(|c: char| c.is_whitespace() || "\"'\\%$;".contains(c)));
        text.map(str::to_owned)
            .ok_or_else(|| Failure::usage(format!("the path {} cannot be used in a systemd unit", path.display())))
    };
    Ok(TEMPLATE.replace("@PROGRAM@", &plain(program)?).replace("@DATA_DIR@", &plain(data_dir)?))
}

async fn systemctl(arguments: &[&str]) -> Result<()> {
    let what = || format!("systemctl {} failed", arguments.join(" "));
    let output = Command::new("systemctl").args(arguments).stdin(Stdio::null()).output().await.or_fail(what)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(what()).cause(said.trim().to_owned()).cure("see journalctl -u skerry-edge"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_unit_has_no_place_left_and_takes_no_odd_path() {
        let text = render(Path::new("/usr/bin/skerry"), Path::new("/var/lib/skerry")).unwrap();
        assert!(text.contains("ExecStart=/usr/bin/skerry edge --data-dir /var/lib/skerry\n"));
        let places = text.matches("@PROGRAM@").count() + text.matches("@DATA_DIR@").count();
        assert_eq!(places, 0);
        for odd in ["/a b", "/a\nExecStartPre=/bin/x", "/a%n", "/a;b"] {
            assert!(render(Path::new(odd), Path::new("/var/lib/skerry")).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn the_unit_keeps_the_mount_namespace_of_the_machine() {
        for line in TEMPLATE.lines().filter(|l| !l.starts_with('#')) {
            for makes_one in
                ["ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "ReadWritePaths", "PrivateMounts"]
            {
                assert!(!line.starts_with(makes_one), "{line}: volumes would not be seen by the runtime");
            }
        }
    }
}
