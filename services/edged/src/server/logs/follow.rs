//! Reads a log file from where it is wanted, and goes on as it grows.
//!
//! At the end of the file a follower looks again every [`POLL`]: whether it grew, whether another file has
//! its name (the log was rotated: the old one is read to its end first, where the writer may still be for a
//! moment), and every [`ASK`] whether the
//! container still runs. When it does not, what was written last is read and the log ends. A runtime that
//! does not answer proves nothing, so the log goes on. Limits: one buffer; [`TOTAL`].

use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use skerry_common::relay::TOTAL;
use skerry_proto::cri::v1::ContainerState;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::lines::Lines;
use super::options::Options;
use crate::runtime::Cri;

/// Bytes that are read at once.
const BUFFER: usize = 32 * 1024;
/// How soon a new line is seen; a look costs one or two system calls.
const POLL: Duration = Duration::from_millis(100);
/// How soon the end of a container is seen.
const ASK: Duration = Duration::from_secs(1);

/// A log file, open at the place to begin.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: File,
    inode: u64,
    offset: u64,
    /// The file that has the name now: it is next when this one is read to its end.
    next: Option<File>,
}

impl Reader {
    /// Opens the file at its beginning, or so many lines before its end.
    pub(super) async fn open(path: PathBuf, options: &Options) -> io::Result<Self> {
        let mut file = File::open(&path).await?;
        let meta = file.metadata().await?;
        let offset = match options.tail {
            Some(lines) => before_end(&mut file, meta.len(), lines).await?,
            None => 0,
        };
        file.seek(SeekFrom::Start(offset)).await?;
        Ok(Self { path, file, inode: meta.ino(), offset, next: None })
    }

    /// Sends what is wanted until there is no more, the client is gone, or time is over.
    pub(super) async fn run(mut self, options: &Options, cri: &Cri, container: &str, chunks: &mpsc::Sender<Bytes>) {
        tokio::select! {
            ended = self.send(options, cri, container, chunks) => if let Err(error) = ended {
                tracing::warn!(path = %self.path.display(), %error, "log not read to its end");
            },
            () = chunks.closed() => {}
            () = tokio::time::sleep(TOTAL) => {}
        }
    }

