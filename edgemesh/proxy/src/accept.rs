//! Accepting connections: one loop for each listener, one task for each connection, a bounded number of them.
//!
//! Nothing that a connection does keeps the loop from the next one. Over the limit a connection is accepted and
//! reset at once, so that its client knows. Without descriptors or memory the loop rests for a moment and goes
//! on. It ends when the drain begins; connections go on until they end or the drain's deadline is over.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use skerry_common::drain::Watch;
use skerry_telemetry::emit;
use tokio::net::{TcpListener, TcpStream};

use crate::events::Shed;
use crate::limits::ACCEPT_PAUSE;
use crate::proxy::Shared;
use crate::socket;

/// Counts a thing while it lives.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Accepts until the drain begins, and serves each connection on a task of its own.
pub(crate) async fn run<C, D, F>(
    shared: &Arc<Shared<C, D>>,
    listener: TcpListener,
    mut stop: Watch,
    serve: impl Fn(TcpStream, SocketAddr, Watch) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut draining = stop.clone();
    let draining = draining.stopped();
    tokio::pin!(draining);
    loop {
        let accepted = tokio::select! {
            biased;
            _guard = &mut draining => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                socket::tune(&stream);
                let Ok(place) = shared.connections.clone().try_acquire_owned() else {
                    emit(Shed { client }, &shared.metrics);
                    continue;
                };
                let counted = Counted::new(&shared.metrics.connections);
                let (guard, served) = (stop.guard(), serve(stream, client, stop.clone()));
                tokio::spawn(async move {
                    served.await;
                    drop((place, counted, guard));
                });
            }
            Err(error) if of_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::select! {
                    () = stop.forced() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

/// Whether an accept failed of the connection that it would have returned (accept(2)).
fn of_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted
            | K::ConnectionReset
            | K::Interrupted
            | K::NetworkDown
            | K::NetworkUnreachable
            | K::HostUnreachable
            | K::PermissionDenied
    )
}
