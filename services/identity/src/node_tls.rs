//! TLS of the HTTPS API that a node serves, at both ends.
//!
//! The node shows its ordinary certificate, which is one for clients only: it has no name that anybody
//! else's TLS would accept, so a stolen node cannot pass for a service. [`node_client`] is how our own
//! services dial a node: the chain leads to our CA and the certificate names that node, whatever address
//! was dialled. Whoever has other needs (a kube-apiserver that verifies its kubelets) gives the node a
//! certificate of its own to show, see [`NodeServing::with_certificate`].
//!
//! Clients come with a certificate of ours, with one of the users' CA ([`NodeServing::with_users`]), or
//! with none; what they may do is decided by who serves. A certificate that leads to neither CA ends the
//! handshake. TLS 1.3 and HTTP/1.1 only: requests are upgraded to streams.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use skerry_common::NodeName;

use crate::clock::unix_time;
use crate::verify::{PeerVerifier, refused};
use crate::{CredentialWatch, Credentials, Identity, IdentityError, TrustBundle, cert, pem, tls};

/// The protocol of the API.
const ALPN_HTTP1: &[u8] = b"http/1.1";
/// Offered by our own services: they want the node's own certificate. Never chosen as the protocol.
const ALPN_NODE: &[u8] = b"skerry-node";
/// Most groups of one user's certificate.
const MAX_GROUPS: usize = 64;

/// Who came with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NodeCaller {
    /// A node or service of ours.
    Peer(Identity),
    /// Somebody whom the users' CA knows: common name and organisations, as Kubernetes reads them.
    User {
        /// The common name.
        name: String,
        /// The organisations.
        groups: Vec<String>,
    },
}

type Made = (Arc<Credentials>, Arc<ServerConfig>, Arc<Both>);

/// Where the listener of a node's API gets its TLS configuration.
pub struct NodeServing {
    watch: CredentialWatch,
    users: Option<Arc<dyn ClientCertVerifier>>,
    shown: Option<Arc<CertifiedKey>>,
    /// Made from the newest credential; anew when that changes.
    made: Mutex<Option<Made>>,
}

impl NodeServing {
    /// Serves with the credential of the node.
    pub fn new(watch: CredentialWatch) -> Self {
        Self { watch, users: None, shown: None, made: Mutex::new(None) }
    }

    /// Also knows the users of these CAs, PEM.
    ///
    /// # Errors
    /// When the text holds no CA.
    pub fn with_users(mut self, ca_pem: &str) -> Result<Self, IdentityError> {
        let roots = TrustBundle::from_pem(ca_pem)?.roots()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, tls::provider()).build();
        self.users = Some(verifier.map_err(tls::verifier_error)?);
        Ok(self)
    }

    /// Shows this certificate to all who are not services of ours.
    ///
    /// # Errors
    /// When certificate and key cannot be read or do not belong together.
    pub fn with_certificate(mut self, chain_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let chain = pem::certificates(chain_pem, "serving certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| IdentityError::Malformed { what: "serving key" })?;
        let shown = CertifiedKey::from_der(chain, key, &tls::provider()).map_err(|error| match error {
            Error::InconsistentKeys(_) => IdentityError::KeyMismatch,
            other => IdentityError::Tls(other),
        })?;
        self.shown = Some(Arc::new(shown));
        Ok(self)
    }

    /// The configuration for the next handshake. `None` before the first credential.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] when the cryptography cannot be set up.
    pub fn config(&self) -> Result<Option<Arc<ServerConfig>>, IdentityError> {
        Ok(self.made()?.map(|(_, config, _)| config))
    }

    /// Who the certificate of a connection names. `None`: it is nobody's whom we know (any more).
    pub fn caller(&self, chain: &[CertificateDer<'_>]) -> Option<NodeCaller> {
        let (_, _, both) = self.made().ok()??;
        let (leaf, rest) = chain.split_first()?;
        both.caller(leaf, rest, unix_time(self.watch.clock().now()))
    }

    fn made(&self) -> Result<Option<Made>, IdentityError> {
        let Some(newest) = self.watch.current() else { return Ok(None) };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.as_ref().filter(|(of, ..)| Arc::ptr_eq(of, &newest)) {
            return Ok(Some(known.clone()));
        }
        let ours = WebPkiClientVerifier::builder_with_provider(newest.ca().roots()?, tls::provider());
        let peers = PeerVerifier {
            inner: ours.allow_unauthenticated().build().map_err(tls::verifier_error)?,
            trust_domain: self.watch.trust_domain().clone(),
            clock: self.watch.clock().clone(),
            revocations: self.watch.revocations().clone(),
        };
        let both = Arc::new(Both { peers, users: self.users.clone() });
        let node = newest.certified_key();
        let resolver = Shown { other: self.shown.clone().unwrap_or_else(|| Arc::clone(&node)), node };
        let clock = Arc::new(self.watch.clock().clone());
        let mut config = ServerConfig::builder_with_details(tls::provider(), clock)
            .with_protocol_versions(&[&TLS13])
            .map_err(IdentityError::Tls)?
            .with_client_cert_verifier(Arc::clone(&both) as Arc<dyn ClientCertVerifier>)
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let new = (newest, Arc::new(config), both);
        *made = Some(new.clone());
        Ok(Some(new))
    }
}

impl fmt::Debug for NodeServing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeServing").field("users", &self.users.is_some()).finish_non_exhaustive()
    }
}

