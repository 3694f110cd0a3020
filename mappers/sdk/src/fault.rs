//! What can go wrong between a driver and a device, and what the SDK does about it.

use std::error::Error;
use std::fmt::Write as _;

/// What a driver could not do. The text is for people: it ends up in the DeviceStatus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The Device is described wrongly. It is not tried again until the description changes.
    #[error("configuration: {0}")]
    Config(String),
    /// The line is broken. All its devices are offline; it is opened anew, less and less often.
    #[error("connection lost: {0}")]
    Lost(String),
    /// This device does not answer, the line is well. The device is asked less and less often, the others of
    /// the line go on as before.
    #[error("no answer: {0}")]
    Silent(String),
    /// The device answered, and its answer was no.
    #[error("the device refused: {0}")]
    Refused(String),
}

impl Fault {
    /// [`Fault::Config`] of an error and its causes.
    pub fn config(error: &(dyn Error + 'static)) -> Self {
        Self::Config(chain(error))
    }

    /// [`Fault::Lost`] of an error and its causes.
    pub fn lost(error: &(dyn Error + 'static)) -> Self {
        Self::Lost(chain(error))
    }

    /// [`Fault::Silent`] of an error and its causes.
    pub fn silent(error: &(dyn Error + 'static)) -> Self {
        Self::Silent(chain(error))
    }

    /// [`Fault::Refused`] of an error and its causes.
    pub fn refused(error: &(dyn Error + 'static)) -> Self {
        Self::Refused(chain(error))
    }
}

/// An error and its causes as one line.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the line")]
    struct Open(#[source] std::io::Error);

    #[test]
    fn causes_are_told() {
        let error = Open(std::io::Error::other("no such port"));
        assert_eq!(Fault::lost(&error).to_string(), "connection lost: cannot open the line: no such port");
    }
}
