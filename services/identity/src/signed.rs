//! Statements that the holder of a certificate signs with its key, outside of any connection: the mesh's records of
//! where a node is found.
//!
//! A statement is bytes of the caller's and a *context*, a constant that says what kind of statement it is. The
//! context is part of what is signed, so that a statement of one kind is never taken for another, nor for the proof of
//! a TLS handshake. Pure computation, about 0.2 ms to verify; callers bound the size of what they pass in.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};
use rustls::{SignatureScheme, pki_types::CertificateDer, server::WebPkiClientVerifier};
use x509_parser::public_key::PublicKey;

use crate::{
    CredentialWatch, Credentials, Identity, IdentityError,
    cert::parse,
    clock::unix_time,
    tls,
    verify::{check_revoked, evidence},
};

/// The keys that the CA accepts are of these two curves; each goes with one hash.
const SCHEMES: [SignatureScheme; 2] = [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384];

/// Longest chain that is looked at: a leaf and two intermediates.
const MAX_CHAIN: usize = 3;

/// Bits of the x coordinate of a P-384 point.
const P384_BITS: usize = 384;

impl Credentials {
    /// Signs `message` as a statement of the kind `context`.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] when the key cannot sign.
    pub fn sign(&self, context: &str, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let key = self.certified_key();
        let signer = key
            .key
            .choose_scheme(&SCHEMES)
            .ok_or(IdentityError::Tls(rustls::Error::General("the key signs with no known scheme".into())))?;
        signer.sign(&statement(context, message)).map_err(IdentityError::Tls)
    }
}

impl CredentialWatch {
    /// Who signed `message` as a statement of the kind `context`: the leaf of `chain`, which must lead to a CA of the
    /// credential in use, be valid now, be of our trust domain and not be revoked.
    ///
    /// # Errors
    /// Which of these does not hold; [`IdentityError::Signature`] when only the signature is wrong.
    pub fn verify_signed(
        &self,
        context: &str,
        message: &[u8],
        chain: &[CertificateDer<'_>],
        signature: &[u8],
    ) -> Result<Identity, IdentityError> {
        let (leaf, rest) = match chain.split_first() {
            Some(parts) if chain.len() <= MAX_CHAIN => parts,
            _ => return Err(IdentityError::Malformed { what: "certificate chain" }),
        };
        let current = self.current().ok_or(IdentityError::CaNotValid)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(current.ca().roots()?, tls::provider())
            .build()
            .map_err(|error| IdentityError::Tls(rustls::Error::General(error.to_string())))?;
        let now = evidence(self.clock(), leaf, unix_time(self.clock().now()));
        verifier.verify_client_cert(leaf, rest, now).map_err(IdentityError::Tls)?;
        let identity = Identity::from_peer_certificates(chain, self.trust_domain())?;
        check_revoked(self.revocations(), leaf, &identity).map_err(|_| IdentityError::Revoked)?;
        let leaf = parse(leaf)?;
        let PublicKey::EC(point) = leaf.public_key().parsed().map_err(|_| IdentityError::Signature)? else {
            return Err(IdentityError::Signature);
        };
        let algorithm =
            if point.key_size() > P384_BITS - 8 { &ECDSA_P384_SHA384_ASN1 } else { &ECDSA_P256_SHA256_ASN1 };
        UnparsedPublicKey::new(algorithm, point.data())
            .verify(&statement(context, message), signature)
            .map_err(|_| IdentityError::Signature)?;
        Ok(identity)
    }
}

/// What is really signed. No context holds a zero byte, so the two parts cannot be shifted.
fn statement(context: &str, message: &[u8]) -> Vec<u8> {
    [context.as_bytes(), &[0], message].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::Timestamp;
    use skerry_common::NodeName;

    use super::*;
    use crate::{Ca, CredentialOptions, DEFAULT_NODE_LIFETIME, RevocationPublisher, RevocationSet, TrustDomain};

    fn watch(ca: &Ca, node: &str) -> CredentialWatch {
        let credentials =
            ca.node_credentials(&NodeName::parse(node).unwrap(), DEFAULT_NODE_LIFETIME, Timestamp::now()).unwrap();
        CredentialWatch::fixed(CredentialOptions::new(ca.trust_domain().clone()), credentials).unwrap()
    }

    #[test]
    fn a_statement_names_its_signer_and_nothing_of_it_can_be_changed() {
        let ca = Ca::generate(&TrustDomain::default()).unwrap();
        let (a, b) = (watch(&ca, "a"), watch(&ca, "b"));
        let signer = a.current().unwrap();
        let signature = signer.sign("test", b"hello").unwrap();
        let identity = b.verify_signed("test", b"hello", signer.chain(), &signature).unwrap();
        assert_eq!(identity, Identity::Node(NodeName::parse("a").unwrap()));

        let refused = |context, message: &[u8], chain: &[CertificateDer<'static>], signature: &[u8]| {
            b.verify_signed(context, message, chain, signature).unwrap_err().code()
        };
        assert_eq!(refused("test", b"hellO", signer.chain(), &signature), "signature");
        assert_eq!(refused("tesT", b"hello", signer.chain(), &signature), "signature");
        assert_eq!(refused("test", b"hello", b.current().unwrap().chain(), &signature), "signature");
        assert_eq!(refused("test", b"hello", &[], &signature), "malformed");
        assert_eq!(refused("test", b"hello", signer.chain(), &[]), "signature");
        let foreign = watch(&Ca::generate(&TrustDomain::default()).unwrap(), "a").current().unwrap();
        let signature = foreign.sign("test", b"hello").unwrap();
        assert_eq!(refused("test", b"hello", foreign.chain(), &signature), "tls");
    }

    #[test]
    fn a_revoked_signer_is_refused() {
        let ca = Ca::generate(&TrustDomain::default()).unwrap();
        let signer = watch(&ca, "a").current().unwrap();
        let signature = signer.sign("test", b"hello").unwrap();
        let (publisher, revocations) = RevocationPublisher::new();
        let options = CredentialOptions { revocations, ..CredentialOptions::new(ca.trust_domain().clone()) };
        let name = NodeName::parse("b").unwrap();
        let own = ca.node_credentials(&name, DEFAULT_NODE_LIFETIME, Timestamp::now()).unwrap();
        let watch = CredentialWatch::fixed(options, own).unwrap();
        watch.verify_signed("test", b"hello", signer.chain(), &signature).unwrap();
        publisher.set(RevocationSet { nodes: [NodeName::parse("a").unwrap()].into(), ..RevocationSet::default() });
        let error = watch.verify_signed("test", b"hello", signer.chain(), &signature).unwrap_err();
        assert_eq!(error.code(), "revoked");
    }
}
