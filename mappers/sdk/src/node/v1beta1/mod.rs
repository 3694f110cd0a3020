//! A session over KubeEdge's `v1beta1`: the mapper registers, the node calls its socket, values go by unary calls.
//!
//! KubeEdge's node accepts one call a second in the long run and answers the rest with an error; what it did not
//! take stays to be told, the newest of each, and is told when it takes calls again.

pub(super) mod convert;
mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use skerry_proto::dmi::v1beta1 as pb;
use skerry_proto::dmi::v1beta1::device_manager_service_client::DeviceManagerServiceClient;
use skerry_proto::dmi::v1beta1::device_mapper_service_server::DeviceMapperServiceServer;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use self::server::{Registry, Server};
use super::channel::Channel;
use super::{Ended, Link};
use crate::report::{Batch, DeviceState, Room};
use crate::serve::{Listener, serve};

/// How long one call may take; KubeEdge's mappers wait one second.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Values taken from the outbox at once.
const MAX_VALUES: usize = 1_000;
/// Bytes of them: a call holds a part of it, and gRPC takes 4 MiB.
const MAX_BYTES: usize = 1024 * 1024;
/// Calls at once.
const MAX_CALLS: usize = 8;
/// After a call that the node did not take: what it takes in the long run is one in a second.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Mode of our socket: the node runs as the same user, or as root.
const SOCKET_MODE: u32 = 0o600;

/// Runs until the connection ends.
pub(super) async fn session(link: &Link, channel: &Channel, connected: &(dyn Fn() + Sync)) -> Ended {
    let stop = CancellationToken::new();
    let over = stop.clone().drop_guard();
    let ended = tokio::select! {
        ended = run(link, channel, connected, stop) => ended,
        () = channel.ended() => Ended::Node("end of the connection".to_owned()),
    };
    drop(over);
    ended
}

async fn run(link: &Link, channel: &Channel, connected: &(dyn Fn() + Sync), stop: CancellationToken) -> Ended {
    let listener = match listen(&link.own_socket) {
        Ok(listener) => listener,
        Err(error) => return Ended::Listen(error),
    };
    let registry = Arc::new(Registry::default());
    let server = Server::new(Arc::clone(&link.plant), Arc::clone(&link.outbox), Arc::clone(&registry));
    let router = tonic::service::Routes::new(DeviceMapperServiceServer::new(server)).prepare().into_axum_router();
    tokio::spawn(serve(Listener::Unix(listener), router, link.metrics.clone(), stop));

    let mut client = DeviceManagerServiceClient::new(channel.clone());
    let mapper = pb::MapperInfo {
        name: link.identity.name.clone(),
        version: link.identity.version.clone(),
        api_version: link.identity.api_version.clone(),
        protocol: link.identity.protocol.clone(),
        address: link.own_socket.as_os_str().as_encoded_bytes().to_vec(),
        state: "ok".to_owned(),
    };
    let request = pb::MapperRegisterRequest { with_data: true, mapper: Some(mapper) };
    let answer = match tokio::time::timeout(CALL_TIMEOUT, client.mapper_register(request)).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return Ended::Node(status.message().to_owned()),
        Err(_) => return Ended::Late,
    };
    tracing::info!(protocol = link.identity.protocol, "registered with the node by v1beta1");
    link.metrics.node_sessions.inc();
    let mut keys = BTreeSet::new();
    for model in answer.model_list {
        registry.model(link.plant.as_ref(), model);
    }
    for device in answer.device_list {
        keys.extend(registry.device(link.plant.as_ref(), device));
    }
    link.plant.retain(&keys);
    connected();
    link.outbox.all_again();
    loop {
        link.outbox.changed().await;
        let batch = link.outbox.take(Room { values: MAX_VALUES, bytes: MAX_BYTES });
        if !report(link, &client, batch).await {
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }
}

/// Tells the node; what it does not take is told later. False when something was not taken.
async fn report(link: &Link, client: &DeviceManagerServiceClient<Channel>, batch: Batch) -> bool {
    let states = batch.states.into_iter().map(|(key, state, reason)| async move {
        let request = pb::ReportDeviceStatesRequest {
            device_name: key.name.clone(),
            device_namespace: key.namespace.clone(),
            state: state_name(state).to_owned(),
        };
        let call = async { client.clone().report_device_states(request).await.map(|_| ()) };
        let taken = call_in_time(link, call).await;
        if !taken {
            link.outbox.state_again(&key, state, &reason);
        }
        taken
    });
    let values = batch.values.into_iter().map(|(definition, values)| async move {
        let Some(request) = convert::report(&definition, &values) else { return true };
        let call = async { client.clone().report_device_status(request).await.map(|_| ()) };
        let taken = call_in_time(link, call).await;
        if taken {
            link.metrics.reported.inc_by(u64::try_from(values.len()).unwrap_or(0));
        } else {
            link.outbox.values_again(&definition, &values);
        }
        taken
    });
    let states = stream::iter(states).buffer_unordered(MAX_CALLS).fold(true, |all, taken| async move { all && taken });
    let values = stream::iter(values).buffer_unordered(MAX_CALLS).fold(true, |all, taken| async move { all && taken });
    let (states, values) = (states.await, values.await);
    states && values
}

async fn call_in_time(link: &Link, call: impl Future<Output = Result<(), tonic::Status>>) -> bool {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(())) => true,
        Ok(Err(status)) => {
            link.metrics.reports_refused.inc();
            tracing::debug!(error = status.message(), "the node did not take a report");
            false
        }
        Err(_) => false,
    }
}

fn state_name(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Online => "online",
        DeviceState::Offline => "offline",
        DeviceState::Unhealthy => "unhealthy",
    }
}

/// Listens on a socket that only we and root may use. It appears under its name with its mode set, and replaces
/// the one that an earlier process left.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(temporary)?;
    std::fs::set_permissions(temporary, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    std::fs::rename(temporary, path)?;
    Ok(listener)
}
