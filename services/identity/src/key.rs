//! The private key of a node or service, and the request that proves it.
//!
//! ECDSA on P-256: small certificates, quick handshakes, accepted everywhere. A new key is made for
//! every renewal. The key never leaves the process except into the credential file.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{IdentityError, cert::sha256_hex};

/// A freshly made key that has no certificate yet.
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when the system gives no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        KeyPair::generate().map(Self).map_err(IdentityError::crypto)
    }

    /// A PKCS#10 request in DER that holds the public key and proves possession of the private one. It
    /// asks for nothing: the CA decides the subject, names and usages.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when signing fails.
    pub fn csr(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.0).map_err(IdentityError::crypto)?;
        Ok(request.der().to_vec())
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo, in hex.
    pub fn fingerprint(&self) -> String {
        sha256_hex(&self.0.subject_public_key_info())
    }

    /// The private key in PKCS#8.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}
