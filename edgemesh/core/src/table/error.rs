//! Why an object was not taken into the table.
//!
//! The table keeps what it had of that object. Display names the object's field, never its content.

use skerry_common::Key;

/// A change that the table did not take.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {key} is not used")]
pub struct Rejected {
    /// The object's kind.
    pub kind: String,
    /// Its namespace and name.
    pub key: Key,
    /// Why.
    #[source]
    pub cause: Malformed,
}

/// What is wrong with an object.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, or not of the shape of its kind.
    #[error("it cannot be read")]
    Json(#[source] serde_json::Error),
    /// The table has no place for this kind.
    #[error("its kind is not of the mesh")]
    Kind,
    /// A port that is not in 1 to 65535.
    #[error("{0} is not a port number")]
    Port(&'static str),
    /// No address, one of the wrong family, or one that no service may have (loopback, link local, multicast).
    #[error("{0} has an address that cannot be used")]
    Address(&'static str),
    /// Not a name as DNS wants it.
    #[error("{0} is not a name of DNS")]
    Name(&'static str),
    /// Two entries have the same name.
    #[error("{0} has a name twice")]
    Duplicate(&'static str),
    /// More than the table takes.
    #[error("{field} has more than {most}")]
    TooMany {
        /// What there are too many of.
        field: &'static str,
        /// The limit.
        most: usize,
    },
}
