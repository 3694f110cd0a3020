//! MQTT with mosquitto: order, acknowledgement, a broker that is away, TLS off and on.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value as Json, json};
use skerry_mapper_dataplane::Secrets;
use skerry_mapper_sdk::{DataPlaneConfig, DataType};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::server::once;
use crate::support::{Fixture, SOON, device, eventually, port};

/// Mosquitto on a port of its own.
struct Broker {
    port: u16,
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Broker {
    fn new(config: &str) -> Self {
        let (port, folder) = (port(), tempfile::tempdir().unwrap());
        let text = format!("user root\npersistence false\nmax_queued_messages 0\nlistener {port} 127.0.0.1\n{config}");
        std::fs::write(folder.path().join("mosquitto.conf"), text).unwrap();
        Self { port, folder, process: None }
    }

    async fn start(&mut self) {
        let program =
            ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"].into_iter().find(|path| Path::new(path).exists());
        let mut command = Command::new(program.expect("mosquitto is not installed: scripts/install-tools test"));
        let process = command
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .arg("-v")
            .stderr(std::fs::File::create("/tmp/devrest.mosq").unwrap());
        self.process = Some(process.stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap());
        let port = self.port;
        let listens = eventually(async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok());
        listens.await.expect("mosquitto does not listen");
    }

    async fn kill(&mut self) {
        self.process.take().unwrap().kill().await.unwrap();
    }

    async fn listen(&self, more: &[&str]) -> Listener {
        let mut command = Command::new("stdbuf");
        command
            .args(["-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-d", "-q", "2", "-t", "plant/#", "-F", "%t|%r|%p"])
            .args(more);
        let mut process = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        while !lines.next_line().await.unwrap().expect("mosquitto_sub ended").starts_with("Subscribed") {}
        Listener { _process: process, lines }
    }
}

struct Listener {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Listener {
    /// The payload of the next message on `plant/temperature`.
    async fn next(&mut self) -> String {
        loop {
            let line = tokio::time::timeout(SOON, self.lines.next_line()).await.expect("no message came");
            let line = line.unwrap().expect("mosquitto_sub ended");
            if let Some(payload) = line.strip_prefix("plant/temperature|") {
                return payload.split_once('|').unwrap().1.to_owned();
            }
        }
    }

    async fn numbers(&mut self, last: i64) -> Vec<i64> {
        let mut numbers = Vec::new();
        while numbers.last() != Some(&last) {
            numbers.push(self.next().await.rsplit(' ').next().unwrap().parse().unwrap());
        }
        numbers
    }
}

fn push(port: u16, qos: i32) -> Json {
    let address = format!("tcp://127.0.0.1:{port}");
    json!({"mqtt": {"address": address, "topic": "plant/temperature", "qos": qos, "retained": true}})
}

/// Publishes so many values and compares what a subscriber gets.
async fn messages(qos: i32, count: i64) {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start().await;
    let mut listener = broker.listen(&[]).await;
    let fixture = Fixture::new(folder.path());
    let counter = device("counter", DataType::Int, &push(broker.port, qos));
    fixture.define(&counter);
    fixture.record(&counter, 0..count);
    fixture.until("delivered", u64::try_from(count).unwrap()).await;
    let first = listener.next().await;
    let (time, value) = first.split_once("  ").unwrap();
    assert!(time.starts_with("time is 2023-11-1") && time.len() == "time is 2023-11-14 22:13:20".len(), "{time}");
    assert_eq!(value, "plant/temperature: 0");
    assert_eq!(listener.numbers(count - 1).await, (1..count).collect::<Vec<_>>());
    let retained = broker.listen(&[]).await.next().await;
    assert!(retained.ends_with(&format!("plant/temperature: {}", count - 1)), "{retained}");
}

/// Few: with QoS 0 a broker may drop what its subscribers do not take at once.
#[tokio::test]
async fn messages_are_those_of_kubeedges_mappers_in_order_with_qos_0() {
    messages(0, 20).await;
}

#[tokio::test]
async fn messages_are_those_of_kubeedges_mappers_in_order_with_qos_1() {
    messages(1, 1000).await;
}

#[tokio::test]
async fn messages_are_those_of_kubeedges_mappers_in_order_with_qos_2() {
    messages(2, 1000).await;
}

/// The broker ends the connection when more than three come at once: none is lost, none stops the others.
#[tokio::test]
async fn a_broker_that_takes_few_messages_of_qos_2_at_once_gets_all_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::new("allow_anonymous true\nmax_inflight_messages 3\n");
    broker.start().await;
    let mut listener = broker.listen(&[]).await;
    let fixture = Fixture::new(folder.path());
    let counter = device("counter", DataType::Int, &push(broker.port, 2));
    fixture.define(&counter);
    fixture.record(&counter, 0..30);
    fixture.until("delivered", 30).await;
    assert!(fixture.count("failures") > 0, "the broker takes as many as others, so the test shows nothing");
    let mut numbers = Vec::new();
    while !numbers.contains(&29) {
        numbers.push(listener.next().await.rsplit(' ').next().unwrap().parse().unwrap());
    }
    assert_eq!(once(numbers), (0..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_broker_that_is_killed_and_back_gets_everything_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start().await;
    let fixture = Fixture::new(folder.path());
    let counter = device("counter", DataType::Int, &push(broker.port, 1));
    fixture.define(&counter);
    fixture.record(&counter, 0..100);
    fixture.until("delivered", 100).await;
    broker.kill().await;
    fixture.record(&counter, 100..1000);
    fixture.until("spooled", 900).await;
    broker.start().await;
    let mut listener = broker.listen(&[]).await;
    fixture.record(&counter, 1000..1001);
    fixture.until("delivered", 1001).await;
    let numbers = once(listener.numbers(1000).await);
    // What came before we listened again is not lost: the broker has acknowledged it.
    let begin = numbers[0];
    assert_eq!(numbers, (begin..=1000).collect::<Vec<_>>());
    assert_eq!(fixture.count("dropped"), 0);
}

#[tokio::test]
async fn the_broker_asks_who_we_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::new("");
    let passwords = broker.folder.path().join("passwords");
    let made = Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(&passwords).args(["plant", "right"]).status();
    assert!(made.await.unwrap().success());
    let config = broker.folder.path().join("mosquitto.conf");
    let mut text = std::fs::read_to_string(&config).unwrap();
    text.push_str(&format!("allow_anonymous false\npassword_file {}\n", passwords.display()));
    std::fs::write(&config, text).unwrap();
    broker.start().await;
    let mut listener = broker.listen(&["-u", "plant", "-P", "right"]).await;
    let fixture = |folder: &Path, password: &str| {
        let secrets =
            Secrets { mqtt_username: Some("plant".into()), mqtt_password: Some(password.into()), ..Secrets::default() };
        assert!(!format!("{secrets:?}").contains(password));
        Fixture::with(DataPlaneConfig { folder: Some(folder.to_owned()), ..DataPlaneConfig::default() }, secrets)
    };
    let counter = device("counter", DataType::Int, &push(broker.port, 1));
    let wrong = fixture(&folder.path().join("a"), "wrong");
    wrong.define(&counter);
    wrong.record(&counter, 5..6);
    wrong.until("failures", 2).await;
    assert_eq!(wrong.count("delivered"), 0);
    let right = fixture(&folder.path().join("b"), "right");
    right.define(&counter);
    right.record(&counter, 6..7);
    assert_eq!(listener.numbers(6).await, [6]);
}
