//! TLS for probes and hooks, without a look at the certificate. The only place of Skerry that does so.
//!
//! Why it is right here: Kubernetes defines that HTTPS probes skip verification, since a container's
//! certificate names a service, not the address that its pod happens to have, and there is no CA to check it
//! against. The request goes from the node to a container of the same node; it asks whether somebody answers,
//! and it carries nothing but what the author of the pod has written into the pod. Whoever could stand
//! between the two already owns the node's network. Signatures of the handshake are still checked.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How the error ends when the server speaks HTTP without TLS.
pub(super) const GAVE_HTTP: &str = "http: server gave HTTP response to HTTPS client";

/// Built when the first HTTPS action runs; most nodes have none.
static CONFIG: LazyLock<Result<Arc<ClientConfig>, Error>> = LazyLock::new(config);

/// The error is what users see.
pub(super) async fn connect(stream: TcpStream, host: &str) -> Result<TlsStream<Watched>, String> {
    let config = CONFIG.as_ref().map_err(|error| format!("tls: {error}"))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("tls: {host:?} is not a server name"))?;
    let connector = TlsConnector::from(Arc::clone(config));
    let plain = Arc::new(AtomicBool::new(false));
    let stream = Watched { stream, read: false, plain: Arc::clone(&plain) };
    connector.connect(name, stream).await.map_err(|error| match error.kind() {
        _ if plain.load(Ordering::Relaxed) => GAVE_HTTP.into(),
        io::ErrorKind::UnexpectedEof => "EOF".into(),
        _ => format!("tls: {error}"),
    })
}

fn config() -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    #[allow(clippy::disallowed_methods, reason = "see the module documentation")]
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)));
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Nothing is kept between two probes.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A connection that notes whether the first that came is the beginning of an answer in HTTP.
#[derive(Debug)]
pub(super) struct Watched {
    stream: TcpStream,
    read: bool,
    plain: Arc<AtomicBool>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(cx, buf);
        if !self.read && done.is_ready() {
            self.read = true;
            let first = buf.filled().get(before..).unwrap_or_default();
            self.plain.store(first.starts_with(b"HTTP/"), Ordering::Relaxed);
        }
        done
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
