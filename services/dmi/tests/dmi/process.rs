//! Programs of the product as processes, which end as after a power cut.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::node::eventually;

/// A process whose output is in a file.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// A program of this workspace: tests lie in `target/<profile>/deps`, programs one level up.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join(name);
    assert!(program.exists(), "{} is missing: cargo build --bin {name}", program.display());
    program
}

impl Process {
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log).unwrap();
        let output = file.try_clone().unwrap();
        command.stdin(Stdio::null()).stdout(output).stderr(file).kill_on_drop(true);
        Self { child: command.spawn().unwrap(), log }
    }

    /// Kill -9, and waits until it has ended.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// The end of what it said.
    pub(crate) fn said(&self) -> String {
        tail(&self.log)
    }
}

pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A port that nobody uses. Nobody else asks for it in the moment until it is used: the kernel hands them out in
/// turn.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// skerry-dmi in a folder, with `edgehub.sock` there, its own `dmi.sock`, and an admin port (0: any).
pub(crate) fn agent(dir: &Path, admin: u16) -> Process {
    let config = json!({
        "nodeName": "edge-1",
        "store": dir.join("store"),
        "edgehub": dir.join("edgehub.sock"),
        "dmi": { "socket": dir.join("dmi.sock"), "mapperSocketDirs": [dir] },
    });
    std::fs::write(dir.join("agent.yaml"), config.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_skerry-dmi"));
    command.arg("--config").arg(dir.join("agent.yaml")).arg("--admin").arg(format!("127.0.0.1:{admin}"));
    command.env("SKERRY_LOG", "info,skerry_dmi=trace");
    Process::start(command, dir.join("agent.log"))
}

/// What an admin server shows.
pub(crate) async fn metrics(admin: u16) -> Option<String> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", admin)).await.ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

/// The skerry-mapper-modbus for a protocol.
pub(crate) struct Mapper {
    pub(crate) process: Process,
    admin: u16,
}

impl Mapper {
    /// Starts it, and waits until it runs.
    pub(crate) async fn start(dir: &Path, protocol: &str) -> Self {
        let admin = free_port();
        let shown = dir.display();
        let config = format!(
            "grpc_server: {{socket_path: {shown}/{protocol}.sock}}\n\
             common: {{name: {protocol}, protocol: {protocol}, edgecore_sock: {shown}/dmi.sock}}\n\
             rest: {{enabled: false}}\nadmin: 127.0.0.1:{admin}\n"
        );
        let file = dir.join(format!("{protocol}.yaml"));
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(program("skerry-mapper-modbus"));
        command.arg("--config-file").arg(file);
        let process = Process::start(command, dir.join(format!("{protocol}.log")));
        let mapper = Self { process, admin };
        assert!(eventually(async || metrics(admin).await).await.is_some(), "{}", mapper.process.said());
        mapper
    }

    /// How often it set a device up.
    pub(crate) async fn devices_set(&self) -> u64 {
        let metrics = metrics(self.admin).await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("skerry_mapper_devices_set_total "));
        line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
    }
}
