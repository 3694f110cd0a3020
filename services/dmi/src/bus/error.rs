//! Why a connection to the broker has ended, or did not begin. [`super::client`] logs it and tries again.

/// See the module documentation.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// A file of the configuration is missing or is not what it should be; it is read again for the next connection.
    #[error("the file {path} for the broker cannot be used")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The certificates do not fit together.
    #[error("the certificates for the broker cannot be used")]
    Tls(#[source] rustls::Error),
    /// The configuration cannot work; checked at the start.
    #[error("{0}")]
    Options(String),
    /// The network, TLS or the broker ended it: the cause says which. A broker that does not know the version of
    /// the protocol is told with `mqtt.version`.
    #[error("the connection to the broker ended")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its access list does not let the node hear what it must hear.
    #[error("the broker refuses the subscription to {0}")]
    Subscription(String),
    /// It took the connection and then said nothing.
    #[error("the broker does not answer")]
    Silent,
    /// The other half of this connection has ended, and knows why.
    #[error("the connection to the broker is closed")]
    Closed,
}
