//! Why EdgeHub cannot start or go on.

/// Errors of EdgeHub.
#[derive(Debug, thiserror::Error)]
pub enum EdgeHubError {
    /// The node's certificate cannot be used; the source says why. Join again.
    #[error("the node's credentials cannot be used")]
    Credentials(#[source] skerry_identity::IdentityError),
    /// There is no certificate: the machine has not joined.
    #[error("there are no credentials; run skerry join first")]
    NotJoined,
    /// The certificate is of another node than the configuration names.
    #[error("the certificate is of node {certificate}, the configuration names {configured}")]
    OtherNode {
        /// Name in the certificate.
        certificate: String,
        /// Name in the configuration.
        configured: String,
    },
    /// The store cannot be opened.
    #[error("the edge store cannot be used")]
    Store(#[source] skerry_store::StoreError),
    /// The socket cannot be bound, or serving failed for good.
    #[error("cannot serve the services of the node")]
    Serve(#[source] skerry_rpc::BindError),
    /// The address of the hub cannot be used.
    #[error("the hub's address cannot be used")]
    Hub(#[source] skerry_rpc::ConnectError),
    /// A task ended although nobody stopped it.
    #[error("the {0} task ended")]
    TaskEnded(&'static str),
}

/// Why a session with the hub ended. For the log and the link's state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The hub could not be reached.
    #[error("cannot connect to the hub")]
    Connect(#[source] skerry_rpc::ConnectError),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Ended(String),
    /// The hub refused or ended a stream.
    #[error("the hub ended a stream: {}", .0.message())]
    Stream(#[from] Box<tonic::Status>),
    /// The hub sent what the protocol does not allow. Nothing of it was used.
    #[error("the hub broke the protocol")]
    Protocol(#[from] skerry_sync::ProtocolError),
    /// The hub and this node have no version of the protocol in common; the source says whom to upgrade.
    #[error("the hub and this node do not understand each other")]
    Version(#[from] skerry_sync::VersionError),
    /// The hub sent a message where another was due.
    #[error("the hub sent {got} in place of {expected}")]
    Unexpected {
        /// What came.
        got: &'static str,
        /// What was due.
        expected: &'static str,
    },
    /// A newer session of this node exists; the next one will be newer still.
    #[error("session {newest} of this node is newer")]
    Stale {
        /// The newest session that the cloud knows.
        newest: u64,
    },
    /// The store failed; the process must end.
    #[error("the store failed")]
    Store(#[from] skerry_store::StoreError),
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        Self::Stream(Box::new(status))
    }
}
