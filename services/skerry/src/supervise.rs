//! Keeps the processes of `skerry up` running.
//!
//! The wish is a directory with one file per process ([`Unit`]); the supervisor makes it so: a file
//! that appears is a process to start, one that goes is a process to stop. `up` adds files, `down`
//! sends SIGTERM. A process that ends is started again after a backoff; one that
//! was started by an earlier supervisor is adopted by its record, so a killed supervisor harms
//! nobody. Only this task changes `<dir>/run`. When it is told to stop it ends the processes, last
//! started first.
//!
//! Limits: [`MAX_UNITS`] processes; a log is set aside at [`MAX_LOG`] bytes when its process starts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use skerry_common::{Backoff, drain};
use tokio::process::{Child, Command};

use crate::failure::{Context as _, Result};
use crate::files::write_atomically;
use crate::process::Record;

/// How often wish and reality are compared.
const TICK: Duration = Duration::from_millis(100);
/// First and longest pause before a process is started again.
const RESTART: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// A process that ran this long starts again without a pause that grew before.
const STEADY: Duration = Duration::from_secs(30);
/// More would be a mistake.
const MAX_UNITS: usize = 32;
/// A log that grew beyond this is renamed to `.1` (one old one is kept).
const MAX_LOG: u64 = 16 << 20;

/// A process that shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unit {
    /// Started in this order, stopped in the opposite one.
    pub(crate) order: u32,
    /// The program, as an absolute path.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Environment on top of the supervisor's.
    pub(crate) environment: BTreeMap<String, String>,
    /// How long it may take to stop, in seconds.
    pub(crate) stop_seconds: u64,
}

/// Where the supervisor and `up` meet, all below the directory of `up`.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The directory of `up`.
    pub(crate) dir: PathBuf,
}

impl Places {
    /// One file per process that shall run.
    pub(crate) fn units(&self) -> PathBuf {
        self.dir.join("units")
    }
    /// The record of a process that runs.
    pub(crate) fn record(&self, name: &str) -> PathBuf {
        self.dir.join("run").join(format!("{name}.pid"))
    }
    /// What a process wrote.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }
    /// Adds a process to the wish.
    pub(crate) fn want(&self, name: &str, unit: &Unit) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(unit).or_fail(|| format!("cannot describe {name}"))?;
        write_atomically(&self.units().join(format!("{name}.json")), &bytes, 0o644)
    }
    /// Every record that there is.
    pub(crate) fn records(&self) -> Vec<Record> {
        let Ok(entries) = fs::read_dir(self.dir.join("run")) else { return Vec::new() };
        entries.flatten().filter_map(|entry| Record::read(&entry.path())).collect()
    }
}

enum Running {
    Ours(Box<Child>, Record),
    Adopted(Record),
}

struct Kept {
    unit: Unit,
    running: Option<Running>,
    started: Instant,
    next: Instant,
    backoff: Backoff,
    restarts: u64,
}

/// Runs until told to stop.
pub(crate) async fn supervise(places: Places, mut stop: drain::Watch) -> Result<()> {
    let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _guard = stop.stopped() => {
                stop_all(&places, kept).await;
                return Ok(());
            }
        }
        let wanted = wish(&places);
        let gone: Vec<String> = kept.keys().filter(|name| wanted.iter().all(|(w, _)| w != *name)).cloned().collect();
        for name in gone {
            if let Some(entry) = kept.remove(&name) {
                stop_one(&places, &name, entry).await;
            }
        }
        for (name, unit) in wanted {
            let entry = kept.entry(name.clone()).or_insert_with(|| Kept {
                running: Record::read(&places.record(&name)).filter(Record::is_running).map(Running::Adopted),
                unit: unit.clone(),
                started: Instant::now(),
                next: Instant::now(),
                backoff: Backoff::new(RESTART.0, RESTART.1),
                restarts: 0,
            });
            entry.unit = unit;
        }
        for (name, entry) in &mut kept {
            look_after(&places, name, entry);
        }
    }
}

fn wish(places: &Places) -> Vec<(String, Unit)> {
    let Ok(entries) = fs::read_dir(places.units()) else { return Vec::new() };
    let mut units: Vec<(String, Unit)> = entries
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let name = path.file_stem()?.to_str()?.to_owned();
            if path.extension()? != "json" {
                return None;
            }
            let unit = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            Some((name, unit))
        })
        .take(MAX_UNITS)
        .collect();
    units.sort_by_key(|(_, unit)| unit.order);
    units
}

fn look_after(places: &Places, name: &str, kept: &mut Kept) {
    let ended = match &mut kept.running {
        Some(Running::Ours(child, _)) => match child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        },
        Some(Running::Adopted(record)) if record.is_running() => return,
        Some(Running::Adopted(_)) => "it is gone".to_owned(),
        None => String::new(),
    };
    let now = Instant::now();
    if kept.running.take().is_some() {
        if now.duration_since(kept.started) >= STEADY {
            kept.backoff.reset();
        }
        let pause = kept.backoff.jittered();
        kept.next = now + pause;
        kept.restarts += 1;
        tracing::warn!(name, ended, restarts = kept.restarts, pause_ms = pause.as_millis(), "a process ended");
    }
    if now < kept.next {
        return;
    }
    match start(places, name, &kept.unit) {
        Ok(running) => {
            kept.started = now;
            kept.running = Some(running);
        }
        Err(failure) => {
            kept.next = now + kept.backoff.jittered();
            tracing::error!(name, %failure, "cannot start a process");
        }
    }
}

