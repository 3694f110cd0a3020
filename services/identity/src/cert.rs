//! What we read out of a certificate: its key's fingerprint and its life.
//!
//! Pure functions over DER. Nothing here verifies a signature; see [`crate::Identity`] for who a
//! verified certificate names.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::IdentityError;

/// Largest certificate that is looked at, in bytes. Ours have about 500.
pub(crate) const MAX_CERTIFICATE: usize = 16 * 1024;

/// What a certificate says about its life and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Start of its life.
    pub not_before: Timestamp,
    /// End of its life.
    pub not_after: Timestamp,
    /// SHA-256 of its SubjectPublicKeyInfo, in hex: the key's name in revocation lists and pins.
    pub fingerprint: String,
}

/// Reads a certificate's life and key fingerprint.
///
/// # Errors
/// [`IdentityError::Malformed`] when it is no certificate.
pub fn inspect(certificate: &[u8]) -> Result<CertificateInfo, IdentityError> {
    let parsed = parse(certificate)?;
    let time = |seconds| Timestamp::from_second(seconds).map_err(|_| IdentityError::Malformed { what: "certificate" });
    Ok(CertificateInfo {
        not_before: time(parsed.validity().not_before.timestamp())?,
        not_after: time(parsed.validity().not_after.timestamp())?,
        fingerprint: sha256_hex(parsed.public_key().raw),
    })
}

/// SHA-256 of the certificate's SubjectPublicKeyInfo, in hex.
///
/// # Errors
/// [`IdentityError::Malformed`] when it is no certificate.
pub fn spki_fingerprint(certificate: &[u8]) -> Result<String, IdentityError> {
    Ok(sha256_hex(parse(certificate)?.public_key().raw))
}

/// Parses exactly one certificate.
pub(crate) fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    let malformed = || IdentityError::Malformed { what: "certificate" };
    if certificate.len() > MAX_CERTIFICATE {
        return Err(malformed());
    }
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(malformed()),
    }
}

/// SHA-256 in lower-case hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}
