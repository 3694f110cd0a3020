//! MySQL with MariaDB, which speaks its protocol, in a folder of its own.

use std::path::Path;
use std::process::Stdio;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
use serde_json::{Value as Json, json};
use skerry_mapper_dataplane::Secrets;
use skerry_mapper_sdk::{DataPlane as _, DataPlaneConfig, DataType, Value};
use tokio::process::{Child, Command};

use crate::support::{BEGIN, Fixture, device, eventually, port};

struct Maria {
    port: u16,
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Maria {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let install = Command::new("mariadb-install-db")
            .arg("--no-defaults")
            .arg(format!("--datadir={}", folder.path().join("data").display()))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--user=root"])
            .stdout(Stdio::null())
            .status()
            .await;
        assert!(install.expect("mariadb is not installed: scripts/install-tools test").success());
        let mut maria = Self { port: port(), folder, process: None };
        maria.again().await;
        let mut root = maria.root().await.unwrap();
        for statement in [
            "CREATE DATABASE plant CHARACTER SET utf8mb4",
            "CREATE USER mapper@'%' IDENTIFIED BY 'right'",
            "GRANT ALL ON plant.* TO mapper@'%'",
        ] {
            root.query_drop(statement).await.unwrap();
        }
        maria
    }

    async fn again(&mut self) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let program =
            ["/usr/sbin/mariadbd", "/usr/local/sbin/mariadbd"].into_iter().find(|path| Path::new(path).exists());
        let process = Command::new(program.expect("mariadbd is not installed: scripts/install-tools test"))
            .arg("--no-defaults")
            .args([format!("--datadir={}", path("data")), format!("--socket={}", path("socket"))])
            .args([format!("--port={}", self.port), format!("--pid-file={}", path("pid"))])
            .args(["--bind-address=127.0.0.1", "--user=root", "--innodb-buffer-pool-size=16M", "--skip-log-bin"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        self.process = Some(process.unwrap());
        eventually(async || self.root().await.ok()).await.expect("mariadbd does not listen");
    }

    async fn root(&self) -> mysql_async::Result<Conn> {
        let options = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(self.port).user(Some("root"));
        Conn::new(options.prefer_socket(false)).await
    }

    async fn rows(&self, table: &str) -> Vec<(i64, String, String)> {
        let query = format!("SELECT id, DATE_FORMAT(ts, '%s.%f'), field FROM plant.`{table}` ORDER BY id");
        self.root().await.unwrap().query(query).await.unwrap()
    }

    fn push(&self) -> Json {
        let addr = format!("127.0.0.1:{}", self.port);
        json!({"dbMethod": {"mysql": {"mysqlClientConfig": {"addr": addr, "database": "plant", "userName": "mapper"}}}})
    }
}

fn fixture(folder: &Path, password: &str) -> Fixture {
    let secrets = Secrets { password: Some(password.into()), ..Secrets::default() };
    Fixture::with(DataPlaneConfig { folder: Some(folder.to_owned()), ..DataPlaneConfig::default() }, secrets)
}

#[tokio::test]
async fn values_are_rows_and_cannot_be_statements() {
    let folder = tempfile::tempdir().unwrap();
    let maria = Maria::start().await;
    let fixture = fixture(folder.path(), "right");
    let text = device("boiler-1", DataType::String, &maria.push());
    fixture.define(&text);
    let hostile = "'); DROP TABLE `default/boiler-1/temperature`; -- \\ ü 😀";
    fixture.plane.record(&text, 0, &Value::Text(hostile.into()), BEGIN + 123);
    fixture.plane.record(&text, 0, &Value::Text(String::new()), BEGIN + 124);
    fixture.until("delivered", 2).await;
    let rows = maria.rows("default/boiler-1/temperature").await;
    let expected = [(1, "20.123000".to_owned(), hostile.to_owned()), (2, "20.124000".to_owned(), String::new())];
    assert_eq!(rows, expected);

    // A wrong password is trouble, which can be mended; nothing of it is told.
    let other = tempfile::tempdir().unwrap();
    let wrong = self::fixture(other.path(), "hidden");
    wrong.define(&text);
    wrong.record(&text, 0..1);
    wrong.until("failures", 1).await;
    assert_eq!((wrong.count("delivered"), wrong.count("refused")), (0, 0));
}

#[tokio::test]
async fn a_server_that_is_killed_and_back_has_everything_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut maria = Maria::start().await;
    let fixture = fixture(folder.path(), "right");
    let counter = device("counter", DataType::Int, &maria.push());
    fixture.define(&counter);
    fixture.record(&counter, 0..1000);
    fixture.until("delivered", 1000).await;
    maria.process.take().unwrap().kill().await.unwrap();
    fixture.record(&counter, 1000..2000);
    fixture.until("spooled", 1000).await;
    maria.again().await;
    fixture.until("delivered", 2000).await;
    let rows = maria.rows("default/counter/temperature").await;
    let numbers: Vec<i64> = rows.iter().map(|(_, _, field)| field.parse().unwrap()).collect();
    assert_eq!(crate::server::once(numbers), (0..2000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_table_of_kubeedge_is_used_and_a_value_that_does_not_fit_is_alone() {
    let folder = tempfile::tempdir().unwrap();
    let maria = Maria::start().await;
    let table = "default/boiler/temperature";
    let create = format!(
        "CREATE TABLE plant.`{table}` (id INT AUTO_INCREMENT PRIMARY KEY, ts  DATETIME NOT NULL,field VARCHAR(4))"
    );
    maria.root().await.unwrap().query_drop(create).await.unwrap();
    let fixture = fixture(folder.path(), "right");
    let counter = device("boiler", DataType::Int, &maria.push());
    fixture.define(&counter);
    fixture.record(&counter, 9998..10_001);
    fixture.record(&counter, 7..8);
    fixture.until("delivered", 3).await;
    fixture.until("refused", 1).await;
    let fields: Vec<_> = maria.rows(table).await.into_iter().map(|(_, _, field)| field).collect();
    assert_eq!(fields, ["9998", "9999", "7"]);
}
