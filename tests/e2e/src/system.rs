//! A system of `skerry up` in a directory of its own, with ports of its own.
//!
//! It is taken down when the value is dropped, whatever happened before.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::Context as _;
use serde_json::Value;

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A running system.
#[derive(Debug)]
pub struct System {
    directory: tempfile::TempDir,
}

impl System {
    /// Starts a system with the hello example; `more` are further flags.
    ///
    /// # Errors
    /// When `skerry up` fails; its words are in the error.
    pub fn up(port_base: u16, more: &[&str]) -> anyhow::Result<Self> {
        // Short: sockets of the runtime are below it.
        let system = Self { directory: tempfile::Builder::new().prefix("sk").tempdir()? };
        system.up_again(port_base, more)?;
        Ok(system)
    }

    /// Starts only the control plane and the cloud services.
    ///
    /// # Errors
    /// When `skerry up` fails; its words are in the error.
    pub fn cloud(port_base: u16) -> anyhow::Result<Self> {
        let system = Self { directory: tempfile::Builder::new().prefix("sk").tempdir()? };
        let mut command = system.command(&["up", "--cloud-only", "--port-base"]);
        succeed(command.arg(port_base.to_string()).arg("--dir").arg(system.dir()))?;
        Ok(system)
    }

    /// Runs a command of the CLI and says how it ended, without expecting anything.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn attempt(&self, arguments: &[&str]) -> anyhow::Result<Ended> {
        let output = self.command(arguments).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ended { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// Runs `skerry up` once more.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub fn up_again(&self, port_base: u16, more: &[&str]) -> anyhow::Result<()> {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello");
        let mut command = self.command(&["up"]);
        command.arg("--port-base").arg(port_base.to_string()).arg("--example").arg(example).args(more);
        succeed(command.arg("--dir").arg(self.dir()))?;
        Ok(())
    }

    /// Takes it down.
    ///
    /// # Errors
    /// When `skerry down` fails.
    pub fn down(&self) -> anyhow::Result<()> {
        succeed(self.command(&["down", "--dir"]).arg(self.dir()))?;
        Ok(())
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.directory.path().join("up")
    }

    /// Runs a command of the CLI on its cluster.
    ///
    /// # Errors
    /// When the command fails.
    pub fn skerry(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command(arguments);
        succeed(command.arg("--kubeconfig").arg(self.dir().join("kubeconfig")))
    }

    /// As [`Self::skerry`], with `-o json`.
    ///
    /// # Errors
    /// When the command fails or does not print JSON.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let arguments = [arguments, &["-o", "json"]].concat();
        let text = self.skerry(&arguments)?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// Runs kubectl on its cluster and reads its JSON.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.dir().join("kubeconfig")).args(arguments).args(["-o", "json"]);
        Ok(serde_json::from_str(&succeed(&mut command)?)?)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("skerry"));
        command.args(arguments).current_dir(self.directory.path()).env_remove("KUBECONFIG").env_remove("SKERRY_LOG");
        command
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if self.dir().exists() {
            let _ = self.down();
        }
    }
}

/// A program of this workspace: tests lie in `target/<profile>/deps`, programs one level up.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    test.parent().and_then(Path::parent).map(|profile| profile.join(name)).unwrap_or_default()
}

fn succeed(command: &mut Command) -> anyhow::Result<String> {
    let output: Output = command.output().with_context(|| format!("{command:?}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    anyhow::ensure!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    Ok(out.into_owned())
}
