//! A broker of the test's own, and mosquitto's clients.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Split};
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
        let log = dir.path().join("log").display().to_string();
        let text = format!("user root\npersistence false\nlog_dest file {log}\nlistener {port} 127.0.0.1\n{config}");
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

    /// What the broker says of itself.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
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
    pub(crate) async fn send(&self, arguments: &[&str], input: impl AsRef<[u8]>) {
        assert!(self.try_send(arguments, input).await);
    }

    /// As [`Broker::send`]; whether the broker let the client in.
    pub(crate) async fn try_send(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> bool {
        let mut command = self.command("mosquitto_pub", arguments);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdin = process.stdin.take().unwrap();
        // One that was not let in does not read.
        let _ = stdin.write_all(input.as_ref()).await;
        drop(stdin);
        process.wait().await.unwrap().success()
    }

    /// Whether the broker says over MQTT 5 that nobody listens to a topic.
    pub(crate) async fn is_nobodys(&self, topic: &str) -> bool {
        let output = self.command("mosquitto_pub", &["-d", "-q", "1", "-t", topic, "-m", "{}"]).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("received PUBACK"), "{text}");
        text.contains("RC:16")
    }

    /// Listens to everything below `$hw`.
    pub(crate) async fn listen(&self) -> Listener {
        self.listen_as(&[]).await
    }

    /// As [`Broker::listen`], with more arguments.
    pub(crate) async fn listen_as(&self, more: &[&str]) -> Listener {
        let arguments = [&["-d", "-q", "1", "-t", "$hw/#", "-F", "%t %p"], more].concat();
        let mut process = self.command("mosquitto_sub", &arguments).stdout(Stdio::piped()).spawn().unwrap();
        // Not all that is published is text.
        let lines = BufReader::new(process.stdout.take().unwrap()).split(b'\n');
        let mut listener = Listener { _process: process, lines };
        while !listener.line().await.starts_with("Subscribed") {}
        listener
    }

    /// Waits until the node serves the bus.
    pub(crate) async fn until_served(&self) -> Listener {
        let mut listener = self.listen().await;
        self.until_served_by("edge-1", &mut listener).await;
        listener
    }

    /// Waits until a node serves the bus.
    pub(crate) async fn until_served_by(&self, node: &str, listener: &mut Listener) {
        let topic = format!("$hw/events/node/{node}/membership/get");
        let served = eventually(async || {
            self.publish(&topic, r#"{"event_id":"ready"}"#).await;
            let soon = std::time::Duration::from_millis(500);
            tokio::time::timeout(soon, listener.hear(&format!("{topic}/result"))).await.ok()
        });
        served.await.expect("the node does not serve the bus");
    }
}

/// `mosquitto_sub`.
pub(crate) struct Listener {
    _process: Child,
    lines: Split<BufReader<ChildStdout>>,
}

impl Listener {
    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(std::time::Duration::from_secs(20), self.lines.next_segment()).await;
        let line = line.expect("no message came").unwrap().expect("mosquitto_sub ended");
        String::from_utf8_lossy(&line).into_owned()
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> (String, Value) {
        loop {
            let line = self.line().await;
            if let Some((topic, payload)) = line.split_once(' ').filter(|(topic, _)| topic.starts_with('$')) {
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
