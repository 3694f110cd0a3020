//! Unix sockets and pipes: identity by the kernel, and what lies around in the file system.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use skerry_rpc::{BindError, Channel, ConnectError, Listen, Metrics, Server, ServerConfig, ServerLimits, connect_once};
use tonic::Code;

use crate::support::*;

fn own_uid() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid()
}

async fn serve_unix(path: &std::path::Path) -> Result<Running, BindError> {
    let listen = Listen::Unix { path: path.to_owned(), mode: 0o600 };
    let metrics = Metrics::default();
    let config = ServerConfig::new("test", listen, policy()).metrics(metrics.clone());
    Ok(Running::start(Server::bind(config).await?, metrics, Duration::from_secs(5)))
}

#[tokio::test]
async fn a_unix_socket_tells_user_and_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hub.sock");
    let mut server = serve_unix(&path).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let who = list(Channel::unix(&path), "").await.unwrap().hub;
    assert_eq!(who, format!("local uid {} pid {}", own_uid(), std::process::id()));
    server.drain().await;
    assert!(!path.exists(), "the socket was left behind");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hub.sock");
    // As after kill -9: the file is there and nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let _server = serve_unix(&path).await.unwrap();
    assert!(list(Channel::unix(&path), "").await.is_ok());
    assert!(matches!(serve_unix(&path).await, Err(BindError::Unix { .. })));
    assert!(list(Channel::unix(&path), "").await.is_ok());

    let file = directory.path().join("notes");
    std::fs::write(&file, "important").unwrap();
    assert!(matches!(serve_unix(&file).await, Err(BindError::Unix { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"important");
}

#[tokio::test]
async fn a_pipe_carries_the_same_calls() {
    let (listener, connector) = skerry_rpc::pipe();
    let metrics = Metrics::default();
    let config = ServerConfig::new("test", Listen::Pipe(listener), policy()).metrics(metrics.clone());
    let mut server = Running::start(Server::bind(config).await.unwrap(), metrics, Duration::from_secs(5));
    let channel = Channel::pipe(connector.clone());
    assert_eq!(
        list(channel.clone(), "").await.unwrap().hub,
        format!("local uid {} pid {}", own_uid(), std::process::id())
    );
    let mut open = Open::new(channel.clone()).await.unwrap();
    for _ in 0..100 {
        open.ask().await.unwrap();
    }
    let connection =
        connect_once(&skerry_rpc::Target::pipe(connector.clone()), &skerry_rpc::ClientLimits::local()).await.unwrap();
    assert!(list(connection.channel(), "").await.is_ok());
    server.drain().await;
    connection.closed().await;
    let error = connect_once(&skerry_rpc::Target::pipe(connector), &skerry_rpc::ClientLimits::local()).await;
    assert!(matches!(error, Err(ConnectError::PipeClosed)));
    assert_eq!(list(channel, "").await.unwrap_err().code(), Code::Unavailable);
}

/// The wiring of `skerry up` may come up in any order.
#[tokio::test]
async fn a_pipe_can_be_called_before_it_is_served() {
    let (listener, connector) = skerry_rpc::pipe();
    let channel = Channel::pipe(connector);
    let early = tokio::spawn(async move { list(channel, "").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let config = ServerConfig::new("test", Listen::Pipe(listener), policy()).limits(ServerLimits::local());
    let _server = Running::start(Server::bind(config).await.unwrap(), Metrics::default(), Duration::from_secs(5));
    assert!(early.await.unwrap().is_ok());
}
