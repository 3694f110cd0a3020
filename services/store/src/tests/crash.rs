//! Kills, power cuts and failing disks: what was acknowledged is there afterwards.
//!
//! The counts are the short form; `SKERRY_ROUNDS` multiplies them for the long run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{child, fast_dir, open};
use crate::{Opened, Store, StoreOptions};

fn rounds(short: u64) -> u64 {
    std::env::var("SKERRY_ROUNDS").ok().and_then(|factor| factor.parse::<u64>().ok()).unwrap_or(1) * short
}

/// A repeatable sequence of numbers; the seed is in every failure message.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }
}

#[tokio::test]
async fn acknowledged_rows_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.db");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut acked_before = 0;
    for round in 0..rounds(20) {
        let mut process = child::spawn(&path, u64::MAX, &[]);
        child::wait_for_acks(&mut process, 1 + random.below(8));
        std::thread::sleep(Duration::from_micros(u64::try_from(random.below(8000)).unwrap()));
        process.kill().unwrap();
        process.wait().unwrap();
        let acked = child::acks(&path);
        assert!(acked.len() > acked_before, "the child worked in round {round}");
        acked_before = acked.len();
        let (store, opened) = open(&path);
        assert_eq!(opened, Opened::Clean, "round {round}");
        let missing = child::missing(&store, &acked).await;
        assert!(missing.is_empty(), "round {round}: {missing:?}");
        store.close().await;
    }
}

/// One recorded operation on a file.
#[derive(Debug)]
enum Record {
    Write { path: PathBuf, at: usize, data: Vec<u8> },
    Cut { path: PathBuf, size: usize },
    Synced { path: PathBuf },
    Removed { path: PathBuf },
    Renamed { from: PathBuf, to: PathBuf },
}

fn read_journal(journal: &Path) -> Vec<Record> {
    let bytes = std::fs::read(journal).unwrap();
    let mut rest = bytes.as_slice();
    let mut take = |count: usize| {
        let (head, tail) = rest.split_at_checked(count)?;
        rest = tail;
        Some(head.to_vec())
    };
    let number = |bytes: Vec<u8>| bytes.iter().rev().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte));
    let mut records = Vec::new();
    // A record that the kill cut off is not there.
    while let Some(op) = take(1) {
        let Some(path) = take(4).and_then(|length| take(number(length))) else { break };
        let path = PathBuf::from(String::from_utf8(path).unwrap());
        let (Some(at), Some(length)) = (take(8).map(number), take(8).map(number)) else { break };
        let Some(data) = take(if op == b"W" || op == b"R" { length } else { 0 }) else { break };
        records.push(match op[0] {
            b'W' => Record::Write { path, at, data },
            b'T' => Record::Cut { path, size: at },
            b'S' => Record::Synced { path },
            b'U' => Record::Removed { path },
            b'R' => Record::Renamed { from: path, to: String::from_utf8(data).unwrap().into() },
            other => panic!("record {other}"),
        });
    }
    records
}

/// A file as the disk may hold it: what was synced, and what was written since.
#[derive(Clone, Default)]
struct Disk {
    durable: Vec<u8>,
    pending: Vec<(usize, Option<Vec<u8>>)>,
}

fn put(content: &mut Vec<u8>, at: usize, data: Option<&[u8]>) {
    match data {
        None => content.resize(at, 0),
        Some(data) => {
            content.resize(content.len().max(at + data.len()), 0);
            content[at..at + data.len()].copy_from_slice(data);
        }
    }
}

impl Disk {
    fn sync(&mut self) {
        for (at, data) in self.pending.drain(..) {
            put(&mut self.durable, at, data.as_deref());
        }
    }

    /// What is there after the cut: of the unsynced operations none, all, the first few, or any, each
    /// possibly only in part, by sectors.
    fn after_cut(&self, random: &mut Random) -> Vec<u8> {
        const SECTOR: usize = 512;
        let mut content = self.durable.clone();
        let kind = random.below(4);
        let first = random.below(self.pending.len() + 1);
        for (index, (at, data)) in self.pending.iter().enumerate() {
            let kept = match kind {
                0 => false,
                1 => true,
                2 => index < first,
                _ => random.below(2) == 0,
            };
            if !kept {
                continue;
            }
            match data {
                Some(data) if kind == 3 && random.below(3) == 0 => {
                    let sectors = data.len().div_ceil(SECTOR);
                    let torn = (random.below(sectors + 1) * SECTOR).min(data.len());
                    put(&mut content, *at, Some(&data[..torn]));
                }
                data => put(&mut content, *at, data.as_deref()),
            }
        }
        content
    }
}

/// The disk after the power was cut before record `cut`. The file of acknowledgements is the
/// observer's: it keeps everything.
fn power_cut(records: &[Record], cut: usize, random: &mut Random, target: &Path) -> Vec<u64> {
    let mut files: BTreeMap<&Path, Disk> = BTreeMap::new();
    for record in &records[..cut] {
        match record {
            Record::Write { path, at, data } => {
                files.entry(path).or_default().pending.push((*at, Some(data.clone())));
            }
            Record::Cut { path, size } => files.entry(path).or_default().pending.push((*size, None)),
            Record::Synced { path } => {
                if let Some(file) = files.get_mut(path.as_path()) {
                    file.sync();
                }
            }
            Record::Removed { path } => {
                files.remove(path.as_path());
            }
            Record::Renamed { from, to } => {
                if let Some(file) = files.remove(from.as_path()) {
                    files.insert(to, file);
                }
            }
        }
    }
    let mut acked = Vec::new();
    for (path, mut file) in files {
        let name = path.file_name().unwrap();
        if name == "acks" {
            file.sync();
            acked = child::parse_acks(&file.durable);
        } else {
            std::fs::write(target.join(name), file.after_cut(random)).unwrap();
        }
    }
    acked
}

