//! Servers of the test process that probes ask: HTTPS with redirects, and gRPC health.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use skerry_common::drain;
use skerry_rpc::{Caller, Health, Listen, Policy, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// An HTTPS server with a certificate of its own making. `/moved` leads to `/here` on it, `/away` to another
/// host, `/here` is fine, everything else is not there.
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    /// Requests for `/here`.
    pub(crate) served: Arc<AtomicUsize>,
}

impl Web {
    pub(crate) async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["nobody.invalid".into()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let web = Self { address: listener.local_addr().unwrap(), served: Arc::default() };
        let served = Arc::clone(&web.served);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, served) = (tls.clone(), Arc::clone(&served));
                tokio::spawn(async move {
                    let Ok(mut stream) = tls.accept(stream).await else { return };
                    let mut request = vec![0; 4096];
                    let read = stream.read(&mut request).await.unwrap_or_default();
                    let path =
                        String::from_utf8_lossy(&request[..read]).split(' ').nth(1).unwrap_or_default().to_owned();
                    let head = match path.as_str() {
                        "/moved" => "302 Found\r\nLocation: here",
                        "/away" => "302 Found\r\nLocation: https://elsewhere.invalid/",
                        "/here" => {
                            served.fetch_add(1, Ordering::Relaxed);
                            "200 OK"
                        }
                        _ => "404 Not Found",
                    };
                    let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        web
    }
}

/// A gRPC server on loopback that says what `Health` is told; it ends with the trigger.
pub(crate) async fn grpc() -> (u16, Health, drain::Trigger) {
    let policy = Policy::new().allow("grpc.health.v1.Health", &[Caller::Anonymous]);
    let listen = Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let bound = Server::bind(skerry_rpc::ServerConfig::new("health", listen, policy)).await.unwrap();
    let (port, health) = (bound.local_addr().unwrap().port(), bound.health());
    let (trigger, watch) = drain::channel(Duration::from_secs(1));
    tokio::spawn(bound.serve(tonic::service::Routes::default(), watch));
    (port, health, trigger)
}
