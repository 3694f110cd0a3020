//! One question to somebody else's server: is a service healthy?
//!
//! For probes of containers, which speak gRPC without TLS on whatever address their pod has. It is the only
//! client here that goes without TLS beyond this machine's loopback, and it sends nothing but the name of a
//! service. The connection ends with the call, also when the caller drops it.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{Connection, Kind, Target, connect_once};
use crate::deadline;
use crate::error::ConnectError;
use crate::limits::ClientLimits;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Nobody accepted the connection in time.
    #[error("no connection in time")]
    TimedOut,
    /// The connection failed.
    #[error("no connection")]
    Connect(#[source] ConnectError),
    /// The server answered with an error, or not in time (`DEADLINE_EXCEEDED`).
    #[error("the server did not say")]
    Call(#[source] Status),
}

/// Ends the connection with the call.
struct Closing(Connection);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close("asked");
    }
}

/// Asks `grpc.health.v1.Health` at `address` (`host:port`) for a service; the empty name is the server as a
/// whole. The answer is the name of a serving status: `SERVING`, `NOT_SERVING`, ….
///
/// # Errors
/// See [`CheckError`]. The whole takes no longer than `within`.
pub async fn check_health(address: &str, service: &str, within: Duration) -> Result<String, CheckError> {
    let authority = address.parse().map_err(|_| CheckError::Connect(ConnectError::ServerName(address.to_owned())))?;
    let target = Target(Kind::Tcp { addresses: Arc::from([address.to_owned()]), tls: None, authority });
    let limits = ClientLimits { connect_timeout: within, max_in_flight: 1, ..ClientLimits::local() };
    let began = tokio::time::Instant::now();
    let connection = match connect_once(&target, &limits).await {
        Ok(connection) => Closing(connection),
        Err(ConnectError::TimedOut { .. }) => return Err(CheckError::TimedOut),
        Err(error) => return Err(CheckError::Connect(error)),
    };
    let left = within.saturating_sub(began.elapsed());
    let request = HealthCheckRequest { service: service.to_owned() };
    let mut client = HealthClient::new(connection.0.channel());
    let reply = client.check(deadline(request, left)).await.map_err(CheckError::Call)?.into_inner();
    Ok(reply.status().as_str_name().to_owned())
}