fn start(places: &Places, name: &str, unit: &Unit) -> Result<Running> {
    let log = places.log(name);
    let what = || format!("cannot write {}", log.display());
    if fs::metadata(&log).is_ok_and(|m| m.len() > MAX_LOG) {
        fs::rename(&log, log.with_extension("log.1")).or_fail(what)?;
    }
    let out = fs::OpenOptions::new().create(true).append(true).mode(0o640).open(&log).or_fail(what)?;
    let err = out.try_clone().or_fail(what)?;
    let child = Command::new(&unit.program)
        .args(&unit.arguments)
        .envs(&unit.environment)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        // Ctrl-C in a terminal goes to the supervisor alone, which stops them in order.
        .process_group(0)
        .spawn()
        .or_fail(|| format!("cannot start {}", unit.program.display()))?;
    let record = child
        .id()
        .and_then(|pid| Record::of(name, pid))
        .ok_or_else(|| crate::failure::Failure::new(format!("{name} ended at once")))?;
    record.write(&places.record(name))?;
    tracing::info!(name, pid = record.pid, "started a process");
    Ok(Running::Ours(Box::new(child), record))
}

async fn stop_all(places: &Places, kept: BTreeMap<String, Kept>) {
    let mut all: Vec<_> = kept.into_iter().collect();
    all.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.unit.order));
    for (name, kept) in all {
        stop_one(places, &name, kept).await;
    }
}

async fn stop_one(places: &Places, name: &str, kept: Kept) {
    let patience = Duration::from_secs(kept.unit.stop_seconds);
    let gone = match kept.running {
        Some(Running::Ours(mut child, record)) => {
            record.signal(nix::sys::signal::Signal::SIGTERM);
            if tokio::time::timeout(patience, child.wait()).await.is_err() {
                tracing::warn!(name, "a process did not stop in time and is killed");
                let _ = child.kill().await;
            }
            true
        }
        Some(Running::Adopted(record)) => record.end(patience).await,
        None => true,
    };
    if gone {
        let _ = fs::remove_file(places.record(name));
    }
    tracing::info!(name, gone, "stopped a process");
}

/// Makes the directories that supervisor and processes write to.
pub(crate) fn prepare(dir: &Path) -> Result<Places> {
    let places = Places { dir: dir.to_owned() };
    for sub in ["units", "run", "logs"] {
        let path = dir.join(sub);
        fs::create_dir_all(&path).or_fail(|| format!("cannot create {}", path.display()))?;
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn sleeper(order: u32) -> Unit {
        Unit {
            order,
            program: "/bin/sleep".into(),
            arguments: vec!["600".into()],
            environment: BTreeMap::new(),
            stop_seconds: 5,
        }
    }

    async fn wait_for(places: &Places, name: &str, good: impl Fn(&Record) -> bool) -> Record {
        for _ in 0..200 {
            if let Some(record) = Record::read(&places.record(name)).filter(|r| r.is_running() && good(r)) {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name} does not run");
    }

    #[tokio::test]
    async fn a_killed_process_comes_back_and_a_stop_leaves_none() {
        let dir = tempfile::tempdir().unwrap();
        let places = prepare(dir.path()).unwrap();
        let (trigger, watch) = drain::channel(Duration::from_secs(20));
        places.want("one", &sleeper(1)).unwrap();
        let task = tokio::spawn(supervise(places.clone(), watch));
        let first = wait_for(&places, "one", |_| true).await;
        places.want("two", &sleeper(2)).unwrap();
        let two = wait_for(&places, "two", |_| true).await;
        first.signal(nix::sys::signal::Signal::SIGKILL);
        let again = wait_for(&places, "one", |r| r.pid != first.pid).await;
        fs::remove_file(places.units().join("two.json")).unwrap();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!two.is_running() && again.is_running(), "a unit that goes is a process that stops");
        trigger.drain().await;
        task.await.unwrap().unwrap();
        assert!(!again.is_running());
        assert!(places.records().is_empty());
    }

    #[tokio::test]
    async fn a_new_supervisor_adopts_what_runs() {
        let dir = tempfile::tempdir().unwrap();
        let places = prepare(dir.path()).unwrap();
        places.want("one", &sleeper(1)).unwrap();
        let (first, watch) = drain::channel(Duration::from_secs(20));
        let task = tokio::spawn(supervise(places.clone(), watch));
        let record = wait_for(&places, "one", |_| true).await;
        // Killed: its child goes on without it.
        task.abort();
        let _ = task.await;
        drop(first);
        let (second, watch) = drain::channel(Duration::from_secs(20));
        let task = tokio::spawn(supervise(places.clone(), watch));
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(Record::read(&places.record("one")), Some(record.clone()));
        second.drain().await;
        task.await.unwrap().unwrap();
        assert!(!record.is_running());
    }
}
