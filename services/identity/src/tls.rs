//! The TLS configurations of every Skerry server and client.
//!
//! Built by the credential watch whenever the credential changes, and by [`crate::pin`] for joining.
//! TLS 1.3 only, HTTP/2 only, no tickets, no resumption, no early data: a session is always a full
//! handshake with a certificate that is valid now and not revoked.
//!
//! Sizes matter here, because ten thousand nodes reconnect at once: X25519 comes first (a hybrid
//! post-quantum share would add 2.3 KB to each handshake; sessions carry orders, not secrets of
//! lasting value), the CA is left out of the chain for peers that have it, and no CA names are hinted.

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig, ServerConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
    pki_types::CertificateDer,
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
    version::TLS13,
};

use crate::{
    Clock, Credentials, IdentityError, RevocationList, TrustDomain,
    verify::{PeerVerifier, ServiceVerifier},
};

/// The only application protocol that is spoken.
pub(crate) const ALPN_H2: &[u8] = b"h2";

/// Offered in addition by a machine that joins and does not have the CA yet: it asks for a chain that
/// includes the CA's certificate. Never chosen as the protocol.
pub(crate) const ALPN_SEND_CA: &[u8] = b"skerry-send-ca";

/// Whether a server wants a certificate from its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// A client may come without, to join; the handlers decide what it may call. A certificate that is
    /// shown must be good.
    #[default]
    Optional,
    /// The handshake fails without a good certificate.
    Required,
}

/// What both kinds of configuration need besides the credential.
pub(crate) struct Settings {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) client_auth: ClientAuth,
    pub(crate) clock: Clock,
    pub(crate) revocations: RevocationList,
}

/// The algorithms: one provider for the whole process.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
            ..aws_lc_rs::default_provider()
        })
    }))
}

/// A server configuration. Without a credential every handshake fails, with an alert.
pub(crate) fn server(credentials: Option<&Credentials>, settings: &Settings) -> Result<ServerConfig, IdentityError> {
    let builder = ServerConfig::builder_with_details(provider(), Arc::new(settings.clock.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(IdentityError::Tls)?;
    let (verifier, resolver): (Arc<dyn ClientCertVerifier>, Resolver) = match credentials {
        None => (WebPkiClientVerifier::no_client_auth(), Resolver { plain: None, with_ca: None }),
        Some(credentials) => {
            let inner = WebPkiClientVerifier::builder_with_provider(credentials.ca().roots()?, provider());
            let inner = match settings.client_auth {
                ClientAuth::Optional => inner.allow_unauthenticated(),
                ClientAuth::Required => inner,
            };
            let verifier = PeerVerifier {
                inner: inner.build().map_err(verifier_error)?,
                trust_domain: settings.trust_domain.clone(),
                clock: settings.clock.clone(),
                revocations: settings.revocations.clone(),
            };
            (Arc::new(verifier), Resolver::new(credentials))
        }
    };
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // A resumed session would skip the check of the certificate's validity and revocation.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// A client configuration. Without a credential it trusts nobody.
pub(crate) fn client(credentials: Option<&Credentials>, settings: &Settings) -> Result<ClientConfig, IdentityError> {
    let inner = match credentials {
        None => None,
        Some(credentials) => Some(
            WebPkiServerVerifier::builder_with_provider(credentials.ca().roots()?, provider())
                .build()
                .map_err(verifier_error)?,
        ),
    };
    let verifier = ServiceVerifier {
        inner,
        trust_domain: settings.trust_domain.clone(),
        clock: settings.clock.clone(),
        revocations: settings.revocations.clone(),
    };
    let certified = credentials.map(Credentials::certified_key);
    client_with(Arc::new(verifier), certified, &settings.clock)
}

/// A client configuration around one of our verifiers.
pub(crate) fn client_with(
    verifier: Arc<dyn ServerCertVerifier>,
    certified: Option<Arc<CertifiedKey>>,
    clock: &Clock,
) -> Result<ClientConfig, IdentityError> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(IdentityError::Tls)?;
    // The verifiers that get here wrap or replace webpki as their files explain; no other code may
    // set a verifier.
    #[allow(clippy::disallowed_methods, reason = "the only call; every verifier checks the whole chain with webpki")]
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match certified {
        Some(certified) => builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// Chooses the chain: with the CA for a machine that joins, without it for everybody else.
#[derive(Debug)]
struct Resolver {
    plain: Option<Arc<CertifiedKey>>,
    with_ca: Option<Arc<CertifiedKey>>,
}

impl Resolver {
    fn new(credentials: &Credentials) -> Self {
        let plain = credentials.certified_key();
        let mut chain: Vec<CertificateDer<'static>> = plain.cert.clone();
        chain.extend(credentials.ca().certificates().iter().cloned());
        let with_ca = Arc::new(CertifiedKey::new(chain, Arc::clone(&plain.key)));
        Self { plain: Some(plain), with_ca: Some(with_ca) }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let wants_ca = hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ALPN_SEND_CA));
        if wants_ca { self.with_ca.clone() } else { self.plain.clone() }
    }
}

pub(crate) fn verifier_error(error: rustls::client::VerifierBuilderError) -> IdentityError {
    IdentityError::Tls(rustls::Error::General(error.to_string()))
}
