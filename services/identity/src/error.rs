//! What can go wrong with identities, and what the operator can do about it.
//!
//! [`IdentityError`] is the crate's error; [`CsrError`] says why a signing request was refused and is
//! shown to the node that sent it, so it never holds a secret. Token refusals have their own type
//! beside the token, [`crate::TokenError`].

use std::path::PathBuf;

/// Why a certificate signing request was refused. Shown to the requester.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// The request is larger than any honest one. Send a plain PKCS#10 request.
    #[error("the signing request has {size} bytes, more than {max}")]
    TooLarge {
        /// Size of the request in bytes.
        size: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The request is not valid DER, or bytes follow it.
    #[error("the signing request is not a valid PKCS#10 request")]
    Malformed,
    /// The key is not ECDSA on P-256 or P-384. Generate such a key.
    #[error("the key of the signing request is not accepted: ECDSA on P-256 or P-384 is needed")]
    WeakKey,
    /// The signature does not prove possession of the key.
    #[error("the signature of the signing request does not match its key")]
    Signature,
    /// The request asks for a subject other than the one that the CA will write. Leave it empty.
    #[error("the signing request asks for another subject: leave the subject empty")]
    Subject,
    /// The request asks for names, usages or other extensions. Ask for none.
    #[error("the signing request asks for extensions: names and usages are decided by the CA")]
    Extensions,
}

/// What can go wrong with certificates, keys and their files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A trust domain, service or DNS name is not valid. Correct the name.
    #[error("{what} {value:?} is not valid")]
    Name {
        /// Which name.
        what: &'static str,
        /// The value, as given.
        value: String,
    },
    /// A signing request was refused; the source says why.
    #[error("the signing request was refused")]
    Csr(#[from] CsrError),
    /// A certificate was asked for that lives longer than policy allows, or not at all.
    #[error("a lifetime of {seconds} s is not allowed: at most {max} s")]
    Lifetime {
        /// What was asked for, in seconds.
        seconds: u64,
        /// The limit, in seconds.
        max: u64,
    },
    /// The CA certificate has expired or is not yet valid: nothing can be issued. Renew the CA.
    #[error("the CA certificate is not valid now")]
    CaNotValid,
    /// A certificate, key or bundle cannot be read.
    #[error("the {what} cannot be parsed")]
    Malformed {
        /// What was parsed.
        what: &'static str,
    },
    /// The key does not belong to the certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The certificate has no usable identity; `reason` says which rule it breaks.
    #[error("the certificate names no identity: {reason}")]
    NoIdentity {
        /// The broken rule.
        reason: &'static str,
    },
    /// The certificate belongs to another trust domain.
    #[error("the certificate belongs to the trust domain {found:?}")]
    TrustDomain {
        /// The trust domain in the certificate.
        found: String,
    },
    /// A new credential names someone else than the one in use.
    #[error("the certificate names {found}, not {expected}")]
    OtherIdentity {
        /// Who it names.
        found: String,
        /// Who was expected.
        expected: String,
    },
    /// The certificate has expired. Renew it, or join again.
    #[error("the certificate expired at {not_after}")]
    Expired {
        /// End of its life.
        not_after: jiff::Timestamp,
    },
    /// The certificate is not valid yet. Check the clocks of both machines.
    #[error("the certificate is valid from {not_before} only: check the clock")]
    NotYetValid {
        /// Start of its life.
        not_before: jiff::Timestamp,
    },
    /// The certificate has been revoked.
    #[error("the certificate has been revoked")]
    Revoked,
    /// A signed statement does not match its signer's key.
    #[error("the signature does not match")]
    Signature,
    /// The certificate does not lead to a trusted CA, or TLS refused it; the source says why.
    #[error("the certificate or key is not usable for TLS")]
    Tls(#[source] rustls::Error),
    /// The CA bundle is empty or too long.
    #[error("the CA bundle holds {count} certificates: 1 to {max} are needed")]
    Bundle {
        /// How many it holds.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// The pin is not the SHA-256 of a public key in hex.
    #[error("the CA hash is not 64 hexadecimal digits")]
    Pin,
    /// Generating a key or a signature failed.
    #[error("cryptography failed")]
    Crypto(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file of the credential store could not be read or written. Check the disk and its permissions.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl IdentityError {
    /// A short stable name for metrics and machine-readable output.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "invalid_name",
            Self::Csr(_) => "csr_refused",
            Self::Lifetime { .. } => "lifetime",
            Self::CaNotValid => "ca_not_valid",
            Self::Malformed { .. } => "malformed",
            Self::KeyMismatch => "key_mismatch",
            Self::NoIdentity { .. } => "no_identity",
            Self::TrustDomain { .. } => "trust_domain",
            Self::OtherIdentity { .. } => "other_identity",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::Signature => "signature",
            Self::Tls(_) => "tls",
            Self::Bundle { .. } => "bundle",
            Self::Pin => "pin",
            Self::Crypto(_) => "crypto",
            Self::Io { .. } => "io",
        }
    }

    pub(crate) fn crypto(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Crypto(Box::new(source))
    }
}
