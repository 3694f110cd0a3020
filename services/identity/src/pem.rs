//! PEM text, both ways, with limits on what is accepted.
//!
//! Decoding is rustls' own; encoding is the few lines below, so that no further library is needed.
//! Used for the credential files and by whoever sends certificates as text.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::IdentityError;

/// Longest accepted PEM text: a chain and a bundle of [`MAX_CERTIFICATES`] each is far smaller.
pub(crate) const MAX_PEM: usize = 256 * 1024;

/// Most certificates in one text; our own chains have one or two.
pub(crate) const MAX_CERTIFICATES: usize = 16;

/// Characters on a line, as RFC 7468 asks.
const LINE: usize = 64;

/// One PEM block.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = String::with_capacity(body.len() + body.len() / LINE + 64);
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while let Some((line, tail)) = rest.split_at_checked(LINE) {
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    if !rest.is_empty() {
        text.push_str(rest);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// Several certificates after each other.
pub(crate) fn encode_certificates(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| encode("CERTIFICATE", certificate)).collect()
}

/// All certificates of a text; blocks of other kinds are skipped.
pub(crate) fn certificates(text: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let malformed = || IdentityError::Malformed { what };
    if text.len() > MAX_PEM {
        return Err(malformed());
    }
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        if found.len() == MAX_CERTIFICATES {
            return Err(malformed());
        }
        found.push(certificate.map_err(|_| malformed())?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_round_trips_at_every_line_boundary() {
        for len in 0..200_usize {
            let der: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let text = encode("CERTIFICATE", &der);
            assert!(text.lines().all(|line| line.len() <= LINE));
            assert_eq!(certificates(&text, "test").unwrap(), vec![CertificateDer::from(der)]);
        }
    }

    #[test]
    fn too_many_and_too_long_are_refused() {
        let one = encode("CERTIFICATE", b"x");
        assert!(certificates(&one.repeat(MAX_CERTIFICATES), "test").is_ok());
        assert!(certificates(&one.repeat(MAX_CERTIFICATES + 1), "test").is_err());
        assert!(certificates(&" ".repeat(MAX_PEM + 1), "test").is_err());
    }
}
