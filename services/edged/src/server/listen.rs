//! The listener: TLS, one task per connection, and the end of all.
//!
//! Invariants: a connection has proved a certificate that leads to a CA that we know, or shows none; a
//! handshake and the headers of a request come in time. When the server is dropped, everything of it is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use skerry_identity::{CredentialFolder, CredentialOptions, NodeServing, TrustDomain};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::limits::{ACCEPT_PAUSE, HANDSHAKE, HEADER, MAX_CONNECTIONS, MAX_HEADERS};
use super::serve::{Handler, Shared};
use crate::config::Api;
use crate::error::Error;

/// The API, bound, not serving yet.
pub(crate) struct Server {
    listener: TcpListener,
    address: SocketAddr,
    serving: Arc<NodeServing>,
    folder: CredentialFolder,
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|e| Error::io(path, e))
}

impl Server {
    /// Reads certificates and binds the address. Without a credential yet, handshakes fail until there is
    /// one.
    ///
    /// # Errors
    /// When a file cannot be used or the address cannot be bound.
    pub(crate) async fn bind(api: &Api) -> Result<Self, Error> {
        let domain = TrustDomain::parse(&api.trust_domain).map_err(Error::Credentials)?;
        let folder = CredentialFolder::open(&api.credentials, CredentialOptions::new(domain));
        let folder = folder.map_err(Error::Credentials)?;
        let mut serving = NodeServing::new(folder.watch());
        if let Some(path) = &api.client_ca_file {
            serving = serving.with_users(&read(path)?).map_err(Error::Credentials)?;
        }
        if let (Some(chain), Some(key)) = (&api.tls_cert_file, &api.tls_private_key_file) {
            serving = serving.with_certificate(&read(chain)?, &read(key)?).map_err(Error::Credentials)?;
        }
        let bind = |e| Error::io(&PathBuf::from(api.listen.to_string()), e);
        let listener = TcpListener::bind(api.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self { listener, address, serving: Arc::new(serving), folder })
    }

    /// The port that is listened on.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Serves until it is dropped.
    pub(crate) async fn run(self, shared: Shared) {
        let shared = Arc::new(shared);
        let Self { listener, address, serving, folder } = self;
        tracing::info!(%address, "kubelet api listening");
        let mut tasks = JoinSet::new();
        tasks.spawn(folder.run());
        loop {
            // One of them follows the credentials.
            while tasks.len() > MAX_CONNECTIONS {
                drop(tasks.join_next().await);
            }
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = tasks.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    tasks.spawn(connection(stream, Arc::clone(&serving), Arc::clone(&shared)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One connection with its requests and, after an upgrade, its stream.
async fn connection(stream: TcpStream, serving: Arc<NodeServing>, shared: Arc<Shared>) {
    // Keys that are pressed must not wait for each other.
    let _ = stream.set_nodelay(true);
    let config = match serving.config() {
        Ok(Some(config)) => config,
        Ok(None) => return,
        Err(error) => {
            tracing::error!(error = skerry_common::chain(&error), "tls of the kubelet api");
            return;
        }
    };
    let stream = match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake failed");
            return;
        }
        Err(_) => return,
    };
    let chain = stream.get_ref().1.peer_certificates();
    let caller = chain.and_then(|chain| serving.caller(chain));
    let handler = Handler::new(shared, caller);
    let upgraded = handler.upgraded();
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, std::convert::Infallible>(handler.handle(request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(MAX_HEADERS);
    let served = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
    // What an upgrade left to do is part of the connection: it ends when the server does.
    upgraded.run().await;
}
