//! One UDP socket: packets in, answers out, in one task.
//!
//! There are several of these for an address (SO_REUSEPORT), so that the kernel spreads clients over processors. A task
//! reads what is there, up to [`BATCH`], before it lets others run. What has to be waited for goes into a task of its
//! own, of which the answerer allows a bounded number.
//!
//! An answer that the kernel does not take at once is dropped and counted: the client asks again. Errors of the socket
//! are those of single packets; the loop goes on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answerer::{Answerer, Verdict};
use crate::metrics::Metrics;
use crate::packet::{MAX_UDP, udp_limit};

/// Longest question that is read. A real one is a fifth of it.
pub(crate) const MAX_QUESTION: usize = 1500;
/// Packets between two looks at what else there is to do.
const BATCH: usize = 64;

/// After an error of the socket, so that one that stays does not take the processor.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves one socket until it is told to stop.
pub(crate) async fn serve(
    socket: UdpSocket,
    answerer: Arc<Answerer>,
    metrics: Metrics,
    stop: CancellationToken,
) -> io::Result<()> {
    let socket = Arc::new(socket);
    let waiting = TaskTracker::new();
    let read = read(&socket, &answerer, &metrics, &waiting, &stop);
    stop.run_until_cancelled(read).await.unwrap_or(Ok(()))?;
    // They end at once: the token is theirs as well.
    waiting.close();
    waiting.wait().await;
    Ok(())
}

async fn read(
    socket: &Arc<UdpSocket>,
    answerer: &Arc<Answerer>,
    metrics: &Metrics,
    waiting: &TaskTracker,
    stop: &CancellationToken,
) -> io::Result<()> {
    // One byte more tells a question that was cut from one that just fits.
    let mut question = vec![0; MAX_QUESTION + 1];
    let mut answer = Vec::with_capacity(MAX_UDP);
    let mut turn: usize = 0;
    loop {
        socket.readable().await?;
        for _ in 0..BATCH {
            let (length, client) = match socket.try_recv_from(&mut question) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::warn!(%error, "cannot receive");
                    tokio::time::sleep(PAUSE).await;
                    break;
                }
            };
            let Some(packet) = question.get(..length).filter(|_| length <= MAX_QUESTION && client.port() != 0) else {
                metrics.malformed.inc();
                continue;
            };
            turn = turn.wrapping_add(1);
            match answerer.answer(packet, client.ip(), turn, udp_limit, &mut answer) {
                Verdict::Ignore => {}
                Verdict::Send => {
                    if socket.try_send_to(&answer, client).is_err() {
                        metrics.unsent.inc();
                    }
                }
                Verdict::Later(later) => {
                    let (socket, answerer, metrics) = (socket.clone(), answerer.clone(), metrics.clone());
                    let finish = async move {
                        let mut answer = Vec::new();
                        answerer.finish(&later, turn, udp_limit(later.echo()), &mut answer).await;
                        send(&socket, &answer, client, &metrics).await;
                    };
                    let stop = stop.clone();
                    waiting.spawn(async move { stop.run_until_cancelled(finish).await });
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr, metrics: &Metrics) {
    if socket.send_to(answer, client).await.is_err() {
        metrics.unsent.inc();
    }
}
