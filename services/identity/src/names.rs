//! Names that end up in certificates: the trust domain and service names.
//!
//! Both are validated once, here, so that building a SPIFFE id or a DNS name from them cannot fail or
//! be used to smuggle a second path segment. Pure values, no IO.

use std::{fmt, sync::Arc};

use rustls::pki_types::ServerName;

use crate::IdentityError;

/// The trust domain of an installation that did not choose one.
pub const DEFAULT_TRUST_DOMAIN: &str = "skerry.local";

/// Every service's certificate carries `<service>.<SERVICE_DOMAIN>`; clients verify this name whatever
/// address they dialled.
pub const SERVICE_DOMAIN: &str = "skerry";

/// DNS limit; SPIFFE allows 255, but the name must also fit a certificate's common name with a prefix.
const MAX_TRUST_DOMAIN: usize = 128;

/// DNS label limit.
const MAX_LABEL: usize = 63;

/// The SPIFFE trust domain: the root of all names that one CA may issue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Accepts lower-case letters, digits, `.`, `-` and `_`, at most 128 characters.
    ///
    /// # Errors
    /// [`IdentityError::Name`] for anything else.
    pub fn parse(value: &str) -> Result<Self, IdentityError> {
        let ok = !value.is_empty()
            && value.len() <= MAX_TRUST_DOMAIN
            && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'));
        if ok { Ok(Self(value.into())) } else { Err(IdentityError::Name { what: "trust domain", value: value.into() }) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self(DEFAULT_TRUST_DOMAIN.into())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a Skerry service, for example `cloudhub`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// Accepts one DNS label: lower-case letters, digits and inner hyphens, at most 63 characters.
    ///
    /// # Errors
    /// [`IdentityError::Name`] for anything else.
    pub fn parse(value: &str) -> Result<Self, IdentityError> {
        let ok = !value.is_empty()
            && value.len() <= MAX_LABEL
            && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !value.starts_with('-')
            && !value.ends_with('-');
        if ok { Ok(Self(value.into())) } else { Err(IdentityError::Name { what: "service name", value: value.into() }) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The DNS name in the service's certificate, `<service>.skerry`.
    pub fn dns_name(&self) -> String {
        format!("{}.{SERVICE_DOMAIN}", self.0)
    }

    /// The service that a `<service>.skerry` name stands for.
    pub(crate) fn from_dns_name(name: &str) -> Option<Self> {
        let label = name.strip_suffix(SERVICE_DOMAIN)?.strip_suffix('.')?;
        Self::parse(label).ok()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The TLS server name that clients of `service` must use, whatever address they dial.
///
/// # Errors
/// [`IdentityError::Name`] when `service` is not a valid service name.
pub fn server_name(service: &str) -> Result<ServerName<'static>, IdentityError> {
    let dns = ServiceName::parse(service)?.dns_name();
    ServerName::try_from(dns).map_err(|_| IdentityError::Name { what: "service name", value: service.into() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_with_separators_are_refused() {
        for bad in ["", "A", "a/b", "a b", "a\n", "ä", "a:b", "..%2f", &"a".repeat(129)] {
            assert!(TrustDomain::parse(bad).is_err(), "{bad:?}");
            assert!(ServiceName::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["a.b", "-a", "a-", &"a".repeat(64)] {
            assert!(ServiceName::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(TrustDomain::parse("edge.example-1.org").unwrap().as_str(), "edge.example-1.org");
    }

    #[test]
    fn service_dns_name_round_trips() {
        let name = ServiceName::parse("cloudhub").unwrap();
        assert_eq!(name.dns_name(), "cloudhub.skerry");
        assert_eq!(ServiceName::from_dns_name("cloudhub.skerry"), Some(name));
        for bad in ["cloudhub", "cloudhubskerry", "a.b.skerry", ".skerry", "skerry", "cloudhub.skerry.org"] {
            assert_eq!(ServiceName::from_dns_name(bad), None, "{bad}");
        }
    }
}