/// A configuration to dial the API of one node as the service that `watch` holds the credential of.
/// `None` before the first credential.
///
/// # Errors
/// [`IdentityError::Tls`] when the cryptography cannot be set up.
pub fn node_client(watch: &CredentialWatch, node: &NodeName) -> Result<Option<ClientConfig>, IdentityError> {
    let Some(credentials) = watch.current() else { return Ok(None) };
    let inner = WebPkiClientVerifier::builder_with_provider(credentials.ca().roots()?, tls::provider());
    let peers = PeerVerifier {
        inner: inner.build().map_err(tls::verifier_error)?,
        trust_domain: watch.trust_domain().clone(),
        clock: watch.clock().clone(),
        revocations: watch.revocations().clone(),
    };
    let verifier = NodeVerifier { peers, node: Identity::Node(node.clone()) };
    let mut config = tls::client_with(Arc::new(verifier), Some(credentials.certified_key()), watch.clock())?;
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec(), ALPN_NODE.to_vec()];
    Ok(Some(config))
}

/// The node's certificate for our services, the other one for everybody else.
#[derive(Debug)]
struct Shown {
    node: Arc<CertifiedKey>,
    other: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let ours = hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ALPN_NODE));
        Some(Arc::clone(if ours { &self.node } else { &self.other }))
    }
}

/// Accepts what one of two verifiers accepts.
#[derive(Debug)]
struct Both {
    peers: PeerVerifier,
    users: Option<Arc<dyn ClientCertVerifier>>,
}

impl Both {
    fn caller(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Option<NodeCaller> {
        if self.peers.verify_client_cert(leaf, rest, now).is_ok() {
            let chain = std::slice::from_ref(leaf);
            return Identity::from_peer_certificates(chain, &self.peers.trust_domain).ok().map(NodeCaller::Peer);
        }
        self.users.as_ref()?.verify_client_cert(leaf, rest, now).ok()?;
        let parsed = cert::parse(leaf).ok()?;
        let subject = parsed.subject();
        let name = subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?.to_owned();
        let groups = subject.iter_organization().take(MAX_GROUPS).filter_map(|o| Some(o.as_str().ok()?.to_owned()));
        Some(NodeCaller::User { name, groups: groups.collect() })
    }
}

impl ClientCertVerifier for Both {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Clients have one certificate, and show it without a hint.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let ours = self.peers.verify_client_cert(end_entity, intermediates, now);
        match (&ours, &self.users) {
            (Err(_), Some(users)) => users.verify_client_cert(end_entity, intermediates, now),
            _ => ours,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.peers.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.peers.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.peers.supported_verify_schemes()
    }
}

/// Verifies that a server is the node that was wanted.
#[derive(Debug)]
struct NodeVerifier {
    peers: PeerVerifier,
    node: Identity,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.peers.verify_client_cert(end_entity, intermediates, now)?;
        let chain = std::slice::from_ref(end_entity);
        let found = Identity::from_peer_certificates(chain, &self.peers.trust_domain).map_err(refused)?;
        if found == self.node {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &tls::provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &tls::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
