//! What containers themselves say about their starts and ends, and what is wrong with it.
//!
//! Each container of a churning workload appends lines to one file on the host; the test appends what
//! it asked for. So the file tells in one order what was asked and what happened, whoever was killed
//! meanwhile. A thread looks at the processes of the machine for two of one container.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::node::IMAGE;

/// Where containers see the directory.
const MOUNT: &str = "/ledger";
const FILE: &str = "lines";
/// How often the processes are looked at. A container that is not waited for lives longer.
const LOOK: Duration = Duration::from_millis(100);

/// What a container does when it runs, and how often it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Runs until it is told to end.
    Serves,
    /// Ends well at once; its pod is never restarted.
    Once,
    /// Fails at first and then ends well.
    SecondTime,
    /// Fails always.
    Crashes,
}

impl Life {
    /// Starts of a container whose pod is where it is going to.
    pub(crate) fn starts_at_least(self) -> usize {
        if self == Self::SecondTime { 2 } else { 1 }
    }

    fn script(self) -> &'static str {
        match self {
            Self::Serves => "trap 'say term; exit 0' TERM; sleep 100000 & wait $!",
            Self::Once => "sleep 0.2; exit 0",
            Self::SecondTime => "sleep 0.1; [ -e /ledger/$U.$C.tried ] && exit 0; touch /ledger/$U.$C.tried; exit 1",
            Self::Crashes => "sleep 0.1; exit 3",
        }
    }

    fn most_starts(self) -> usize {
        match self {
            Self::Serves | Self::Once => 1,
            Self::SecondTime => 2,
            // As many as the backoff of a crash loop allows in an hour.
            Self::Crashes => 40,
        }
    }
}

/// A container that says in the ledger what happens to it.
pub(crate) fn container(uid: &str, name: &str, life: Life) -> Value {
    let script =
        format!("{} say() {{ echo \"$U $C $1\" >> {MOUNT}/{FILE}; }}; say start; {}", mark(uid, name), life.script());
    json!({
        "name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", script],
        "volumeMounts": [{ "name": "ledger", "mountPath": MOUNT }],
    })
}

/// The beginning of a container's script, by which its process is known.
pub(crate) fn mark(uid: &str, name: &str) -> String {
    format!("U={uid}; C={name};")
}

/// The directory and what may be written into it.
pub(crate) struct Ledger {
    dir: PathBuf,
    lives: BTreeMap<(String, String), Life>,
    twice: Arc<Mutex<BTreeSet<String>>>,
    over: Arc<AtomicBool>,
    watch: Option<JoinHandle<()>>,
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.watch.take().into_iter().for_each(|w| drop(w.join()));
    }
}

impl Ledger {
    /// Watches processes of pods whose uid begins with `uids`.
    #[expect(clippy::disallowed_methods, reason = "a thread of its own")]
    pub(crate) fn new(dir: &Path, uids: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let (twice, over) = (Arc::<Mutex<BTreeSet<String>>>::default(), Arc::<AtomicBool>::default());
        let (found, end, begin) = (Arc::clone(&twice), Arc::clone(&over), format!("U={uids}"));
        let watch = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                found.lock().unwrap().extend(running_twice(&begin));
                std::thread::sleep(LOOK);
            }
        });
        Self { dir: dir.to_owned(), lives: BTreeMap::new(), twice, over, watch: Some(watch) }
    }

    /// The volume for the pod's spec.
    pub(crate) fn volume(&self) -> Value {
        json!({ "name": "ledger", "hostPath": { "path": self.dir } })
    }

    pub(crate) fn expect(&mut self, uid: &str, container: &str, life: Life) {
        self.lives.insert((uid.to_owned(), container.to_owned()), life);
    }

    /// Notes what the test is about to ask for: `delete`, or `update` of a container's image.
    pub(crate) fn asked(&self, uid: &str, what: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.dir.join(FILE)).unwrap();
        file.write_all(format!("{uid} * {what}\n").as_bytes()).unwrap();
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(self.dir.join(FILE)).unwrap_or_default()
    }

    /// Everything that is wrong so far.
    pub(crate) fn findings(&self) -> Vec<String> {
        let mut all = findings(&self.text(), &self.lives);
        all.extend(self.twice.lock().unwrap().iter().map(|mark| format!("{mark} ran twice at the same time")));
        all
    }

    /// How often a container started.
    pub(crate) fn starts(&self, uid: &str, container: &str) -> usize {
        let line = format!("{uid} {container} start");
        self.text().lines().filter(|l| *l == line).count()
    }
}

/// Marks of containers that have two processes of their own at this moment.
fn running_twice(begin: &str) -> Vec<String> {
    let mut found: BTreeMap<String, BTreeMap<i32, i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let Some(at) = line.find(begin) else { continue };
        let mark: Vec<&str> = line[at..].split(';').take(2).collect();
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|s| s.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            found.entry(mark.join(";")).or_default().insert(pid, parent);
        }
    }
    // A child looks like its parent until it has become another program.
    let several = |all: &BTreeMap<i32, i32>| all.values().filter(|parent| !all.contains_key(parent)).count() > 1;
    found.into_iter().filter(|(_, all)| several(all)).map(|(mark, _)| mark).collect()
}

fn findings(text: &str, lives: &BTreeMap<(String, String), Life>) -> Vec<String> {
    let mut wrong = Vec::new();
    for ((uid, name), life) in lives {
        let (mut starts, mut allowed, mut deleted) = (0, life.most_starts(), false);
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(u), Some(c), Some(what)) = (words.next(), words.next(), words.next()) else { continue };
            if u != uid || (c != name && c != "*") {
                continue;
            }
            match what {
                "delete" => deleted = true,
                "update" => allowed += 1,
                "term" if !deleted && allowed == life.most_starts() => {
                    wrong.push(format!("{uid} {name} was stopped without reason"));
                }
                "start" => starts += 1,
                _ => {}
            }
        }
        if starts > allowed {
            wrong.push(format!("{uid} {name} started {starts} times, not {allowed}"));
        }
    }
    wrong
}

#[test]
fn the_ledger_tells_right_from_wrong() {
    let lives = BTreeMap::from([
        (("u".to_owned(), "s".to_owned()), Life::Serves),
        (("u".to_owned(), "o".to_owned()), Life::Once),
    ]);
    for (text, wrong) in [
        ("u s start\nu * delete\nu s term\n", None),
        ("u s start\nu * update\nu s term\nu s start\n", None),
        ("u s start\nu s term\nu * delete\n", Some("u s was stopped without reason")),
        ("u s start\nu s start\n", Some("u s started 2 times, not 1")),
        ("u o start\nu o start\n", Some("u o started 2 times, not 1")),
    ] {
        assert_eq!(findings(text, &lives), wrong.into_iter().map(str::to_owned).collect::<Vec<_>>(), "{text}");
    }
}
