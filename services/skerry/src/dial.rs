//! Connections of the commands: to a hub, and to a service of this machine.
//!
//! A command asks once and tells what went wrong, so it dials once and never again.

use std::path::Path;

use skerry_common::exit;
use skerry_rpc::{Channel, ClientLimits, ClientTls, ConnectError, Connection, Target, connect_once};

use crate::failure::{Failure, Result};

/// Service name that a hub's certificate carries.
const HUB: &str = "cloudhub";

/// Connects to the first of the hubs that answers.
pub(crate) async fn hub(addresses: &[String], tls: impl Into<ClientTls>) -> Result<Connection> {
    let target = Target::tcp(addresses.iter().cloned(), HUB, tls).map_err(|error| failed(&error))?;
    connect_once(&target, &ClientLimits::default()).await.map_err(|error| failed(&error))
}

/// A channel to a unix socket.
pub(crate) fn unix(path: &Path) -> Channel {
    Channel::unix(path)
}

fn failed(error: &ConnectError) -> Failure {
    let failure = Failure::new("cannot connect to the hub").because(error);
    match error {
        ConnectError::Tls { .. } => failure
            .code(exit::REFUSED)
            .cure("check that the address is the hub's, that the token is of this hub, and the clock of this machine"),
        ConnectError::NoCredential(_) => failure.code(exit::REFUSED),
        ConnectError::ServerName(_) | ConnectError::NoAddress => failure.code(exit::USAGE),
        _ => failure.code(exit::UNREACHABLE).cure("check the address, that the hub runs, and the firewalls in between"),
    }
}
