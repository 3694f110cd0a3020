//! What can go wrong, for those who start the network, open streams, or show why a record was refused.

use std::{io, path::PathBuf};

use jiff::Timestamp;
use libp2p::Multiaddr;
use skerry_common::NodeName;
use skerry_identity::IdentityError;

/// The file of the node's key is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It cannot be read or written. Check the directory and its permissions.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Others may read it: it may have been copied. Remove it, so that a new one is made.
    #[error("{} may be read by others: remove it", path.display())]
    Readable {
        /// The file.
        path: PathBuf,
    },
    /// It is no key. Remove it, so that a new one is made.
    #[error("{} is no key: remove it", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// The network cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The node's key.
    #[error("the node has no key")]
    Key(#[from] KeyError),
    /// An address cannot be listened on. It is in use, not of this machine, or of no known transport.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A transport or mDNS cannot be set up.
    #[error("cannot set up {what}")]
    Setup {
        /// Which.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A record was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is no record.
    #[error("the record cannot be read")]
    Malformed,
    /// It has more addresses or bytes than a record may have.
    #[error("the record is larger than allowed")]
    Limit,
    /// Its certificate or the certificate's signature is not good.
    #[error("the record is not signed by a certificate that holds")]
    Identity(#[source] IdentityError),
    /// It speaks of another node than the one whose certificate signed it.
    #[error("the record of {claimed} is signed by {signer}")]
    OtherNode {
        /// The node in the record.
        claimed: NodeName,
        /// The holder of the certificate.
        signer: String,
    },
    /// It was found under another node's name.
    #[error("the record of {found} was published for {expected}")]
    OtherPlace {
        /// The node in the record.
        found: NodeName,
        /// The node that it was published for.
        expected: NodeName,
    },
    /// It is not signed by the key that it names.
    #[error("the record is not signed by its own key")]
    Key,
    /// It does not hold any more, or for longer than any certificate.
    #[error("the record holds until {not_after}")]
    Expired {
        /// Its end.
        not_after: Timestamp,
    },
    /// A newer record of the node is known.
    #[error("the record is older than the one that is known")]
    Replayed,
    /// Its PeerId belongs to another node.
    #[error("the record has the key of {owner}")]
    Taken {
        /// The other node.
        owner: NodeName,
    },
    /// The node was revoked, or its record removed.
    #[error("the node was removed")]
    Removed,
    /// More nodes than the mesh can have.
    #[error("there are too many records")]
    Full,
}

/// A stream cannot be opened. The caller takes another endpoint, or tells its client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No record of the node is known.
    #[error("the node {0} is not known to the mesh")]
    UnknownNode(NodeName),
    /// Every way to the node was tried.
    #[error("the node {node} is not reachable: {reason}")]
    Unreachable {
        /// The node.
        node: NodeName,
        /// What failed last.
        reason: String,
    },
    /// The deadline passed first.
    #[error("the node {node} was not reached in time: {reason}")]
    Deadline {
        /// The node.
        node: NodeName,
        /// What failed last, if anything did.
        reason: String,
    },
    /// The connection was lost while the stream was opened.
    #[error("the connection to {0} was lost")]
    Lost(NodeName),
    /// There are as many streams or waiting callers as there may be.
    #[error("there are too many streams to {0}")]
    Limit(NodeName),
    /// The network has stopped.
    #[error("the mesh has stopped")]
    Stopped,
}
