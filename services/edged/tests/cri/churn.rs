//! The agent as a process that is killed again and again while pods come, change and go.
//!
//! Containers write down what happens to them ([`crate::ledger`]); at the end everything is deleted and
//! nothing may be left. The short form is 50 kills; `SKERRY_ROUNDS` multiplies them. The seed decides
//! what is asked and when; `SKERRY_SEED` repeats it, as far as the machine allows.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skerry_common::{drain, kinds};
use skerry_test_support::Containerd;

use crate::ledger::{Ledger, Life, container, mark};
use crate::left::Places;
use crate::manager::Manager;
use crate::node::{IMAGE, wait_within};
use skerry_test_support::Hub;

/// Kills of the short form.
const KILLS: usize = 50;
/// Pods at a time.
const PODS: usize = 10;
/// After so many kills the agent lives until all is as it should be.
const SETTLE_EVERY: usize = 25;
/// A step that takes longer has failed. Generous: the machine runs other tests.
const PATIENCE: Duration = Duration::from_secs(120);
const OTHER_IMAGE: &str = "skerry.test/busybox:2";

/// A generator that a seed decides (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Kinds of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    One,
    InitAndTwo,
    Sidecar,
    Job,
    Retry,
    CrashLoop,
}

const SHAPES: [Shape; 8] = [
    Shape::One,
    Shape::One,
    Shape::InitAndTwo,
    Shape::InitAndTwo,
    Shape::Sidecar,
    Shape::Job,
    Shape::Retry,
    Shape::CrashLoop,
];

impl Shape {
    /// Containers, with what each does.
    fn lives(self) -> Vec<(&'static str, Life)> {
        match self {
            Self::One => vec![("a", Life::Serves)],
            Self::InitAndTwo => vec![("i", Life::Once), ("a", Life::Serves), ("b", Life::Serves)],
            Self::Sidecar => vec![("s", Life::Serves), ("a", Life::Serves)],
            Self::Job => vec![("a", Life::Once)],
            Self::Retry => vec![("a", Life::SecondTime)],
            Self::CrashLoop => vec![("a", Life::Crashes)],
        }
    }

    fn spec(self, uid: &str, volume: &Value) -> Value {
        let mut all: Vec<Value> = self.lives().iter().map(|(name, life)| container(uid, name, *life)).collect();
        let init = match self {
            Self::InitAndTwo => vec![all.remove(0)],
            Self::Sidecar => {
                let mut sidecar = all.remove(0);
                sidecar["restartPolicy"] = "Always".into();
                vec![sidecar]
            }
            _ => vec![],
        };
        let policy = match self {
            Self::Job => "Never",
            Self::Retry => "OnFailure",
            _ => "Always",
        };
        json!({
            "restartPolicy": policy, "terminationGracePeriodSeconds": 5,
            "initContainers": init, "containers": all, "volumes": [volume],
        })
    }

