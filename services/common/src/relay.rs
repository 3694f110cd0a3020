//! Bytes both ways between two connections, until one side ends or a limit is reached.
//!
//! Called for each HTTP request that was upgraded to a stream, in a task that owns it. Both connections are
//! dropped at the end, so neither side waits for the other. Limits: two buffers; [`IDLE`], [`TOTAL`] and
//! [`LINGER`]. Cancelling it is an end.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::time::Instant;

/// A stream on which nobody says anything ends; the kubelet's default.
pub const IDLE: Duration = Duration::from_secs(4 * 3600);
/// Longest stream: what was forgotten ends some day.
pub const TOTAL: Duration = Duration::from_secs(24 * 3600);
/// When one side has closed, the other may still say so much longer what it has to say.
pub const LINGER: Duration = Duration::from_secs(2);
/// Bytes that are under way in one direction.
const BUFFER: usize = 16 * 1024;

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client closed it, or its connection broke.
    Client,
    /// The server closed it, or its connection broke.
    Server,
    /// Nobody said anything for [`IDLE`].
    Idle,
    /// It lasted [`TOTAL`].
    Total,
}

/// Relays between client and server.
pub async fn relay<C, S>(client: C, server: S) -> End
where
    C: AsyncRead + AsyncWrite,
    S: AsyncRead + AsyncWrite,
{
    let begin = Instant::now();
    let last = AtomicU64::new(0);
    let (mut client_read, mut client_write) = split(client);
    let (mut server_read, mut server_write) = split(server);
    let stamp = || last.store(millis(begin.elapsed()), Ordering::Relaxed);
    let up = pump(&mut client_read, &mut server_write, stamp);
    let down = pump(&mut server_read, &mut client_write, stamp);
    tokio::pin!(up);
    tokio::pin!(down);
    let idle = async {
        loop {
            let since = Duration::from_millis(last.load(Ordering::Relaxed));
            let due = begin + since + IDLE;
            if Instant::now() >= due {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    };
    tokio::select! {
        _ = &mut up => {
            let _ = tokio::time::timeout(LINGER, &mut down).await;
            End::Client
        }
        _ = &mut down => {
            let _ = tokio::time::timeout(LINGER, &mut up).await;
            End::Server
        }
        () = idle => End::Idle,
        () = tokio::time::sleep(TOTAL) => End::Total,
    }
}

async fn pump<R, W>(from: &mut R, to: &mut W, stamp: impl Fn()) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        stamp();
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return to.shutdown().await;
        };
        to.write_all(bytes).await?;
        to.flush().await?;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::duplex;

    #[tokio::test(start_paused = true)]
    async fn bytes_go_both_ways_and_the_end_is_passed_on() {
        let (mut client, near) = duplex(64);
        let (far, mut server) = duplex(64);
        let task = tokio::spawn(relay(near, far));
        client.write_all(b"ls").await.unwrap();
        let mut two = [0; 2];
        server.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"ls");
        server.write_all(b"a\n").await.unwrap();
        drop(server);
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "a\n");
        assert_eq!(task.await.unwrap(), End::Server);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_ends_the_servers_side_though_it_says_nothing() {
        let (client, near) = duplex(64);
        let (far, mut server) = duplex(64);
        let task = tokio::spawn(relay(near, far));
        drop(client);
        assert_eq!(task.await.unwrap(), End::Client);
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_age_end_a_stream() {
        let begin = Instant::now();
        let (_client, near) = duplex(64);
        let (far, _server) = duplex(64);
        assert_eq!(relay(near, far).await, End::Idle);
        assert_eq!(begin.elapsed(), IDLE);

        let begin = Instant::now();
        let (mut client, near) = duplex(64);
        let (far, _server) = duplex(1 << 20);
        let chatter = tokio::spawn(async move {
            while client.write_all(b".").await.is_ok() {
                tokio::time::sleep(IDLE / 2).await;
            }
        });
        assert_eq!(relay(near, far).await, End::Total);
        assert_eq!(begin.elapsed(), TOTAL);
        chatter.abort();
    }
}
