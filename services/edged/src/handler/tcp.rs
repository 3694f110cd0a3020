//! Opens a TCP connection: the whole of a TCP probe, the beginning of an HTTP one.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Outcome, host_port, io_text};

pub(super) async fn connect(host: &str, port: u16, within: Duration) -> Outcome {
    match timeout(within, dial(host, port)).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(text)) => Outcome::Failure(text),
        Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", host_port(host, port))),
    }
}

/// The error is what users see.
pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| {
        let address = host_port(host, port);
        // Without a code of the kernel it is the resolver that speaks.
        let call = if error.raw_os_error().is_some() { "connect: " } else { "" };
        format!("dial tcp {address}: {call}{}", io_text(&error))
    })
}
