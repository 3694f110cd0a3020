//! Asks a server of the container for its health: `grpc.health.v1.Health/Check`, without TLS.

use std::time::Duration;

use skerry_rpc::{CheckError, check_health};
use tonic::Code;

use super::{Outcome, host_port, io_text, seconds};

pub(super) async fn check(host: &str, port: u16, service: &str, within: Duration) -> Outcome {
    let address = host_port(host, port);
    let error = match check_health(&address, service, within).await {
        Ok(status) if status == "SERVING" => return Outcome::Success,
        Ok(status) => return Outcome::Failure(format!("service unhealthy (responded with {status:?})")),
        Err(error) => error,
    };
    Outcome::Failure(match error {
        CheckError::TimedOut => {
            format!("timeout: failed to connect service {address:?} within {}", seconds(within))
        }
        CheckError::Connect(error) => {
            let cause = std::error::Error::source(&error).and_then(|e| e.downcast_ref()).map(io_text);
            let text = cause.unwrap_or_else(|| skerry_common::chain(&error));
            format!("error: failed to connect service at {address:?}: {text}")
        }
        CheckError::Call(status) => match status.code() {
            Code::Unimplemented => format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                status.message()
            ),
            Code::DeadlineExceeded => format!("timeout: health rpc did not complete within {}", seconds(within)),
            code => {
                format!("error: health rpc probe failed: rpc error: code = {code:?} desc = {}", status.message())
            }
        },
    })
}