/// Runs a child under the recorder, then cuts the power at many instants. Returns what was lost.
async fn cuts(weak: bool, cuts: u64, seed: u64) -> Vec<String> {
    let dir = fast_dir();
    let (path, journal) = (dir.path().join("edge.db"), tempfile::NamedTempFile::new().unwrap());
    let mut settings = vec![("SKERRY_JOURNAL", journal.path().display().to_string())];
    if weak {
        settings.push(("SKERRY_WEAK", "1".into()));
    }
    let output = child::spawn(&path, 120, &settings).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let records = read_journal(journal.path());
    let syncs = records.iter().filter(|record| matches!(record, Record::Synced { .. })).count();
    assert_eq!(child::acks(&path).len(), 120);
    // Each row is five commits.
    assert_eq!(syncs >= 120 * 4, !weak, "{syncs} syncs");

    let mut random = Random(seed);
    let mut lost = Vec::new();
    for _ in 0..cuts {
        let after = fast_dir();
        let cut = random.below(records.len() + 1);
        let acked = power_cut(&records, cut, &mut random, after.path());
        let (store, opened) = open(&after.path().join("edge.db"));
        if opened != Opened::Clean && !acked.is_empty() {
            lost.push(format!("cut {cut}, seed {seed:#x}: {opened:?}"));
        }
        let missing = child::missing(&store, &acked).await;
        if !missing.is_empty() {
            lost.push(format!("cut {cut}, seed {seed:#x}: {missing:?}"));
        }
        store.close().await;
    }
    lost
}

#[tokio::test]
async fn acknowledged_rows_survive_a_power_cut() {
    let lost = cuts(false, rounds(100), 0x5eed_0001).await;
    assert!(lost.is_empty(), "{lost:#?}");
}

/// The control: with `synchronous=NORMAL` the same test must find losses.
#[tokio::test]
async fn a_weaker_setting_is_seen_to_lose_rows() {
    let lost = cuts(true, 60, 0x5eed_0002).await;
    assert!(!lost.is_empty(), "the test is blind");
}

#[tokio::test]
async fn a_failed_sync_stops_the_store_for_good() {
    let mut stopped = 0;
    // The first ones are those of the opening, the later ones those of commits and of merging the log.
    let all: Vec<u64> =
        if rounds(1) > 1 { (1..=150).collect() } else { (1..=24).chain((25..=110).step_by(5)).collect() };
    for k in all {
        let dir = fast_dir();
        let path = dir.path().join("edge.db");
        let output = child::spawn(&path, 40, &[("SKERRY_EIO_SYNC", k.to_string())]).wait_with_output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(log.contains("injected: sync"), "sync {k} was failed: {log}");
        match output.status.code() {
            Some(child::STOPPED) => stopped += 1,
            Some(child::NOT_OPENED) => {}
            // Helpers: their loss is logged, and the store works.
            Some(0) => assert!(helper(&log, dir.path()), "sync {k}: went on after {log}"),
            other => panic!("sync {k}: ended with {other:?}: {log}"),
        }
        let (store, opened) = open(&path);
        assert_eq!(opened, Opened::Clean, "sync {k}");
        let acked = child::acks(&path);
        let missing = child::missing(&store, &acked).await;
        assert!(missing.is_empty(), "sync {k}: {missing:?}");
        assert_eq!(store.get_value("after").await.unwrap(), None);
        store.close().await;
    }
    assert!(stopped >= 10, "most syncs are those of commits: {stopped}");
}

/// The control: SQLite by itself goes on after a failed sync as if nothing had happened.
#[test]
fn sqlite_alone_goes_on_after_a_failed_sync() {
    let dir = fast_dir();
    let settings = [("SKERRY_EIO_SYNC", "12".to_owned()), ("SKERRY_PLAIN", "1".to_owned())];
    let output = child::spawn(&dir.path().join("edge.db"), 0, &settings).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(child::WENT_ON), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Whether the injected failure hit a file beside the database.
fn helper(log: &str, directory: &Path) -> bool {
    let hit = log.lines().find(|line| line.starts_with("injected:")).unwrap();
    hit.ends_with(".ballast") || hit.ends_with(".epoch.tmp") || hit.ends_with(&*directory.to_string_lossy())
}

#[tokio::test]
async fn a_failed_read_stops_the_store_or_its_start() {
    let (mut stopped, mut again) = (0, 0);
    for k in [1, 2, 3, 5, 8, 13, 21, 34, 55, 70, 80, 90, 100] {
        let dir = fast_dir();
        let path = dir.path().join("edge.db");
        let (store, _) = Store::open(&path, StoreOptions::default()).unwrap();
        store.put_value("before", "x").await.unwrap();
        store.close().await;
        let output = child::spawn(&path, 20, &[("SKERRY_EIO_READ", k.to_string())]).wait_with_output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(child::STOPPED) => stopped += 1,
            Some(child::NOT_OPENED) => assert!(log.contains(".probe"), "read {k}: {log}"),
            // A check at start that fails once is made again.
            Some(0) if log.contains("injected") => again += 1,
            Some(0) => {}
            other => panic!("read {k}: ended with {other:?}: {log}"),
        }
        let (store, opened) = open(&path);
        assert_eq!(opened, Opened::Clean, "read {k}: a passing error sets nothing aside");
        let missing = child::missing(&store, &child::acks(&path)).await;
        assert!(missing.is_empty(), "read {k}: {missing:?}");
        assert_eq!(store.get_value("before").await.unwrap().unwrap(), "x");
        store.close().await;
    }
    assert!(stopped > 0 && again > 0, "{stopped} stopped, {again} tried again");
}
