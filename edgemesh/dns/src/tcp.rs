//! DNS over TCP (RFC 7766): questions and answers with their lengths before them, several at once on a connection.
//!
//! One task accepts, one serves each connection. Answers go out as they are ready, in any order.
//!
//! Limits: [`MAX_CONNECTIONS`], of one source [`MAX_PER_SOURCE`], beyond which a connection is closed at once;
//! [`PIPELINE`] questions at once, beyond which nothing is read; a connection without a question ends after [`IDLE`],
//! one that does not take its answers after [`WRITE`].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::SinkExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answerer::{Answerer, Verdict};
use crate::metrics::Metrics;
use crate::packet::MAX_TCP;
use crate::udp::MAX_QUESTION;

/// Open connections: clients come here only when UDP did not do.
pub(crate) const MAX_CONNECTIONS: usize = 256;
/// Of one address, so that one pod cannot take them all.
pub(crate) const MAX_PER_SOURCE: usize = 64;
/// Questions at once on a connection.
const PIPELINE: usize = 16;
/// A connection may be silent for so long (RFC 7766 §6.2.3: "a few seconds").
const IDLE: Duration = Duration::from_secs(10);
/// An answer is taken within this, or never.
const WRITE: Duration = Duration::from_secs(5);
/// After an error of accept, which is a lack of memory or descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections of each source.
#[derive(Default)]
struct Open(Mutex<HashMap<IpAddr, usize>>);

/// One open connection.
struct Place {
    open: Arc<Open>,
    source: IpAddr,
    metrics: Metrics,
}

impl Open {
    fn take(self: &Arc<Self>, source: IpAddr, metrics: &Metrics) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let of_source = open.entry(source).or_default();
        if all >= MAX_CONNECTIONS || *of_source >= MAX_PER_SOURCE {
            if *of_source == 0 {
                open.remove(&source);
            }
            return None;
        }
        *of_source += 1;
        metrics.tcp_connections.inc();
        Some(Place { open: self.clone(), source, metrics: metrics.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
        self.metrics.tcp_connections.dec();
    }
}

/// Accepts until it is told to stop.
pub(crate) async fn serve(listener: TcpListener, answerer: Arc<Answerer>, metrics: Metrics, stop: CancellationToken) {
    let open = Arc::new(Open::default());
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(place) = open.take(client.ip(), &metrics) else {
            metrics.tcp_refused.inc();
            continue;
        };
        let (answerer, stop) = (answerer.clone(), stop.clone());
        connections.spawn(async move {
            let _place = place;
            // How a connection ends is its client's business.
            let _ = stop.run_until_cancelled(connection(stream, client, &answerer)).await;
        });
    }
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, client: SocketAddr, answerer: &Answerer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let codec = LengthDelimitedCodec::builder().length_field_type::<u16>().max_frame_length(MAX_TCP).new_codec();
    let mut framed = Framed::new(stream, codec);
    let mut waiting = FuturesUnordered::new();
    let mut turn: usize = 0;
    loop {
        let answer: Bytes = tokio::select! {
            Some(answer) = waiting.next() => answer,
            frame = tokio::time::timeout(IDLE, framed.next()), if waiting.len() < PIPELINE => {
                let Ok(frame) = frame else {
                    if waiting.is_empty() {
                        return Ok(());
                    }
                    continue;
                };
                let Some(question) = frame.transpose()? else {
                    return drain(framed, waiting).await;
                };
                turn = turn.wrapping_add(1);
                let mut answer = Vec::new();
                match question_of(&question, client, turn, answerer, &mut answer) {
                    Verdict::Ignore => return Ok(()),
                    Verdict::Send => answer.into(),
                    Verdict::Later(later) => {
                        waiting.push(async move {
                            let mut answer = Vec::new();
                            answerer.finish(&later, turn, MAX_TCP, &mut answer).await;
                            Bytes::from(answer)
                        });
                        continue;
                    }
                }
            }
        };
        tokio::time::timeout(WRITE, framed.send(answer)).await??;
    }
}

/// The client asks no more; it shall have what it asked for.
async fn drain(
    mut framed: Framed<TcpStream, LengthDelimitedCodec>,
    mut waiting: FuturesUnordered<impl Future<Output = Bytes>>,
) -> io::Result<()> {
    while let Some(answer) = waiting.next().await {
        tokio::time::timeout(WRITE, framed.send(answer)).await??;
    }
    Ok(())
}

fn question_of(
    question: &BytesMut,
    client: SocketAddr,
    turn: usize,
    answerer: &Answerer,
    answer: &mut Vec<u8>,
) -> Verdict {
    if question.len() > MAX_QUESTION {
        return Verdict::Ignore;
    }
    answerer.answer(question, client.ip(), turn, |_| MAX_TCP, answer)
}
