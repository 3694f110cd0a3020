//! Why the hub cannot start or go on.

/// Errors of the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The configuration contradicts itself; the message says where.
    #[error("the hub's configuration is wrong: {0}")]
    Config(String),
    /// The hub's own certificate cannot be used.
    #[error("the hub's credentials cannot be used")]
    Credentials(#[source] skerry_identity::IdentityError),
    /// The port cannot be bound, or serving failed for good.
    #[error("the hub cannot serve")]
    Serve(#[source] skerry_rpc::BindError),
    /// The address of a source cannot be used.
    #[error("the source {name} cannot be reached")]
    Source {
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        source: skerry_rpc::ConnectError,
    },
    /// There is no certificate in the credentials folder that can be used; the log names those that cannot. It must be
    /// issued first.
    #[error("there are no usable credentials in {0}")]
    NoCredentials(String),
    /// A task of the hub ended although nobody stopped it.
    #[error("the hub's {0} task ended")]
    TaskEnded(&'static str),
}
