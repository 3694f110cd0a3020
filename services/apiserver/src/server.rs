//! The running server: TLS listener, in-process router, kubeconfigs.
//!
//! Built by `Config::build`; `main` or `skerry up` calls [`ApiServer::run`]. Invariants: a connection has
//! proved a client certificate of this server's CA or none; a handshake and a first request must come in
//! time; when told to stop, watches end first, requests may finish, and at the deadline all is closed.
//! Limits: the constants below. On a crash clients reconnect and resume.

use crate::auth::{User, user_of_certificate};
use crate::error::ServerError;
use crate::http;
use crate::pki::Serving;
use crate::state::Api;
use axum::Router;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::server::WebPkiClientVerifier;
use skerry_common::drain;
use skerry_identity::CredentialFolder;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Name of the signing key in tokens and in the key set.
pub(crate) const KEY_ID: &str = "skerry-1";
/// Connections at once.
const MAX_CONNECTIONS: usize = 20_000;
/// A TLS handshake must be over by then.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// The headers of the next request must have come by then. Longer than the 90 s for which kube-rs and Go
/// keep idle connections, so that it is the client that closes them and no request meets a closed one.
const HEADER_TIME: Duration = Duration::from_secs(120);
/// Streams of one HTTP/2 connection: a controller opens one for each watch.
const MAX_STREAMS: u32 = 1_000;
/// Bytes of request headers.
const MAX_HEADERS: usize = 64 * 1024;
/// An idle HTTP/2 connection is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIME: Duration = Duration::from_secs(15);
/// After a failed accept (out of descriptors), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The API server, bound and ready to run.
pub struct ApiServer {
    api: Arc<Api>,
    tls: TlsAcceptor,
    listener: TcpListener,
    address: SocketAddr,
    /// Credentials for kubelets, as they are renewed.
    folder: Option<CredentialFolder>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ApiServer {
    pub(crate) fn new(
        api: Arc<Api>,
        serving: Arc<Serving>,
        listener: TcpListener,
        address: SocketAddr,
        folder: Option<CredentialFolder>,
    ) -> Result<Self, ServerError> {
        let tls_error = |why: String| ServerError::Pki { file: "ca.pem".into(), why };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(api.pki.ca_der()).map_err(|e| tls_error(e.to_string()))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|e| tls_error(e.to_string()))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| tls_error(e.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(serving);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { api, tls: TlsAcceptor::from(Arc::new(config)), listener, address, folder })
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// A router for callers in the same process, who are `system:masters`:
    /// `kube::Client::new(server.router(), "default")`.
    pub fn router(&self) -> Router {
        self.router_as(User::master("system:skerry"))
    }

    /// A router for callers in the same process with this identity.
    pub fn router_as(&self, user: User) -> Router {
        http::router(self.api.clone()).layer(axum::Extension(user))
    }

    /// A router that takes the identity from the request alone, as the listener does for a connection
    /// without a certificate.
    pub fn anonymous_router(&self) -> Router {
        http::router(self.api.clone())
    }

    /// The certificate of the CA that signs serving and client certificates, as PEM.
    pub fn ca_pem(&self) -> &str {
        self.api.pki.ca_pem()
    }

    /// A kubeconfig with a fresh client certificate in `system:masters`. Keep it with mode 0600.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn admin_kubeconfig(&self) -> Result<String, ServerError> {
        self.issue_client_kubeconfig("skerry:admin", &["system:masters"])
    }

