//! Who a verified certificate names.
//!
//! [`Identity::from_peer_certificates`] is the only source of identity in Skerry. It is called on the
//! chain that TLS has already verified, by the verifiers of this crate during the handshake and by
//! the RPC layer for its handlers.
//!
//! Rules, each refused when broken: exactly one URI name; it is `spiffe://<our trust domain>/node/<name>`
//! or `.../service/<name>`; the name is valid; there is exactly one common name and it agrees. A
//! header, a body or a CSR never matters.

use std::fmt;

use rustls::pki_types::CertificateDer;
use skerry_common::NodeName;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName};

use crate::{IdentityError, ServiceName, TrustDomain, cert::parse};

/// Organisation of node certificates, as the Kubernetes node authorizer expects it.
pub(crate) const NODE_GROUP: &str = "system:nodes";

/// What stands before the node's name in its common name, as Kubernetes expects it.
pub(crate) const NODE_PREFIX: &str = "system:node:";

/// Organisation of service certificates; means nothing to Kubernetes.
pub(crate) const SERVICE_GROUP: &str = "skerry:services";

/// The holder of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// An edge node.
    Node(NodeName),
    /// A Skerry service in the cloud.
    Service(ServiceName),
}

impl Identity {
    /// Reads the identity from a chain that TLS has verified, leaf first.
    ///
    /// # Errors
    /// [`IdentityError::NoIdentity`] when a rule is broken, [`IdentityError::TrustDomain`] for a
    /// certificate of another installation, [`IdentityError::Malformed`].
    pub fn from_peer_certificates(
        chain: &[CertificateDer<'_>],
        trust_domain: &TrustDomain,
    ) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(IdentityError::NoIdentity { reason: "there is no certificate" })?;
        let (identity, found) = read(&parse(leaf)?)?;
        if found == *trust_domain { Ok(identity) } else { Err(IdentityError::TrustDomain { found: found.to_string() }) }
    }

    /// Reads the identity and the trust domain; for the one caller that cannot know the trust domain yet.
    pub(crate) fn in_any_trust_domain(leaf: &CertificateDer<'_>) -> Result<(Self, TrustDomain), IdentityError> {
        read(&parse(leaf)?)
    }

    /// The node's name, when this is a node.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Node(name) => Some(name),
            Self::Service(_) => None,
        }
    }

    /// The service's name, when this is a service.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Service(name) => Some(name),
            Self::Node(_) => None,
        }
    }

    fn common_name(&self) -> String {
        match self {
            Self::Node(name) => format!("{NODE_PREFIX}{name}"),
            Self::Service(name) => name.dns_name(),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Service(name) => write!(f, "service/{name}"),
        }
    }
}

fn read(certificate: &X509Certificate<'_>) -> Result<(Identity, TrustDomain), IdentityError> {
    let none = |reason| IdentityError::NoIdentity { reason };
    let id = single_uri(certificate)?;
    let rest = id.strip_prefix("spiffe://").ok_or(none("its URI is not a SPIFFE id"))?;
    let (domain, path) = rest.split_once('/').ok_or(none("its SPIFFE id has no path"))?;
    let domain = TrustDomain::parse(domain)?;
    let identity = match path.split_once('/') {
        Some(("node", name)) => Identity::Node(NodeName::parse(name).map_err(|_| none("its node name is not valid"))?),
        Some(("service", name)) => Identity::Service(ServiceName::parse(name)?),
        _ => return Err(none("its SPIFFE id is neither a node nor a service")),
    };
    let mut names = certificate.subject().iter_common_name();
    let common_name = names.next().and_then(|name| name.as_str().ok());
    if common_name != Some(identity.common_name().as_str()) || names.next().is_some() {
        return Err(none("its common name and its SPIFFE id do not agree"));
    }
    Ok((identity, domain))
}

fn single_uri<'a>(certificate: &X509Certificate<'a>) -> Result<&'a str, IdentityError> {
    let none = |reason| IdentityError::NoIdentity { reason };
    let san = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Malformed { what: "certificate" })?
        .ok_or(none("it has no subject alternative name"))?;
    let mut uris = san.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri),
        (None, _) => Err(none("it has no SPIFFE id")),
        _ => Err(none("it has more than one URI")),
    }
}

/// The trust domain that a CA certificate names: `spiffe://<trust domain>`, without a path.
pub(crate) fn trust_domain_of_ca(certificate: &X509Certificate<'_>) -> Result<TrustDomain, IdentityError> {
    let domain = single_uri(certificate)?
        .strip_prefix("spiffe://")
        .ok_or(IdentityError::NoIdentity { reason: "its URI is not a SPIFFE id" })?;
    TrustDomain::parse(domain)
}