    async fn send(
        &mut self,
        options: &Options,
        cri: &Cri,
        container: &str,
        chunks: &mpsc::Sender<Bytes>,
    ) -> io::Result<()> {
        let mut lines = Lines::new(options);
        let mut buffer = vec![0; BUFFER];
        let mut ended = !options.follow;
        // A container that has ended already is not waited for.
        let mut ask = Instant::now();
        while !lines.is_done() {
            let read = self.file.read(&mut buffer).await?;
            self.offset += read as u64;
            let mut out = BytesMut::new();
            if let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) {
                lines.feed(bytes, &mut out);
            } else if options.follow && self.rotated(&mut lines).await? {
                continue;
            } else if ended {
                lines.finish(&mut out);
                if !out.is_empty() {
                    let _ = chunks.send(out.freeze()).await;
                }
                return Ok(());
            } else if Instant::now() >= ask {
                ask = Instant::now() + ASK;
                // Look once more afterwards: its last words may have come meanwhile.
                ended = !still_runs(cri, container).await;
                continue;
            } else {
                tokio::time::sleep(POLL).await;
                continue;
            }
            if !out.is_empty() && chunks.send(out.freeze()).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Begins anew when the file was cut; when another one has the name, takes it up after one more look at the
    /// end of this one, since lines may have come between the last look and the rotation.
    async fn rotated(&mut self, lines: &mut Lines) -> io::Result<bool> {
        if let Some(next) = self.next.take() {
            self.inode = next.metadata().await?.ino();
            self.file = next;
            self.offset = 0;
            lines.forget_pending();
            return Ok(true);
        }
        let meta = match tokio::fs::metadata(&self.path).await {
            Ok(meta) => meta,
            // Between two files, or removed with its container.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if meta.ino() != self.inode {
            self.next = Some(File::open(&self.path).await?);
            tokio::time::sleep(POLL).await;
            return Ok(true);
        } else if meta.len() < self.offset {
            self.file.seek(SeekFrom::Start(0)).await?;
        } else {
            return Ok(false);
        }
        self.offset = 0;
        lines.forget_pending();
        Ok(true)
    }
}

async fn still_runs(cri: &Cri, container: &str) -> bool {
    match cri.container_status(container).await {
        Ok(reply) => reply
            .and_then(|reply| reply.status)
            .is_some_and(|status| status.state == ContainerState::ContainerRunning as i32),
        Err(_) => true,
    }
}

/// Where the last lines of a file begin.
async fn before_end(file: &mut File, length: u64, lines: u64) -> io::Result<u64> {
    if lines == 0 {
        return Ok(length);
    }
    let mut buffer = vec![0; BUFFER];
    let mut end = length;
    // The end of the last line is not the end of the line before it.
    let mut seen = 0;
    while end > 0 {
        let start = end.saturating_sub(BUFFER as u64);
        let size = usize::try_from(end - start).unwrap_or(BUFFER);
        file.seek(SeekFrom::Start(start)).await?;
        let part = buffer.get_mut(..size).unwrap_or_default();
        file.read_exact(part).await?;
        for (at, byte) in part.iter().enumerate().rev() {
            let position = start + at as u64 + 1;
            if *byte == b'\n' && position < length {
                seen += 1;
                if seen == lines {
                    return Ok(position);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use std::io::Write as _;

    #[tokio::test]
    async fn the_last_lines_begin_where_they_begin() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let long = "x".repeat(BUFFER);
        let text = format!("a\n{long}\nb\nc\n");
        std::fs::write(&path, &text).unwrap();
        let at = |lines: u64, path: PathBuf| async move {
            let mut file = File::open(&path).await.unwrap();
            let length = file.metadata().await.unwrap().len();
            before_end(&mut file, length, lines).await.unwrap()
        };
        let length = text.len() as u64;
        for (lines, from_end) in [(0, 0), (1, 2), (2, 4), (3, BUFFER as u64 + 5), (4, length), (9, length)] {
            assert_eq!(at(lines, path.clone()).await, length - from_end, "{lines}");
        }
        std::fs::write(&path, "a\nb").unwrap();
        assert_eq!(at(1, path.clone()).await, 2, "a line without an end is a line");
        std::fs::write(&path, "").unwrap();
        assert_eq!(at(3, path).await, 0);
    }

    #[tokio::test]
    async fn a_rotated_file_is_read_to_its_end_and_then_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
        let mut first = std::fs::File::create(&path).unwrap();
        write!(first, "{}", line("one")).unwrap();
        let options = Options { follow: true, limit: Some(14), ..Options::default() };
        let reader = Reader::open(path.clone(), &options).await.unwrap();
        let (tx, mut rx) = mpsc::channel(8);
        // Nobody listens there: a runtime that does not answer proves nothing.
        let cri = Cri::new(&dir.path().join("no.sock"), "n");
        let task = tokio::spawn(async move { reader.run(&options, &cri, "id", &tx).await });
        assert_eq!(rx.recv().await.unwrap(), "one\n");
        std::fs::rename(&path, dir.path().join("0.log.old")).unwrap();
        write!(first, "{}", line("two")).unwrap();
        std::fs::write(&path, line("three")).unwrap();
        let mut rest = String::new();
        while let Some(bytes) = rx.recv().await {
            rest.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        assert_eq!(rest, "two\nthree\n");
        task.await.unwrap();
    }

    #[tokio::test]
    async fn what_came_just_before_the_rotation_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut first = std::fs::File::create(&path).unwrap();
        let options = Options { follow: true, ..Options::default() };
        let mut reader = Reader::open(path.clone(), &options).await.unwrap();
        let mut lines = Lines::new(&options);
        let mut text = String::new();
        assert_eq!(reader.file.read_to_string(&mut text).await.unwrap(), 0, "it has seen the end");
        write!(first, "old ").unwrap();
        std::fs::rename(&path, dir.path().join("0.log.old")).unwrap();
        std::fs::write(&path, "new").unwrap();
        for _ in 0..2 {
            assert!(reader.rotated(&mut lines).await.unwrap());
            reader.file.read_to_string(&mut text).await.unwrap();
        }
        assert_eq!(text, "old new");
        assert!(!reader.rotated(&mut lines).await.unwrap());
    }

    #[tokio::test]
    async fn a_client_that_goes_ends_the_task() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "").unwrap();
        let options = Options { follow: true, ..Options::default() };
        let reader = Reader::open(path, &options).await.unwrap();
        let (tx, rx) = mpsc::channel(8);
        let cri = Cri::new(&dir.path().join("no.sock"), "n");
        let task = tokio::spawn(async move { reader.run(&options, &cri, "id", &tx).await });
        drop(rx);
        task.await.unwrap();
    }
}
