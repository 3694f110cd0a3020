//! Waiting for things that other processes do.
//!
//! Every wait polls: what is waited for may be restarted in between, and nothing here is frequent. The
//! deadline of all waits together is the one of `up`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How often something is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for one answer of an admin server.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest answer of an admin server that is read.
const MAX_ANSWER: u64 = 4096;
/// How much of a log is looked at for its last words.
const TAIL: usize = 4096;

/// Waits until `look` finds something.
pub(super) async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Asks an admin server for `/readyz`.
pub(crate) async fn is_ready(admin: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(admin).await.ok()?;
        let request = format!("GET /readyz HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut answer).await.ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    };
    tokio::time::timeout(ANSWER, ask).await.is_ok_and(|answer| answer.is_some())
}

/// The last error or warning in each log, for the message of a failure.
pub(super) fn last_words(logs: &Path) -> String {
    let Ok(entries) = fs::read_dir(logs) else { return "there are no logs".into() };
    let mut words = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let Ok(text) = fs::read(&path) else { continue };
        let tail =
            String::from_utf8_lossy(text.get(text.len().saturating_sub(TAIL)..).unwrap_or_default()).into_owned();
        let last = tail.lines().rev().find(|l| l.contains("ERROR") || l.contains("error") || l.contains("WARN"));
        if let (Some(last), Some(name)) = (last, path.file_stem()) {
            words.push(format!("{}: {}", name.to_string_lossy(), last.trim()));
        }
    }
    if words.is_empty() { "the logs show no error".into() } else { format!("\n  {}", words.join("\n  ")) }
}
