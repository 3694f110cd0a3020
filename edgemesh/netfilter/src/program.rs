//! Runs nft: an argument vector, text on standard input, a deadline, no shell.
//!
//! What they print is bounded; a program that prints more, or does not end, is killed. That is safe at any time: the
//! kernel does a transaction as a whole or not at all.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time;

/// The largest transaction takes a few seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// A listing of the largest state is a third of this.
const MAX_STDOUT: u64 = 128 << 20;

/// What an error message may be long; the rest is not kept.
const MAX_STDERR: u64 = 16 << 10;

/// Where system programs are, also when `PATH` is a user's.
const SYSTEM: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// A program that ended.
#[derive(Debug)]
pub(crate) struct Output {
    /// Whether it says that all is well.
    pub(crate) success: bool,
    /// What it printed.
    pub(crate) stdout: Vec<u8>,
    /// What it complained of.
    pub(crate) stderr: String,
}

/// Where a program is, if it is installed.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(SYSTEM.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Runs a program to its end.
///
/// # Errors
/// The cause when it cannot be started, does not end within the deadline, or prints too much.
pub(crate) async fn run(program: &Path, arguments: &[&str], stdin: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        // One of its messages is looked at.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (input, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut input) = input {
            // A program that has seen enough closes its end, and says why on the other one.
            let _ = input.write_all(stdin.as_bytes()).await;
        }
    };
    let work = async {
        let (_, stdout, stderr) = tokio::join!(write, read(stdout, MAX_STDOUT), read(stderr, MAX_STDERR));
        let status = child.wait().await?;
        let stdout = stdout?;
        if stdout.len() as u64 > MAX_STDOUT {
            return Err(io::Error::other(format!("printed more than {MAX_STDOUT} bytes")));
        }
        let stderr = String::from_utf8_lossy(&stderr?).trim().to_owned();
        Ok(Output { success: status.success(), stdout, stderr })
    };
    time::timeout(DEADLINE, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// One byte more than `limit`, so that too much is known; the rest is read and dropped, or the program would wait.
async fn read(from: Option<impl AsyncRead + Unpin>, limit: u64) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut from) = from {
        (&mut from).take(limit + 1).read_to_end(&mut kept).await?;
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_goes_in_comes_out_and_failure_is_seen() {
        let cat = find("cat").unwrap();
        let long = "x".repeat(1 << 20);
        let output = run(&cat, &[], &long).await.unwrap();
        assert!(output.success);
        assert_eq!(output.stdout, long.as_bytes());

        let output = run(&cat, &["/nowhere"], &long).await.unwrap();
        assert!(!output.success);
        assert!(output.stderr.contains("No such file"), "{}", output.stderr);
        assert!(find("no-such-program").is_none());
    }

    #[tokio::test]
    async fn more_than_the_limit_is_known_and_read_to_the_end() {
        let bytes = vec![7; 100];
        assert_eq!(read(Some(bytes.as_slice()), 100).await.unwrap().len(), 100);
        assert_eq!(read(Some(bytes.as_slice()), 99).await.unwrap().len(), 100);
        assert_eq!(read(Some(bytes.as_slice()), 10).await.unwrap().len(), 11);
    }
}