    /// Whether the pod's status is where the pod is going to.
    fn is_settled(self, status: &Value) -> bool {
        match self {
            Self::One | Self::InitAndTwo | Self::Sidecar => {
                let all = status["containerStatuses"].as_array().cloned().unwrap_or_default();
                status["phase"] == "Running" && all.iter().all(|c| c["ready"] == true)
            }
            Self::Job | Self::Retry => status["phase"] == "Succeeded",
            Self::CrashLoop => status["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0) > 0,
        }
    }
}

struct Churn {
    /// Uids begin with this, by which processes and control groups are found: others may run the same test.
    uids: String,
    hub: Arc<Hub>,
    ledger: Ledger,
    places: Places,
    agent: Option<Child>,
    manager: Manager,
    config: PathBuf,
    /// Pods that were made and not deleted, by name.
    live: BTreeMap<String, (String, Shape)>,
    /// Pods that were deleted and not yet reported as gone, by name.
    ending: BTreeMap<String, String>,
    made: usize,
    _hub_stop: drain::Trigger,
    /// Last: the agent ends before the runtime goes.
    containerd: Containerd,
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Churn {
    async fn start() -> Self {
        let mut containerd = Containerd::start().await.unwrap();
        let dir = containerd.dir().to_owned();
        let socket = dir.join("hub.sock");
        let (hub, hub_stop) = Hub::start_at(&socket).await;
        let config = dir.join("edged.yaml");
        let text = json!({
            "nodeName": format!("node-{}", std::process::id()), "rootDir": dir.join("edged"),
            "podLogDir": dir.join("logs"), "runtimeEndpoint": containerd.socket(), "edgehub": socket,
            "cgroupRoot": containerd.cgroup_root(), "node": { "evictionHard": {} },
        });
        std::fs::write(&config, text.to_string()).unwrap();
        let manager = Manager::start(&dir.join("notify"));
        let uids = format!("churn{}", std::process::id());
        let places = Places::of(&mut containerd);
        assert!(places.ctr(&["images", "tag", IMAGE, OTHER_IMAGE]).contains(OTHER_IMAGE));
        let ledger = Ledger::new(&dir.join("ledger"), &format!("{uids}-"));
        let (live, ending) = (BTreeMap::new(), BTreeMap::new());
        Self {
            uids,
            hub,
            ledger,
            places,
            agent: None,
            manager,
            config,
            live,
            ending,
            made: 0,
            _hub_stop: hub_stop,
            containerd,
        }
    }

    fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(self.containerd.dir().join("edged.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_skerry-edged"))
            .args(["--admin", "127.0.0.1:0", "--log", "info", "--config"])
            .arg(&self.config)
            .env("NOTIFY_SOCKET", self.manager.socket())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.agent = Some(child.unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    fn create(&mut self, shape: Shape) -> String {
        self.made += 1;
        let (name, uid) = (format!("p{}", self.made), format!("{}-{}", self.uids, self.made));
        for (container, life) in shape.lives() {
            self.ledger.expect(&uid, container, life);
        }
        let spec = shape.spec(&uid, &self.ledger.volume());
        self.hub.put(kinds::POD, "test", &name, json!({ "metadata": { "uid": uid }, "spec": spec }));
        self.live.insert(name.clone(), (uid, shape));
        name
    }

    /// Deletes a pod as a user does, or lets the object vanish.
    fn delete(&mut self, name: &str, vanish: bool) {
        let (uid, _) = self.live.remove(name).unwrap();
        self.ledger.asked(&uid, "delete");
        if vanish {
            self.hub.delete(kinds::POD, "test", name);
            return;
        }
        let mut pod = self.hub.get(kinds::POD, "test", name).unwrap();
        pod["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = 5.into();
        self.hub.put(kinds::POD, "test", name, pod);
        self.ending.insert(name.to_owned(), uid);
    }

    fn update(&mut self, name: &str) {
        let (uid, _) = &self.live[name];
        let mut pod = self.hub.get(kinds::POD, "test", name).unwrap();
        let containers = pod["spec"]["containers"].as_array_mut().unwrap();
        for container in containers {
            let image = if container["image"] == IMAGE { OTHER_IMAGE } else { IMAGE };
            container["image"] = image.into();
        }
        self.ledger.asked(uid, "update");
        self.hub.put(kinds::POD, "test", name, pod);
    }

    /// Removes the objects of pods that the agent reported as gone, as the cloud does.
    fn take_deletions(&mut self) {
        let gone: Vec<String> = self.hub.received(kinds::POD_DELETION).into_iter().map(|r| r.uid).collect();
        let (hub, ending) = (&self.hub, &mut self.ending);
        ending.retain(|name, uid| {
            let done = gone.contains(uid);
            if done {
                hub.delete(kinds::POD, "test", name);
            }
            !done
        });
    }

    fn step(&mut self, dice: &mut Dice) {
        self.take_deletions();
        let names: Vec<String> = self.live.keys().cloned().collect();
        let any = |dice: &mut Dice| names[usize::try_from(dice.below(names.len() as u64)).unwrap()].clone();
        match dice.below(10) {
            0..5 if self.live.len() + self.ending.len() < PODS => {
                let shape = SHAPES[usize::try_from(dice.below(SHAPES.len() as u64)).unwrap()];
                self.create(shape);
            }
            0..3 | 5..8 if self.live.len() > PODS / 3 => {
                let name = any(dice);
                let vanish = dice.below(5) == 0;
                self.delete(&name, vanish);
            }
            8 => {
                let serving = names.iter().find(|n| self.live[*n].1 == Shape::One).cloned();
                serving.iter().for_each(|name| self.update(name));
            }
            _ => {}
        }
    }

    /// What the agent said last, and all of it about the pods that are named in `about`.
    fn log(&self, about: &[String]) -> String {
        let text = std::fs::read_to_string(self.containerd.dir().join("edged.log")).unwrap_or_default();
        let pods: Vec<String> =
            about.iter().filter_map(|a| a.split(' ').next()?.rsplit('-').next().map(|n| format!("\"p{n}\""))).collect();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.len().saturating_sub(40);
        let told = lines.iter().enumerate().filter(|(at, line)| *at >= last || pods.iter().any(|p| line.contains(p)));
        told.map(|(_, line)| *line).collect::<Vec<_>>().join("\n")
    }

    /// Waits until every pod is where it is going to.
    async fn settle(&mut self) {
        let unsettled = |this: &Self| -> Vec<String> {
            let status = |uid: &str| this.hub.newest(kinds::POD_STATUS, uid).map(|b| b["status"].clone());
            let live = this.live.iter().filter(|(_, (uid, shape))| !status(uid).is_some_and(|s| shape.is_settled(&s)));
            let states = live
                .map(|(name, (uid, shape))| format!("{name} {shape:?} {:#}", status(uid).unwrap_or_default()))
                .collect::<Vec<_>>();
            // The runtime says that a container runs before its program has said so.
            let silent = this.live.values().flat_map(|(uid, shape)| {
                let mut lives = shape.lives();
                lives.retain(|(name, life)| this.ledger.starts(uid, name) < life.starts_at_least());
                lives.into_iter().map(move |(name, _)| format!("{uid} {name} has not started often enough"))
            });
            states.into_iter().chain(silent).collect()
        };
        let state = || format!("{:#?}\n{}\n{}", unsettled(self), self.ledger.text(), self.log(&[]));
        wait_within(PATIENCE, "all pods to settle", || unsettled(self).is_empty(), state).await;
        self.check();
    }

    fn check(&self) {
        let wrong = self.ledger.findings();
        assert!(wrong.is_empty(), "{wrong:#?}\n{}\n{}", self.ledger.text(), self.log(&wrong));
    }

    /// Deletes everything and waits until nothing is left.
    async fn end(&mut self) {
        for name in self.live.keys().cloned().collect::<Vec<_>>() {
            self.delete(&name, false);
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.ending.is_empty() {
            assert!(Instant::now() < deadline, "pods stay: {:?}\n{}", self.ending, self.log(&[]));
            self.take_deletions();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let left = || format!("{:#?}\n{}", self.places.left(&self.uids), self.log(&[]));
        wait_within(PATIENCE, "nothing to be left", || self.places.left(&self.uids).is_empty(), left).await;
        self.check();
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_random_leaks_nothing_and_starts_and_stops_nothing_wrongly() {
    let kills = KILLS * usize::try_from(number("SKERRY_ROUNDS").unwrap_or(1)).unwrap();
    let seed = number("SKERRY_SEED").unwrap_or(1);
    println!("{kills} kills, SKERRY_SEED={seed}");
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut churn = Churn::start().await;
    for kill in 1..=kills {
        churn.launch();
        // Some live for a moment only: the first look at the runtime is a step like any other.
        let lives = Duration::from_millis(match dice.below(6) {
            0 | 1 => dice.below(200),
            2..5 => 100 + dice.below(1_100),
            _ => 1_000 + dice.below(3_000),
        });
        let until = Instant::now() + lives;
        while Instant::now() < until {
            churn.step(&mut dice);
            let pause = Duration::from_millis(20 + dice.below(150));
            tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        }
        churn.kill();
        if kill % SETTLE_EVERY == 0 {
            churn.launch();
            churn.settle().await;
            churn.kill();
            println!("{kill} kills, {} pods", churn.made);
        }
    }
    churn.launch();
    churn.settle().await;
    churn.end().await;
}

/// The control: what the test above looks for is seen when it happens.
#[tokio::test(flavor = "multi_thread")]
async fn the_checks_of_the_churn_see_what_is_planted() {
    let mut churn = Churn::start().await;
    churn.launch();
    let name = churn.create(Shape::One);
    churn.settle().await;
    let uid = churn.live[&name].0.clone();
    assert!(churn.places.left(&churn.uids).iter().any(|l| l.starts_with("control group")));

    // Somebody kills the container: it comes back, and that is a second start.
    let (tasks, ours) = (churn.places.ctr(&["tasks", "ls", "-q"]), mark(&uid, "a"));
    let container = tasks.lines().find(|id| churn.places.ctr(&["containers", "info", id]).contains(&ours)).unwrap();
    churn.places.ctr(&["tasks", "kill", "-s", "SIGKILL", container]);
    let second = || churn.ledger.starts(&uid, "a") == 2;
    wait_within(PATIENCE, "the second start", second, || churn.log(&[])).await;
    assert_eq!(churn.ledger.findings(), [format!("{uid} a started 2 times, not 1")]);

    // One that its agent has forgotten.
    let mut forgotten = Command::new("sleep").arg0(mark(&uid, "a")).arg("60").spawn().unwrap();
    let seen = || churn.ledger.findings().iter().any(|f| f.ends_with("ran twice at the same time"));
    wait_within(PATIENCE, "the finding", seen, || format!("{:?}", churn.ledger.findings())).await;
    forgotten.kill().unwrap();
    forgotten.wait().unwrap();
}
