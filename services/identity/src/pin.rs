//! Trust by hash, for the one moment when a machine has no CA yet: `skerry join`.
//!
//! The join token carries the SHA-256 of the CA's public key. The server is asked for its CA
//! certificate in the handshake; the one whose key has that hash becomes the only root, and the
//! server's certificate is then verified by webpki as always (signature, life, usage, name), including
//! the SPIFFE id of the service. Nothing is sent before that.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{
    Clock, Identity, IdentityError, cert,
    peer::trust_domain_of_ca,
    tls,
    token::is_sha256_hex,
    verify::{check_service, evidence, refused},
};

/// Most certificates of a presented chain that are looked at before the peer is trusted.
const MAX_PRESENTED: usize = 10;

/// A client configuration that trusts the CA whose SubjectPublicKeyInfo has this SHA-256 (64
/// lower-case hex digits, [`crate::Token::ca_hash`]). It shows no client certificate. Dial with
/// [`crate::server_name`].
///
/// # Errors
/// [`IdentityError::Pin`] when the hash is none.
pub fn client_config(ca_spki_hash: &str) -> Result<ClientConfig, IdentityError> {
    client_config_at(ca_spki_hash, &Clock::system())
}

/// As [`client_config`], with a clock other than the system's.
///
/// # Errors
/// [`IdentityError::Pin`] when the hash is none.
pub fn client_config_at(ca_spki_hash: &str, clock: &Clock) -> Result<ClientConfig, IdentityError> {
    if !is_sha256_hex(ca_spki_hash) {
        return Err(IdentityError::Pin);
    }
    let verifier = PinVerifier { hash: ca_spki_hash.to_owned(), clock: clock.clone() };
    let mut config = tls::client_with(Arc::new(verifier), None, clock)?;
    config.alpn_protocols.push(tls::ALPN_SEND_CA.to_vec());
    Ok(config)
}

struct PinVerifier {
    hash: String,
    clock: Clock,
}

impl PinVerifier {
    fn pinned_ca<'a>(&self, presented: &'a [CertificateDer<'a>]) -> Option<&'a CertificateDer<'a>> {
        presented.iter().take(MAX_PRESENTED).find(|certificate| {
            cert::parse(certificate).is_ok_and(|parsed| parsed.is_ca())
                && cert::spki_fingerprint(certificate).is_ok_and(|hash| hash == self.hash)
        })
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        if intermediates.len() > MAX_PRESENTED {
            return Err(unknown());
        }
        let ca = self.pinned_ca(intermediates).ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let now = evidence(&self.clock, end_entity, now);
        let verified = webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let (identity, domain) = Identity::in_any_trust_domain(end_entity).map_err(refused)?;
        check_service(&identity, server_name)?;
        // The trust domain is not known yet, but leaf and CA must at least agree on it.
        let of_ca = cert::parse(ca).and_then(|parsed| trust_domain_of_ca(&parsed)).map_err(refused)?;
        if domain != of_ca {
            return Err(refused(IdentityError::TrustDomain { found: domain.to_string() }));
        }
        Ok(verified)
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

impl fmt::Debug for PinVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinVerifier").field("hash", &self.hash).finish_non_exhaustive()
    }
}
