//! Why a stream to edgehub ended. Only logged: the stream is opened again.

/// See the module documentation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// EdgeHub refused something, or is not there.
    #[error("edgehub: {0}")]
    Hub(String),
    /// The service that follows has ended.
    #[error("the service ended")]
    Service,
}

pub(crate) fn status(status: tonic::Status) -> Error {
    Error::Hub(format!("{:?}: {}", status.code(), status.message()))
}

pub(crate) fn protocol(error: skerry_sync::ProtocolError) -> Error {
    Error::Hub(error.to_string())
}
