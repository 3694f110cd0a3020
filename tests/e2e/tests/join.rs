//! Joining on bad days: one clear line, an exit code, nothing half-done.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use skerry_common::exit;
use skerry_e2e::{Ended, System};

const PORT: u16 = 21_100;

struct Cloud {
    system: System,
    hub: String,
}

impl Cloud {
    fn up(port: u16) -> Self {
        Self { system: System::cloud(port).unwrap(), hub: format!("127.0.0.1:{port}") }
    }

    fn token(&self, more: &[&str]) -> String {
        let value = self.system.json(&[&["token", "create"], more].concat()).unwrap();
        value["token"].as_str().unwrap().to_owned()
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.system.dir().with_file_name(name)
    }

    fn join(&self, token: &str, node: &str, folder: &Path) -> Ended {
        let folder = folder.to_str().unwrap();
        let fixed = ["--no-start", "--skip-checks", "--data-dir", folder, "--node-name", node];
        self.system.attempt(&[&["join", &self.hub, "--token", token][..], &fixed].concat()).unwrap()
    }

    /// A join that must be refused: one line, its exit code, and no file.
    fn refused(&self, token: &str, node: &str, code: u8, word: &str) {
        let folder = self.folder(&format!("refused-{node}"));
        let ended = self.join(token, node, &folder);
        assert_eq!(ended.code, i32::from(code), "{ended:?}");
        let errors: Vec<_> = ended.err.lines().filter(|l| l.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{ended:?}");
        assert!(errors[0].contains(word), "{word}: {ended:?}");
        assert!(!folder.exists(), "{}", folder.display());
    }
}

#[test]
fn a_token_that_is_no_good_is_refused_with_its_reason() {
    let cloud = Cloud::up(PORT);
    let revoked = cloud.token(&[]);
    let id = revoked.split('.').next().unwrap();
    cloud.system.skerry(&["token", "revoke", id]).unwrap();
    cloud.refused(&revoked, "revoked", exit::REFUSED, "revoked");

    let expired = cloud.token(&["--ttl", "1s"]);
    std::thread::sleep(Duration::from_millis(1_200));
    cloud.refused(&expired, "expired", exit::REFUSED, "expired");

    let once = cloud.token(&["--uses", "1"]);
    let first = cloud.join(&once, "first", &cloud.folder("first"));
    assert_eq!(first.code, 0, "{first:?}");
    cloud.refused(&once, "second", exit::REFUSED, "used up");

    let other = cloud.token(&["--node-name", "somebody"]);
    cloud.refused(&other, "nobody", exit::REFUSED, "another node");

    let states = cloud.system.json(&["token", "list"]).unwrap();
    let states: Vec<_> = states.as_array().unwrap().iter().map(|t| t["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["revoked", "expired", "used up", "valid"]);
    let missing = cloud.system.attempt(&["token", "revoke", "0000000000", "--kubeconfig"]);
    assert_eq!(missing.unwrap().code, i32::from(exit::USAGE));
}

#[test]
fn a_wrong_ca_address_or_word_is_refused_before_the_token_is_sent() {
    let cloud = Cloud::up(PORT + 20);
    let token = cloud.token(&[]);
    let (proof, hash) = token.rsplit_once('.').unwrap();
    let wrong_ca = format!("{proof}.{}", "0".repeat(hash.len()));
    cloud.refused(&wrong_ca, "wrong-ca", exit::REFUSED, "handshake");
    cloud.refused("not-a-token", "no-token", exit::USAGE, "token");
    cloud.refused(&token, "Not_A_Name", exit::USAGE, "node name");
    let guessed = format!("{}.{}.{hash}", proof.split_once('.').unwrap().0, "x".repeat(43));
    cloud.refused(&guessed, "guessed", exit::REFUSED, "cannot join");
    let nowhere =
        cloud.system.attempt(&["join", "127.0.0.1:1", "--token", &token, "--skip-checks", "--node-name", "a"]);
    assert_eq!(nowhere.unwrap().code, i32::from(exit::UNREACHABLE));

    // After all of that the token still works, once, and again for the same machine.
    let folder = cloud.folder("good");
    assert_eq!(cloud.join(&token, "good", &folder).code, 0);
    let again = cloud.join(&token, "good", &folder);
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.err.contains("already"), "{again:?}");
    let renamed = cloud.join(&token, "renamed", &folder);
    assert_eq!(renamed.code, i32::from(exit::FAILED), "{renamed:?}");
    assert!(renamed.err.contains("skerry reset"), "{renamed:?}");
    // What lies there is readable for root alone.
    let mode = |path: PathBuf| std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
    assert_eq!(mode(folder.join("edge.yaml")) & 0o077, 0);
    assert_eq!(mode(folder.join("credentials")) & 0o077, 0);
}

#[test]
fn a_taken_name_is_refused_and_a_revoked_node_is_gone_at_once() {
    let cloud = Cloud::up(PORT + 40);
    let token = cloud.token(&["--uses", "3"]);
    let folder = cloud.folder("one");
    assert_eq!(cloud.join(&token, "one", &folder).code, 0);
    cloud.refused(&token, "one", exit::FAILED, "cannot join");

    // edgehub alone is enough to be connected.
    let config = format!(
        "nodeName: one\nhubs: ['{}']\ntrustDomain: skerry.local\ncredentials: {folder}/credentials\nstore: {folder}/store\n",
        cloud.hub,
        folder = folder.display()
    );
    let file = folder.join("edgehub.yaml");
    std::fs::write(&file, config).unwrap();
    let socket = folder.join("edgehub.sock");
    let mut edgehub = std::process::Command::new(skerry_e2e::program("skerry-edgehub"))
        .args(["--admin", "127.0.0.1:0", "--config"])
        .arg(&file)
        .arg("--socket")
        .arg(&socket)
        .stderr(std::fs::File::create(folder.join("log")).unwrap())
        .spawn()
        .unwrap();
    let sessions = || {
        let status = cloud.system.json(&["status"]).unwrap();
        status["nodes"].as_array().unwrap().iter().filter(|n| n["link"] == "connected").count()
    };
    let wait = |what: &str, limit: Duration, good: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !good() {
            assert!(started.elapsed() < limit, "{what}: {}", std::fs::read_to_string(folder.join("log")).unwrap());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait("connected", Duration::from_secs(10), &|| sessions() == 1);
    cloud.system.skerry(&["node", "revoke", "one"]).unwrap();
    wait("thrown out", Duration::from_secs(2), &|| sessions() == 0);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(sessions(), 0, "a revoked node comes back");
    let unknown = cloud.system.attempt(&["node", "revoke", "nobody", "--kubeconfig", &kubeconfig(&cloud)]).unwrap();
    assert_eq!(unknown.code, i32::from(exit::NOT_FOUND), "{unknown:?}");
    edgehub.kill().unwrap();
    edgehub.wait().unwrap();
}

fn kubeconfig(cloud: &Cloud) -> String {
    cloud.system.dir().join("kubeconfig").display().to_string()
}
