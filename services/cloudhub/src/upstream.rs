//! What the hub's streams to the services behind it have in common.
//!
//! The lanes and the link to the registry each are one stream that is opened again whenever it ended, until
//! the hub stops: [`keep`] does that, an [`Upstream`] says what one stream is. Nothing is kept over a stream;
//! waits between attempts have jitter.

use std::sync::Arc;
use std::time::Duration;

use skerry_common::{Backoff, drain};
use skerry_proto::sync::v1 as pb;
use tonic::{Response, Status, Streaming};

/// Waits between attempts to reach a service.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);

/// One stream to a service.
pub(crate) trait Upstream: Send + Sync + 'static {
    /// Opens the stream and serves it to its end; returns why it ended. Resets the backoff when it is open.
    fn connect(&self, backoff: &mut Backoff) -> impl Future<Output = String> + Send;

    /// The stream ended, for this reason.
    fn ended(&self, reason: &str);
}

/// Keeps a stream until told to stop.
pub(crate) async fn keep(upstream: Arc<impl Upstream>, mut stop: drain::Watch) {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        let reason = tokio::select! {
            reason = upstream.connect(&mut backoff) => reason,
            _ = stop.stopped() => return,
        };
        upstream.ended(&reason);
        tokio::select! {
            () = tokio::time::sleep(backoff.jittered()) => {}
            _ = stop.stopped() => return,
        }
    }
}

/// This hub's name in Hello and Welcome.
pub(crate) fn agent() -> String {
    format!("cloudhub/{}", skerry_telemetry::VERSION)
}

/// The Hello of a stream that carries many nodes.
pub(crate) fn hello() -> pb::Hello {
    skerry_sync::version::hello(&agent(), "", 0)
}

/// Opens a stream with our Hello in its queue and waits for the Welcome.
///
/// # Errors
/// Why there is no stream, in one line.
pub(crate) async fn begin<T>(
    open: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    welcome: impl FnOnce(T) -> Option<pb::Welcome>,
) -> Result<Streaming<T>, String> {
    let (stream, first) = skerry_rpc::begin(open).await.map_err(|status| status.message().to_owned())?;
    let welcome = first.and_then(welcome).ok_or("the first answer was not welcome")?;
    skerry_sync::version::welcomed(&agent(), &welcome).map_err(|error| error.to_string())?;
    Ok(stream)
}

/// Takes each message of the stream; returns why it ended.
pub(crate) async fn each<T>(stream: &mut Streaming<T>, mut take: impl FnMut(T)) -> String {
    loop {
        match stream.message().await {
            Ok(Some(message)) => take(message),
            Ok(None) => return "the service ended the stream".to_owned(),
            Err(status) => return status.message().to_owned(),
        }
    }
}