    /// A kubeconfig with a fresh client certificate for `user` in `groups`, good for a year.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn issue_client_kubeconfig(&self, user: &str, groups: &[&str]) -> Result<String, ServerError> {
        let (certificate, key) = self.api.pki.issue_client(user, groups)?;
        let ip = match self.address.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": "skerry",
            "clusters": [{"name": "skerry", "cluster": {
                "server": format!("https://{}", SocketAddr::new(ip, self.address.port())),
                "certificate-authority-data": BASE64.encode(self.ca_pem())}}],
            "contexts": [{"name": "skerry", "context": {"cluster": "skerry", "user": "skerry"}}],
            "users": [{"name": "skerry", "user": {
                "client-certificate-data": BASE64.encode(certificate), "client-key-data": BASE64.encode(key)}}],
        });
        // JSON is YAML.
        Ok(format!("{kubeconfig:#}\n"))
    }

    /// Writes the administrator's kubeconfig to `path` with mode 0600, replacing the file as a whole.
    ///
    /// # Errors
    /// When the certificate cannot be made or the file cannot be written.
    pub fn write_kubeconfig(&self, path: &std::path::Path) -> Result<(), ServerError> {
        let text = self.admin_kubeconfig()?;
        let temporary = path.with_extension(format!("{}.tmp", uuid::Uuid::new_v4().simple()));
        crate::pki::write_private(&temporary, &text)?;
        std::fs::rename(&temporary, path).map_err(ServerError::io(path))
    }

    /// Serves until told to stop, then drains and closes the database.
    ///
    /// # Errors
    /// When the database writer ended by itself.
    pub async fn run(self, mut stop: drain::Watch) -> Result<(), ServerError> {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let router = http::router(self.api.clone());
        let sweeper = tokio::spawn(crate::sweep::events(self.api.clone()));
        let follower = self.folder.map(|folder| tokio::spawn(folder.run()));
        tracing::info!(address = %self.address, "api server listening");
        let api = self.api.clone();
        let broken = api.storage.closed();
        tokio::pin!(broken);
        let mut stopped = stop.clone();
        let stopped = stopped.stopped();
        tokio::pin!(stopped);
        let guard = loop {
            let permit = tokio::select! {
                guard = &mut stopped => break guard,
                permit = connections.clone().acquire_owned() => permit,
            };
            let Ok(permit) = permit else { break stop.guard() };
            let accepted = tokio::select! {
                guard = &mut stopped => break guard,
                () = &mut broken => return Err(ServerError::Writer),
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = Connection {
                        api: self.api.clone(),
                        tls: self.tls.clone(),
                        router: router.clone(),
                        stop: stop.clone(),
                    };
                    tokio::spawn(async move {
                        connection.serve(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        drop(self.listener);
        self.api.stopping.cancel();
        let drained = async {
            let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
            let _ = connections.acquire_many(all).await;
        };
        tokio::select! {
            () = drained => {}
            () = stop.forced() => tracing::warn!("connections were closed at the drain deadline"),
        }
        sweeper.abort();
        if let Some(follower) = follower {
            follower.abort();
        }
        let api = self.api.clone();
        let closed = tokio::task::spawn_blocking(move || api.storage.close()).await;
        if let Err(error) = closed {
            tracing::error!(%error, "the database was not closed in order");
        }
        drop(guard);
        Ok(())
    }
}

struct Connection {
    api: Arc<Api>,
    tls: TlsAcceptor,
    router: Router,
    stop: drain::Watch,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        // Small writes must not wait for each other: watches are many small lines.
        let _ = stream.set_nodelay(true);
        let handshake = tokio::time::timeout(HANDSHAKE_TIME, self.tls.accept(stream));
        let stream = match handshake.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.api.metrics.handshakes_failed.inc();
                tracing::debug!(%error, "handshake failed");
                return;
            }
            Err(_) => {
                self.api.metrics.handshakes_failed.inc();
                return;
            }
        };
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let user = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(|c| user_of_certificate(c));
        let router = match user {
            Some(user) => self.router.layer(axum::Extension(user)),
            None => self.router,
        };
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).max_buf_size(MAX_HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX))
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIME);
        // What was negotiated decides: looking at the first bytes has no deadline.
        let builder = if http2 { builder.http2_only() } else { builder.http1_only() };
        self.api.metrics.connections.inc();
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router));
        tokio::pin!(connection);
        let mut draining = self.stop.clone();
        let result = tokio::select! {
            result = connection.as_mut() => result,
            guard = draining.stopped() => {
                connection.as_mut().graceful_shutdown();
                let result = tokio::select! {
                    result = connection.as_mut() => result,
                    () = self.stop.forced() => Ok(()),
                };
                drop(guard);
                result
            }
        };
        self.api.metrics.connections.dec();
        if let Err(error) = result {
            tracing::debug!(error, "connection ended");
        }
    }
}
