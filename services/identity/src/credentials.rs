//! A certificate chain, its key, and the CAs that its holder trusts.
//!
//! [`Credentials::new`] guarantees that key and leaf belong together; [`Credentials::validate`] is the
//! full check before they are used. Immutable, shared as `Arc` by the watch.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};

use crate::{
    CertificateInfo, Identity, IdentityError, NodeKey, TrustDomain, clock::unix_time, inspect, pem, spki_fingerprint,
    tls,
};

/// Most CAs in a bundle: old and new in a rollover, with room.
const MAX_CAS: usize = 8;

/// The CAs that are trusted. Several during a rollover.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustBundle(Vec<CertificateDer<'static>>);

impl TrustBundle {
    /// A bundle of 1 to 8 CA certificates.
    ///
    /// # Errors
    /// [`IdentityError::Bundle`] for a wrong number, [`IdentityError::Malformed`] when one is no CA.
    pub fn new(cas: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        if cas.is_empty() || cas.len() > MAX_CAS {
            return Err(IdentityError::Bundle { count: cas.len(), max: MAX_CAS });
        }
        for ca in &cas {
            if !crate::cert::parse(ca)?.is_ca() {
                return Err(IdentityError::Malformed { what: "CA bundle" });
            }
        }
        Ok(Self(cas))
    }

    /// Reads a bundle from PEM.
    ///
    /// # Errors
    /// As [`TrustBundle::new`].
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        Self::new(pem::certificates(text, "CA bundle")?)
    }

    /// The bundle as PEM.
    pub fn pem(&self) -> String {
        pem::encode_certificates(&self.0)
    }

    /// The CA certificates.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    /// Whether one of the CAs has this key, given as SHA-256 of its SubjectPublicKeyInfo in hex.
    /// `skerry join` checks the bundle that it was given against the token with this.
    pub fn contains_key(&self, spki_hash: &str) -> bool {
        self.0.iter().any(|ca| spki_fingerprint(ca).is_ok_and(|hash| hash == spki_hash))
    }

    /// A bundle that trusts these CAs and those of `other`.
    ///
    /// # Errors
    /// [`IdentityError::Bundle`] when there would be too many.
    pub fn union(&self, other: &Self) -> Result<Self, IdentityError> {
        let mut all = self.0.clone();
        for ca in &other.0 {
            if !all.contains(ca) {
                all.push(ca.clone());
            }
        }
        Self::new(all)
    }

    pub(crate) fn roots(&self) -> Result<Arc<RootCertStore>, IdentityError> {
        let mut roots = RootCertStore::empty();
        for ca in &self.0 {
            roots.add(ca.clone()).map_err(IdentityError::Tls)?;
        }
        Ok(Arc::new(roots))
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().filter_map(|ca| spki_fingerprint(ca).ok())).finish()
    }
}

/// What a node or service proves itself with.
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    ca: TrustBundle,
    info: CertificateInfo,
    certified: Arc<CertifiedKey>,
}

impl Credentials {
    /// Puts a chain (leaf first), its key and the trusted CAs together. CA certificates at the end of
    /// the chain are dropped: the peer has them, or must not trust them.
    ///
    /// # Errors
    /// [`IdentityError::KeyMismatch`], [`IdentityError::Malformed`], [`IdentityError::Tls`].
    pub fn new(
        mut chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        ca: TrustBundle,
    ) -> Result<Self, IdentityError> {
        chain.retain(|certificate| !ca.0.contains(certificate));
        let info = inspect(chain.first().ok_or(IdentityError::Malformed { what: "certificate chain" })?)?;
        let certified =
            CertifiedKey::from_der(chain.clone(), key.clone_key(), &tls::provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => IdentityError::KeyMismatch,
                other => IdentityError::Tls(other),
            })?;
        Ok(Self { chain, key, ca, info, certified: Arc::new(certified) })
    }

    /// As [`Credentials::new`], from the PEM texts that a CA answered with and the key that was made
    /// for the request.
    ///
    /// # Errors
    /// As [`Credentials::new`].
    pub fn from_answer(chain_pem: &str, ca_pem: &str, key: &NodeKey) -> Result<Self, IdentityError> {
        let chain = pem::certificates(chain_pem, "certificate chain")?;
        Self::new(chain, key.private_key(), TrustBundle::from_pem(ca_pem)?)
    }

    /// As [`Credentials::new`], from PEM texts.
    ///
    /// # Errors
    /// As [`Credentials::new`].
    pub fn from_pem(chain_pem: &str, key_pem: &str, ca_pem: &str) -> Result<Self, IdentityError> {
        let chain = pem::certificates(chain_pem, "certificate chain")?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| IdentityError::Malformed { what: "private key" })?;
        Self::new(chain, key, TrustBundle::from_pem(ca_pem)?)
    }

    /// The chain, leaf first, without the CA.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The chain as PEM.
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(&self.chain)
    }

    /// The private key as PEM. A secret.
    pub fn key_pem(&self) -> String {
        pem::encode("PRIVATE KEY", self.key.secret_der())
    }

    /// The private key.
    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    /// The CAs that the holder trusts.
    pub fn ca(&self) -> &TrustBundle {
        &self.ca
    }

    /// Life and key fingerprint of the leaf.
    pub fn info(&self) -> &CertificateInfo {
        &self.info
    }

    /// End of the leaf's life.
    pub fn not_after(&self) -> Timestamp {
        self.info.not_after
    }

    /// Seconds until the leaf expires, negative afterwards; for the metric and its alarm.
    pub fn seconds_left(&self, now: Timestamp) -> i64 {
        self.info.not_after.as_second().saturating_sub(now.as_second())
    }

    /// Who the leaf names.
    ///
    /// # Errors
    /// As [`Identity::from_peer_certificates`].
    pub fn identity(&self, trust_domain: &TrustDomain) -> Result<Identity, IdentityError> {
        Identity::from_peer_certificates(&self.chain, trust_domain)
    }

    /// The trust domain that the leaf names. For its holder only: a peer's is never taken from the peer.
    ///
    /// # Errors
    /// When the leaf has no identity.
    pub fn trust_domain(&self) -> Result<TrustDomain, IdentityError> {
        let leaf = self.chain.first().ok_or(IdentityError::Malformed { what: "certificate chain" })?;
        Identity::in_any_trust_domain(leaf).map(|(_, domain)| domain)
    }

    /// The full check before use: the leaf leads to one of our own CAs, is valid at `now`, and names
    /// somebody in the trust domain. Returns whom.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn validate(&self, trust_domain: &TrustDomain, now: Timestamp) -> Result<Identity, IdentityError> {
        let identity = self.identity(trust_domain)?;
        if now < self.info.not_before {
            return Err(IdentityError::NotYetValid { not_before: self.info.not_before });
        }
        if now >= self.info.not_after {
            return Err(IdentityError::Expired { not_after: self.info.not_after });
        }
        self.verify_chain(now)?;
        Ok(identity)
    }

    /// Whether the leaf leads to one of our own CAs, judged at an instant within its own life: what a
    /// start with a wrong clock can still know.
    pub(crate) fn verify_chain(&self, at: Timestamp) -> Result<(), IdentityError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.ca.roots()?, tls::provider())
            .build()
            .map_err(|error| IdentityError::Tls(rustls::Error::General(error.to_string())))?;
        let (leaf, rest) = self.chain.split_first().ok_or(IdentityError::Malformed { what: "certificate chain" })?;
        verifier.verify_client_cert(leaf, rest, unix_time(at)).map_err(IdentityError::Tls)?;
        Ok(())
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("info", &self.info).field("ca", &self.ca).finish_non_exhaustive()
    }
}
