//! Names of objects, versions and nodes.
//!
//! A name that comes from the network ends in paths, queries and URLs, so it is checked where it
//! enters: [`Key::checked`] and [`NodeName::parse`]. Clones are cheap, because one process may hold a
//! million keys in several indexes.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest DNS-1123 subdomain (RFC 1123, and Kubernetes' limit for object names).
const MAX_NAME: usize = 253;

/// Longest DNS-1123 label, Kubernetes' limit for namespaces.
const MAX_LABEL: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Names must not be empty.
    #[error("the name is empty")]
    Empty,
    /// Longer than Kubernetes allows.
    #[error("the name is longer than {0} characters")]
    TooLong(usize),
    /// A character, or a place for it, that Kubernetes does not allow.
    #[error(
        "the name {0:?} must consist of lower case letters, digits, '-' and '.', and begin and end with a letter or digit"
    )]
    Invalid(String),
}

/// An object within its kind: namespace (empty when cluster-scoped) and name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl Key {
    /// A key from names that are already known to be good.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// A key from names that came from outside.
    ///
    /// # Errors
    /// When one of them could not be the name of a Kubernetes object. A few kinds (RBAC) allow `:`
    /// in names, so it is accepted; `/` and a leading dot never are.
    pub fn checked(namespace: &str, name: &str) -> Result<Self, NameError> {
        if !namespace.is_empty() {
            dns_name(namespace, MAX_LABEL, "")?;
        }
        dns_name(name, MAX_NAME, ":")?;
        Ok(Self::new(namespace, name))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The version of an object's content. Opaque: equal or not equal, never ordered.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// A version as the source names it.
    pub fn new(version: impl Into<Arc<str>>) -> Self {
        Self(version.into())
    }

    /// The text, for the wire and the store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a node: a DNS-1123 subdomain.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Checks the name.
    ///
    /// # Errors
    /// When Kubernetes would not accept it as the name of a Node.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        dns_name(name, MAX_NAME, "")?;
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::parse(&name)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0.to_string()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn dns_name(name: &str, longest: usize, also: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > longest {
        return Err(NameError::TooLong(longest));
    }
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside =
        |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.' || also.as_bytes().contains(&c);
    let bytes = name.as_bytes();
    if edge(bytes.first().copied())
        && edge(bytes.last().copied())
        && bytes.iter().copied().all(inside)
        && !name.contains("..")
    {
        Ok(())
    } else {
        // Shown to people: what is not printable is escaped by the Debug format.
        Err(NameError::Invalid(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn node_names_are_dns_subdomains() {
        for good in ["a", "edge-1", "ship.north-sea.example", "1", &"a".repeat(253)] {
            assert!(NodeName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "a/b", "../a", "a..b", "-a", "a-", ".a", "a.", "a b", "a\n", "a:b", "ä", &"a".repeat(254)]
        {
            assert!(NodeName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_never_hold_a_path() {
        for (namespace, name) in
            [("default", "a/b"), ("..", "a"), ("default", ".."), ("a/b", "c"), ("", ""), (&"n".repeat(64), "a")]
        {
            assert!(Key::checked(namespace, name).is_err(), "{namespace:?} {name:?}");
        }
        // The control: a key that nobody checks holds whatever came.
        assert_eq!(Key::new("default", "../../etc/passwd").to_string(), "default/../../etc/passwd");
        assert_eq!(Key::checked("default", "web-0").unwrap().to_string(), "default/web-0");
        assert_eq!(Key::checked("", "system:node").unwrap().to_string(), "system:node");
    }

    #[test]
    fn a_node_name_is_checked_when_it_is_deserialized() {
        assert!(serde_json::from_str::<NodeName>("\"a/b\"").is_err());
        assert_eq!(serde_json::to_string(&NodeName::parse("edge-1").unwrap()).unwrap(), "\"edge-1\"");
    }
}
