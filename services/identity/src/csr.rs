//! Policy for certificate signing requests.
//!
//! Called by the CA on bytes that an unauthenticated machine sent, so everything is checked and
//! bounded before any signature is computed. The result is a public key and nothing else: a request
//! that asks for a subject, names, usages or to be a CA is refused rather than trimmed, so that an
//! attempt is seen in the log.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384},
    prelude::FromDer,
    x509,
};

use crate::CsrError;

/// Largest request, in bytes; an honest one with a P-384 key has about 250.
pub(crate) const MAX_CSR: usize = 2 * 1024;

/// Checks a request: size, form, key strength, proof of possession, and that it asks for nothing but
/// (at most) the subject `subject`, given as its attributes in order. Returns its public key.
pub(crate) fn check(der: &[u8], subject: &[(Attribute, &str)]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if der.len() > MAX_CSR {
        return Err(CsrError::TooLarge { size: der.len(), max: MAX_CSR });
    }
    let Ok(([], request)) = X509CertificationRequest::from_der(der) else { return Err(CsrError::Malformed) };
    let info = &request.certification_request_info;
    if !strong(&info.subject_pki) {
        return Err(CsrError::WeakKey);
    }
    request.verify_signature().map_err(|_| CsrError::Signature)?;
    if info.subject.iter().next().is_some() && !same_subject(&info.subject, subject) {
        return Err(CsrError::Subject);
    }
    for attribute in info.iter_attributes() {
        match attribute.parsed_attribute() {
            // An empty extension request asks for nothing.
            ParsedCriAttribute::ExtensionRequest(requested) if requested.extensions.is_empty() => {}
            ParsedCriAttribute::ExtensionRequest(_) => return Err(CsrError::Extensions),
            // Challenge passwords and unknown attributes are never honoured, so they must not be there.
            _ => return Err(CsrError::Extensions),
        }
    }
    // Last, because rcgen's parser is laxer about what surrounds the key.
    SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| CsrError::WeakKey)
}

/// The attributes of a subject that our CA writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Organization,
    CommonName,
}

/// Only ECDSA on P-256 and P-384: no RSA, whose weak sizes and slow verification help only attackers.
fn strong(key: &x509::SubjectPublicKeyInfo<'_>) -> bool {
    let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|oid| oid == OID_EC_P256 || oid == OID_NIST_EC_P384)
}

fn same_subject(asked: &x509::X509Name<'_>, ours: &[(Attribute, &str)]) -> bool {
    let mut count = 0_usize;
    for attribute in asked.iter_attributes() {
        count += 1;
        let kind = if *attribute.attr_type() == x509_parser::oid_registry::OID_X509_COMMON_NAME {
            Attribute::CommonName
        } else if *attribute.attr_type() == x509_parser::oid_registry::OID_X509_ORGANIZATION_NAME {
            Attribute::Organization
        } else {
            return false;
        };
        let Ok(value) = attribute.as_str() else { return false };
        if !ours.contains(&(kind, value)) {
            return false;
        }
    }
    // Each of ours at most once: `ours` has one value per kind, so the count decides with the above.
    count == ours.len() && distinct(asked)
}

fn distinct(asked: &x509::X509Name<'_>) -> bool {
    asked.iter_common_name().count() <= 1 && asked.iter_organization().count() <= 1
}
