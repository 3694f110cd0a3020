//! asyncua as the server (`scripts/install-tools test` installs it below `target/python`).

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::*;

/// A process that ends with the test.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server of peer.py.
pub(crate) struct Peer {
    _child: Ended,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) port: u16,
}

pub(crate) fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python/bin/python");
    assert!(python.exists(), "scripts/install-tools test installs {}", python.display());
    python
}

impl Peer {
    /// A server that keeps its certificate in `folder`, on a free port.
    pub(crate) fn start(folder: &Path, options: &[&str]) -> Self {
        Self::start_on(folder, 0, options)
    }

    pub(crate) fn start_on(folder: &Path, port: u16, options: &[&str]) -> Self {
        let mut command = Command::new(python());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/opcua/peer.py"));
        command.arg(folder).arg(port.to_string()).args(options);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut peer = Self { _child: Ended(child), orders, answers, port: 0 };
        peer.port = u16::try_from(peer.answer()["port"].as_u64().unwrap()).unwrap();
        peer
    }

    fn answer(&mut self) -> Json {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Does what peer.py can be told.
    pub(crate) fn tell(&mut self, order: &Json) -> Json {
        writeln!(self.orders, "{order}").unwrap();
        self.answer()
    }

    /// What the server has, as it sees it.
    pub(crate) fn get(&mut self, name: &str) -> (String, Json) {
        let answer = self.tell(&json!({ "get": name }));
        (answer["type"].as_str().unwrap().to_owned(), answer["value"].clone())
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<Json>) {
        self.tell(&json!({ "set": name, "value": value.into() }));
    }

    pub(crate) fn url(&self) -> Json {
        json!({ "url": format!("opc.tcp://127.0.0.1:{}", self.port) })
    }

    /// The server's URL and these keys.
    pub(crate) fn with(&self, more: Json) -> Json {
        with(&self.url(), more)
    }

    /// Users that it turned away.
    pub(crate) fn refusals(&mut self) -> u64 {
        self.tell(&json!({ "counts": true }))["refusals"].as_u64().unwrap()
    }
}

/// A configuration and more keys.
pub(crate) fn with(config: &Json, more: Json) -> Json {
    let mut config = config.clone();
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}
