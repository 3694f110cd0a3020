//! Why there is no session with a server, in words that say what to do.

use std::path::PathBuf;

use opcua::crypto::SecurityPolicy;
use opcua::types::{MessageSecurityMode, StatusCode};
use skerry_mapper_sdk::Fault;

use crate::config::policy_name;

/// Why a session could not be opened. All of it may change without the Device being changed, so it is tried
/// again, less and less often.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// A file that the Device names, or one of the mapper's own.
    #[error("cannot use {}: {problem}", .path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it; never its content.
        problem: String,
    },
    /// The mapper's own certificate cannot be made or kept.
    #[error("cannot make the mapper's certificate: {0}")]
    Own(String),
    /// The server does not say what it offers.
    #[error("the server cannot be asked for its endpoints: {0}")]
    Discovery(String),
    /// It offers something else.
    #[error("the server has no endpoint with securityPolicy {} and securityMode {mode}; it has: {offered}", policy_name(*policy))]
    NoEndpoint {
        /// What the Device says.
        policy: SecurityPolicy,
        /// What the Device says.
        mode: MessageSecurityMode,
        /// What the server says.
        offered: String,
    },
    /// It wants other users.
    #[error("the server takes no {wanted} at this endpoint; it takes: {offered}")]
    NoToken {
        /// What the Device says.
        wanted: &'static str,
        /// What the server says.
        offered: String,
    },
    /// Its certificate is not one that is trusted.
    #[error("{0}")]
    Untrusted(String),
    /// The server does not know the user.
    #[error("{0}")]
    Denied(String),
    /// The server said no, or the line broke meanwhile.
    #[error("{0}")]
    Refused(String),
}

impl From<OpenError> for Fault {
    fn from(error: OpenError) -> Self {
        Self::lost(&error)
    }
}

/// An error of the library without saying its cause twice.
pub(crate) fn words(error: &opcua::types::Error) -> String {
    error.to_string()
}

/// A status and what the specification says of it.
pub(crate) fn status(status: StatusCode) -> String {
    format!("{status} ({})", status.sub_code().description().trim())
}

/// What an error of a request means for the device.
pub(crate) fn fault(error: &opcua::types::Error) -> Fault {
    match error.status() {
        // The server is well and has its reasons.
        code @ (StatusCode::BadUserAccessDenied
        | StatusCode::BadServiceUnsupported
        | StatusCode::BadNotSupported
        | StatusCode::BadNothingToDo
        | StatusCode::BadTooManySubscriptions
        | StatusCode::BadTooManyMonitoredItems
        | StatusCode::BadTooManyOperations
        | StatusCode::BadOutOfMemory
        | StatusCode::BadResourceUnavailable) => Fault::Refused(status(code)),
        // The session is of no more use, or nobody knows.
        _ => Fault::Lost(words(error)),
    }
}

/// Whether a request was too large, or its answer would have been.
pub(crate) fn too_large(status: StatusCode) -> bool {
    [
        StatusCode::BadTooManyOperations,
        StatusCode::BadRequestTooLarge,
        StatusCode::BadResponseTooLarge,
        StatusCode::BadEncodingLimitsExceeded,
        StatusCode::BadTcpMessageTooLarge,
    ]
    .contains(&status)
}
