//! The process that is killed, cut off or fed with errors: this test binary, started again.
//!
//! It writes numbered rows and appends each number to the file `acks` after the store has
//! acknowledged it; the parent judges by that file. Faults come from `preload.c`.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use skerry_common::Key;

use super::{event, upsert};
use crate::{Opened, Store, StoreError, StoreOptions};

/// The process ended because the store had stopped, as a service must.
pub(super) const STOPPED: i32 = 3;
/// The store could not be opened.
pub(super) const NOT_OPENED: i32 = 4;
/// The store took something after it had failed.
pub(super) const WENT_ON: i32 = 5;

/// Rows that are deleted again after this many others, so that the cuts fall into deletions too.
const LAG: u64 = 5;

/// Does nothing, except in the child.
#[test]
fn entry() {
    let Ok(path) = std::env::var("SKERRY_STORE_CHILD") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let code = runtime.block_on(run(Path::new(&path)));
    std::process::exit(code);
}

/// Starts a child that writes at `database` until it is killed or has written `rows`.
pub(super) fn spawn(database: &Path, rows: u64, settings: &[(&str, String)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "tests::child::entry", "--nocapture", "--test-threads=1"])
        .env("SKERRY_STORE_CHILD", database)
        .env("SKERRY_ROWS", rows.to_string())
        .env("SKERRY_ROOT", database.parent().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in settings {
        command.env(name, value);
    }
    if !settings.is_empty() {
        command.env("LD_PRELOAD", shim());
    }
    command.spawn().unwrap()
}

/// The compiled `preload.c`. The C compiler is there: SQLite was built with it.
fn shim() -> &'static Path {
    static SHIM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SHIM.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (source, library) = (dir.path().join("preload.c"), dir.path().join("preload.so"));
        std::fs::write(&source, include_str!("preload.c")).unwrap();
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
        assert!(built.unwrap().success(), "cc failed");
        (dir, library)
    });
    path
}

/// Waits until the child has acknowledged at least `rows` rows.
pub(super) fn wait_for_acks(child: &mut Child, rows: usize) {
    let output = BufReader::new(child.stdout.as_mut().unwrap());
    let acked = output.lines().map_while(Result::ok).filter(|line| line.starts_with("acked ")).take(rows).count();
    assert_eq!(acked, rows, "the child ended early");
}

/// The acknowledged numbers in the text of an `acks` file; a torn last line does not count.
pub(super) fn parse_acks(text: &[u8]) -> Vec<u64> {
    let text = String::from_utf8_lossy(text);
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| line.parse().unwrap()).collect()
}

pub(super) fn acks(database: &Path) -> Vec<u64> {
    parse_acks(&std::fs::read(database.with_file_name("acks")).unwrap_or_default())
}

/// What is missing of the acknowledged rows, in words.
pub(super) async fn missing(store: &Store, acked: &[u64]) -> Vec<String> {
    let mut missing = Vec::new();
    let Some(last) = acked.iter().max().copied() else { return missing };
    let counter = store.get_value("counter").await.unwrap();
    let counter: u64 = counter.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap());
    if counter < last {
        missing.push(format!("counter {counter}, acknowledged {last}"));
    }
    let pending = store.pending(0, usize::MAX >> 1).await.unwrap();
    let reports: std::collections::BTreeSet<String> =
        pending.into_iter().map(|pending| pending.report.key.name.to_string()).collect();
    for row in acked {
        if !reports.contains(&format!("r{row}")) {
            missing.push(format!("report {row}"));
        }
        let object = store.get("Pod", &Key::new("default", format!("r{row}"))).await.unwrap();
        let deleted = row + LAG <= last;
        match object {
            Some(_) if deleted => missing.push(format!("deletion of {row}")),
            // The deletion may have been on its way: it precedes the acknowledgement of its own row.
            None if row + LAG > last + 1 => missing.push(format!("object {row}")),
            Some(object) if object.body != body(*row) => missing.push(format!("content of {row}")),
            _ => {}
        }
    }
    missing
}

fn body(row: u64) -> Vec<u8> {
    // Some rows need overflow pages, and a few dozen rows make SQLite checkpoint.
    let length = if row.is_multiple_of(3) { 12_000 } else { 300 };
    (0..length).map(|at| u8::try_from((at + row) % 251).unwrap()).collect()
}

async fn run(path: &Path) -> i32 {
    if std::env::var("SKERRY_PLAIN").is_ok() {
        return plain(path);
    }
    let options = StoreOptions { weak_sync: std::env::var("SKERRY_WEAK").is_ok(), ..StoreOptions::default() };
    let (store, opened) = match Store::open(path, options) {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("not opened: {}", skerry_common::chain(&error));
            return NOT_OPENED;
        }
    };
    assert!(matches!(opened, Opened::Clean), "{opened:?}");
    let rows: u64 = std::env::var("SKERRY_ROWS").unwrap().parse().unwrap();
    let first = acks(path).into_iter().max().unwrap_or(0) + 1;
    let mut acks = std::fs::OpenOptions::new().create(true).append(true).open(path.with_file_name("acks")).unwrap();
    for row in first..first.saturating_add(rows) {
        if let Err(error) = write(&store, row).await {
            return failed(&store, error).await;
        }
        acks.write_all(format!("{row}\n").as_bytes()).unwrap();
        println!("acked {row}");
        if row.is_multiple_of(4)
            && let Err(error) = store.get("Pod", &Key::new("default", format!("r{row}"))).await
        {
            return failed(&store, error).await;
        }
    }
    0
}

async fn write(store: &Store, row: u64) -> Result<(), StoreError> {
    let name = format!("r{row}");
    store.apply("Pod", vec![upsert(&name, "1", body(row))]).await?;
    // The number of a row that was written but not acknowledged before a kill is used again.
    let again = store.pending(0, usize::MAX >> 1).await?.into_iter().filter(|p| *p.report.key.name == *name);
    let again: Vec<u64> = again.map(|pending| pending.id).collect();
    store.put(event(&name, "x")).await?;
    store.remove(&again).await?;
    if let Some(old) = row.checked_sub(LAG) {
        store.apply("Pod", vec![super::delete(&format!("r{old}"))]).await?;
    }
    store.put_value("counter", row.to_string()).await
}

/// The control of the fail-stop: SQLite alone, with the same settings, after a failed sync.
fn plain(path: &Path) -> i32 {
    crate::connection::create_private(path).unwrap();
    let connection = crate::connection::open_writer(path).unwrap();
    crate::connection::make_durable(&connection, &StoreOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t (x)").unwrap();
    for row in 0..100 {
        if connection.execute("INSERT INTO t VALUES (?1)", [row]).is_err() {
            let next = connection.execute("INSERT INTO t VALUES (?1)", [row]);
            return if next.is_ok() { WENT_ON } else { STOPPED };
        }
    }
    0
}

/// After the first error nothing may be taken any more, and the failure is told.
async fn failed(store: &Store, error: StoreError) -> i32 {
    eprintln!("failed: {}", skerry_common::chain(&error));
    for _ in 0..3 {
        if store.put_value("after", "failure").await.is_ok() {
            return WENT_ON;
        }
    }
    let reason = tokio::time::timeout(std::time::Duration::from_secs(5), store.failed()).await;
    match reason {
        Ok(reason) => eprintln!("stopped: {reason}"),
        Err(_) => return WENT_ON,
    }
    STOPPED
}
