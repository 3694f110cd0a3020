//! What the integration tests share: a server on a free port with a temporary directory.
#![allow(dead_code, reason = "not every test file uses all of it")]

use skerry_apiserver::{ApiServer, Config};
use skerry_common::drain;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long the drain of a test server may take.
const DRAIN: Duration = Duration::from_secs(5);

/// A server that is built but does not listen to the network yet.
pub(crate) async fn build(dir: &Path) -> ApiServer {
    let mut config = Config::new(dir);
    config.listen = ([127, 0, 0, 1], 0).into();
    config.build().await.unwrap()
}

/// A server that serves TLS until it is dropped or stopped.
pub(crate) struct Running {
    /// Kubeconfig of the administrator.
    pub(crate) admin: String,
    /// `https://127.0.0.1:port`
    pub(crate) url: String,
    trigger: Option<drain::Trigger>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Takes a built server and serves it.
    pub(crate) fn start(server: ApiServer) -> Self {
        let admin = server.admin_kubeconfig().unwrap();
        let url = format!("https://{}", server.local_addr());
        let (trigger, watch) = drain::channel(DRAIN);
        let task = tokio::spawn(async move { server.run(watch).await.unwrap() });
        Self { admin, url, trigger: Some(trigger), task }
    }

    /// Stops it in order.
    pub(crate) async fn stop(mut self) -> drain::Drained {
        let drained = self.trigger.take().unwrap().drain().await;
        self.task.await.unwrap();
        drained
    }
}

/// A kube client for a kubeconfig text.
pub(crate) async fn client(kubeconfig: &str) -> kube::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

/// The built binary, as a process of its own.
pub(crate) struct Process {
    /// The process.
    pub(crate) child: Child,
    /// Its data directory.
    pub(crate) dir: PathBuf,
}

impl Process {
    /// Starts the binary on a free port and waits until it has written its kubeconfig.
    pub(crate) fn start(dir: &Path) -> Self {
        let kubeconfig = dir.join("kubeconfig");
        let _ = std::fs::remove_file(&kubeconfig);
        let child = Command::new(env!("CARGO_BIN_EXE_skerry-apiserver"))
            .args(["--listen", "127.0.0.1:0", "--log", "warn"])
            .arg("--data-dir")
            .arg(dir.join("data"))
            .arg("--kubeconfig-out")
            .arg(&kubeconfig)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = Self { child, dir: dir.to_owned() };
        let start = Instant::now();
        while !kubeconfig.exists() {
            assert!(start.elapsed() < Duration::from_secs(20), "the server does not start");
            #[expect(clippy::disallowed_methods, reason = "a test thread that waits for a process")]
            std::thread::sleep(Duration::from_millis(10));
        }
        process
    }

    /// The kubeconfig that it wrote.
    pub(crate) fn kubeconfig(&self) -> String {
        std::fs::read_to_string(self.dir.join("kubeconfig")).unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every kubectl of this machine with its minor version: the one on the PATH, and that of an older distribution.
pub(crate) fn kubectls() -> Vec<(PathBuf, u32)> {
    let older = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kubectl/usr/bin/kubectl");
    let minor = |program: &PathBuf| {
        let output = Command::new(program).args(["version", "--client", "-o", "json"]).output().ok()?;
        let version: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        version["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse().ok()
    };
    let found = [PathBuf::from("kubectl"), older].into_iter().filter_map(|program| {
        let minor = minor(&program)?;
        Some((program, minor))
    });
    let mut all: Vec<_> = found.collect();
    all.dedup_by_key(|(_, minor)| *minor);
    all
}

/// Runs kubectl and answers its output.
pub(crate) fn kubectl(program: &Path, kubeconfig: &Path, arguments: &[&str], stdin: Option<&str>) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(program)
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", kubeconfig.parent().unwrap())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(stdin.unwrap_or("").as_bytes()).unwrap();
    drop(input);
    child.wait_with_output().unwrap()
}

/// A server and a kubectl.
pub(crate) struct Cluster {
    pub(crate) process: Process,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    /// The minor version of kubectl: older ones lack some commands.
    pub(crate) minor: u32,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// A new server for each kubectl of this machine.
    pub(crate) fn each() -> impl Iterator<Item = Self> {
        let all = kubectls();
        if all.is_empty() {
            #[expect(clippy::print_stderr, reason = "says why nothing was tested")]
            {
                eprintln!("there is no kubectl: not tested");
            }
        }
        all.into_iter().map(|(kubectl, minor)| {
            let dir = tempfile::tempdir().unwrap();
            let process = Process::start(dir.path());
            Self { process, kubeconfig: dir.path().join("kubeconfig"), kubectl, minor, _dir: dir }
        })
    }

    pub(crate) fn run(&self, arguments: &str, stdin: Option<&str>) -> (bool, String) {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        // Older ones take what begins with a brace for JSON.
        let stdin = stdin.map(|text| format!("---\n{text}"));
        let output = kubectl(&self.kubectl, &self.kubeconfig, &arguments, stdin.as_deref());
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// Runs a command that must succeed and say `expected`.
    pub(crate) fn ok(&self, arguments: &str, expected: &str) -> String {
        self.ok_with(arguments, None, expected)
    }

    pub(crate) fn ok_with(&self, arguments: &str, stdin: Option<&str>, expected: &str) -> String {
        let (success, text) = self.run(arguments, stdin);
        assert!(success && text.contains(expected), "kubectl {arguments}\nexpected: {expected}\n{text}");
        text
    }

    /// Runs a command that must fail and say `expected`.
    pub(crate) fn fails_with(&self, arguments: &str, stdin: Option<&str>, expected: &str) {
        let (success, text) = self.run(arguments, stdin);
        assert!(!success && text.contains(expected), "kubectl {arguments}\nexpected: {expected}\n{text}");
    }
}
