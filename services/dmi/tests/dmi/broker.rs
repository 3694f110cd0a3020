//! A broker of the test's own, and mosquitto's clients.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::node::eventually;

/// Mosquitto on a port of its own.
pub(crate) struct Broker {
    pub(crate) port: u16,
    dir: tempfile::TempDir,
    process: Option<Child>,
    /// Arguments of clients: user, password, files.
    pub(crate) client: Vec<String>,
}

impl Broker {
    /// One that lets everybody in.
    pub(crate) async fn open() -> Self {
        Self::with(tempfile::tempdir().unwrap(), "allow_anonymous true\n", &[]).await
    }

    /// One that is configured otherwise, with files in a folder.
    pub(crate) async fn with(dir: tempfile::TempDir, config: &str, client: &[String]) -> Self {
        // Nobody else asks for this port in the moment until it is used: the kernel hands them out in turn.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!("user root\npersistence false\nlistener {port} 127.0.0.1\n{config}");
        std::fs::write(dir.path().join("mosquitto.conf"), text).unwrap();
        let mut broker = Self { port, dir, process: None, client: client.to_vec() };
        broker.start().await;
        broker
    }

    pub(crate) async fn start(&mut self) {
        let config = self.dir.path().join("mosquitto.conf");
        let program =
            ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"].into_iter().find(|path| Path::new(path).exists());
        let mut command = Command::new(program.expect("mosquitto is not installed: scripts/install-tools test"));
        let process = command.arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.process = Some(process.spawn().unwrap());
        let listens = eventually(async || tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok());
        listens.await.expect("mosquitto does not listen");
    }

    /// Ends it; it keeps nothing.
    pub(crate) async fn kill(&mut self) {
        self.process.take().unwrap().kill().await.unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("stdbuf");
        // What mosquitto_sub says must come when it says it.
        command
            .args(["-oL", program])
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(&self.client)
            .args(arguments);
        command.kill_on_drop(true);
        command
    }

    /// Publishes with QoS 1.
    pub(crate) async fn publish(&self, topic: &str, message: &str) {
        self.send(&["-q", "1", "-t", topic, "-s"], message).await;
    }

    /// Publishes what comes on the standard input.
    pub(crate) async fn send(&self, arguments: &[&str], input: &str) {
        let mut process = self.command("mosquitto_pub", arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        assert!(process.wait().await.unwrap().success());
    }

    /// Listens to everything below `$hw`.
    pub(crate) async fn listen(&self) -> Listener {
        let arguments = ["-d", "-q", "1", "-t", "$hw/#", "-F", "%t %p"];
        let mut process = self.command("mosquitto_sub", &arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        while !lines.next_line().await.unwrap().expect("mosquitto_sub ended").starts_with("Subscribed") {}
        Listener { _process: process, lines }
    }

    /// Waits until the node serves the bus.
    pub(crate) async fn until_served(&self) -> Listener {
        let mut listener = self.listen().await;
        let served = eventually(async || {
            self.publish("$hw/events/node/edge-1/membership/get", r#"{"event_id":"ready"}"#).await;
            let soon = std::time::Duration::from_millis(500);
            tokio::time::timeout(soon, listener.hear("$hw/events/node/edge-1/membership/get/result")).await.ok()
        });
        served.await.expect("the node does not serve the bus");
        listener
    }
}

/// `mosquitto_sub`.
pub(crate) struct Listener {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Listener {
    /// The next message.
    pub(crate) async fn next(&mut self) -> (String, Value) {
        loop {
            let line = tokio::time::timeout(std::time::Duration::from_secs(20), self.lines.next_line()).await;
            let line = line.expect("no message came").unwrap().expect("mosquitto_sub ended");
            if let Some((topic, payload)) = line.split_once(' ').filter(|(topic, _)| topic.starts_with("$hw/")) {
                return (topic.to_owned(), serde_json::from_str(payload).unwrap_or(Value::Null));
            }
        }
    }

    /// The next message of a topic; others before it are left out.
    pub(crate) async fn hear(&mut self, topic: &str) -> Value {
        loop {
            let (heard, message) = self.next().await;
            if heard == topic {
                return message;
            }
        }
    }

    /// The answer to a request of this name.
    pub(crate) async fn answer(&mut self, topic: &str, event_id: &str) -> Value {
        loop {
            let message = self.hear(topic).await;
            if message["event_id"] == event_id {
                return message;
            }
        }
    }
}
