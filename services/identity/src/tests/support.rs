//! What the tests share: a CA, credentials with any life, and a handshake over memory.

use std::{io, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rustls::{ClientConfig, ServerConfig, pki_types::CertificateDer};
use skerry_common::NodeName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{
    Ca, ClientAuth, Clock, CredentialOptions, CredentialWatch, Credentials, Identity, RevocationList, TrustDomain,
    server_name,
    tls::{self, Settings},
};

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn domain() -> TrustDomain {
    TrustDomain::parse("test.example").unwrap()
}

pub(super) fn now() -> Timestamp {
    Clock::system().now()
}

pub(super) fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

pub(super) fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

pub(super) fn ca() -> Ca {
    Ca::generate_at(&domain(), now() - hours(24 * 400)).unwrap()
}

pub(super) fn settings(client_auth: ClientAuth) -> Settings {
    Settings { trust_domain: domain(), client_auth, clock: Clock::system(), revocations: RevocationList::empty() }
}

/// A server configuration with any credential, also one that a watch would refuse.
pub(super) fn server_with(credentials: &Credentials) -> Arc<ServerConfig> {
    Arc::new(tls::server(Some(credentials), &settings(ClientAuth::Required)).unwrap())
}

/// A client configuration with any credential, also one that a watch would refuse.
pub(super) fn client_with(credentials: &Credentials) -> Arc<ClientConfig> {
    Arc::new(tls::client(Some(credentials), &settings(ClientAuth::Required)).unwrap())
}

pub(super) fn watch(credentials: Credentials) -> CredentialWatch {
    CredentialWatch::fixed(CredentialOptions::new(domain()), credentials).unwrap()
}

pub(super) type Client = client::TlsStream<DuplexStream>;
pub(super) type Server = server::TlsStream<DuplexStream>;

/// Both ends of a handshake with the service `name`, after one byte went each way: a server's refusal
/// reaches a TLS 1.3 client only then.
pub(super) async fn connect(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &str,
) -> (io::Result<Server>, io::Result<Client>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accept = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_u8(1).await?;
        stream.flush().await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    let dial = async {
        let mut stream = TlsConnector::from(client).connect(server_name(name).unwrap(), near).await?;
        stream.write_u8(2).await?;
        stream.flush().await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    tokio::join!(accept, dial)
}

/// Whom the server saw; `None` for a client without a certificate.
pub(super) fn peer(server: &Server) -> Option<Identity> {
    let chain: &[CertificateDer<'_>] = server.get_ref().1.peer_certificates()?;
    Some(Identity::from_peer_certificates(chain, &domain()).unwrap())
}

/// Asserts that the handshake failed on both ends, and returns what the refusing end said.
pub(super) fn refused(result: (io::Result<Server>, io::Result<Client>)) -> String {
    match result {
        (Err(server), Err(client)) => format!("server: {server}; client: {client}"),
        (Ok(_), _) => panic!("the server accepted"),
        (_, Ok(_)) => panic!("the client accepted"),
    }
}
