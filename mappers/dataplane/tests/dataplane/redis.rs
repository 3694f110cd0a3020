//! Redis with redis-server.

use std::process::Stdio;

use redis::AsyncCommands as _;
use serde_json::{Value as Json, json};
use skerry_mapper_dataplane::Secrets;
use skerry_mapper_sdk::{DataPlane as _, DataPlaneConfig, DataType, Value};
use tokio::process::{Child, Command};

use crate::support::{BEGIN, Fixture, device, eventually, port};

struct Redis {
    port: u16,
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Redis {
    async fn start() -> Self {
        let mut redis = Self { port: port(), folder: tempfile::tempdir().unwrap(), process: None };
        redis.again().await;
        redis
    }

    /// Keeps what it has acknowledged: each command is on disk.
    async fn again(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--requirepass", "right"]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir"]).arg(self.folder.path());
        let process = command.stdout(Stdio::null()).kill_on_drop(true).spawn();
        self.process = Some(process.expect("redis-server is not installed: scripts/install-tools test"));
        let listens = eventually(async || self.client().await.ok()).await;
        listens.expect("redis-server does not listen");
    }

    async fn client(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(format!("redis://:right@127.0.0.1:{}/3", self.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let _: String = redis::cmd("PING").query_async(&mut connection).await?;
        Ok(connection)
    }

    async fn members(&self, key: &str) -> Vec<(String, f64)> {
        self.client().await.unwrap().zrange_withscores(key, 0, -1).await.unwrap()
    }

    fn push(&self) -> Json {
        let client = json!({"addr": format!("127.0.0.1:{}", self.port), "db": 3, "poolsize": 30, "minIdleConns": 30});
        json!({"dbMethod": {"redis": {"redisClientConfig": client}}})
    }
}

fn fixture(folder: &std::path::Path, password: &str) -> Fixture {
    let secrets = Secrets { password: Some(password.into()), ..Secrets::default() };
    Fixture::with(DataPlaneConfig { folder: Some(folder.to_owned()), ..DataPlaneConfig::default() }, secrets)
}

#[tokio::test]
async fn values_are_members_of_the_devices_set_and_cannot_be_commands() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start().await;
    let fixture = fixture(folder.path(), "right");
    let text = device("boiler", DataType::String, &redis.push());
    fixture.define(&text);
    let hostile = "x\r\nFLUSHALL\r\n\"";
    fixture.plane.record(&text, 0, &Value::Text(hostile.into()), BEGIN);
    fixture.until("delivered", 1).await;
    let members = redis.members("boiler").await;
    assert_eq!((members.len(), members[0].1 as i64), (1, BEGIN));
    let member: Json = serde_json::from_str(&members[0].0).unwrap();
    let expected = json!({
        "DeviceName": "boiler", "PropertyName": "temperature", "Namespace": "default", "Value": hostile,
        "Type": "string", "TimeStamp": BEGIN,
    });
    assert_eq!(member, expected);
}

#[tokio::test]
async fn a_server_that_is_killed_and_back_has_everything() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = Redis::start().await;
    let fixture = fixture(folder.path(), "right");
    let counter = device("counter", DataType::Int, &redis.push());
    fixture.define(&counter);
    fixture.record(&counter, 0..2000);
    fixture.until("delivered", 2000).await;
    redis.process.take().unwrap().kill().await.unwrap();
    fixture.record(&counter, 2000..4000);
    fixture.until("spooled", 2000).await;
    redis.again().await;
    fixture.until("delivered", 4000).await;
    let scores: Vec<i64> = redis.members("counter").await.iter().map(|(_, score)| *score as i64 - BEGIN).collect();
    assert_eq!(scores, (0..4000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_wrong_password_is_trouble_and_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start().await;
    let fixture = fixture(folder.path(), "hidden");
    let counter = device("counter", DataType::Int, &redis.push());
    fixture.define(&counter);
    fixture.record(&counter, 0..1);
    fixture.until("failures", 1).await;
    assert!(redis.members("counter").await.is_empty());
    let spool = std::fs::read(folder.path().join("spool.db")).unwrap();
    assert!(!spool.windows(6).any(|bytes| bytes == b"hidden"));
}

#[tokio::test]
async fn a_key_of_another_type_refuses_only_its_device() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start().await;
    let _: () = redis.client().await.unwrap().set("taken", "text").await.unwrap();
    let fixture = fixture(folder.path(), "right");
    let (taken, free) = (device("taken", DataType::Int, &redis.push()), device("free", DataType::Int, &redis.push()));
    fixture.define(&taken);
    fixture.define(&free);
    fixture.record(&taken, 0..3);
    fixture.record(&free, 0..3);
    fixture.until("refused", 3).await;
    fixture.until("delivered", 3).await;
    assert_eq!(redis.members("free").await.len(), 3);
}
