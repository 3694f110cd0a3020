//! What a user is told when a command fails: one line with the cause, and what to do.
//!
//! Every command returns [`Failure`] up to `main`, which prints it and exits with its code. A
//! failure without a cure is allowed only where the cause already says what to do.

use std::error::Error;
use std::fmt;

use skerry_common::{chain, exit};

/// Result of a command.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What could not be done, as a sentence without full stop.
    what: String,
    /// Why.
    cause: Option<String>,
    /// What the user can do about it.
    cure: Option<String>,
    /// Exit code of the process, one of [`skerry_common::exit`].
    pub(crate) code: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), cause: None, cure: None, code: exit::FAILED }
    }

    /// A mistake in the command line or a configuration: exit code 64.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(what).code(exit::USAGE)
    }

    /// Adds why, with all causes below it.
    pub(crate) fn because(mut self, cause: &(dyn Error + 'static)) -> Self {
        self.cause = Some(chain(cause));
        self
    }

    /// Adds why, as text.
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds what to do.
    pub(crate) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// What and why, on one line, for the cause of another failure.
    pub(crate) fn line(&self) -> String {
        self.cause.as_ref().map_or_else(|| self.what.clone(), |cause| format!("{}: {cause}", self.what))
    }

    /// Sets the exit code.
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        if let Some(cure) = &self.cure {
            write!(f, "\n  try: {cure}")?;
        }
        Ok(())
    }
}

/// Gives an error its sentence.
pub(crate) trait Context<T> {
    /// The error becomes the cause of a [`Failure`].
    fn or_fail(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Error + 'static> Context<T> for std::result::Result<T, E> {
    fn or_fail(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::new(what()).because(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_as_what_why_and_cure() {
        let error = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let failure = Failure::new("cannot read the token").because(&error).cure("skerry token create");
        assert_eq!(failure.to_string(), "error: cannot read the token: no such file\n  try: skerry token create");
        assert_eq!(failure.code, exit::FAILED);
        assert_eq!(Failure::usage("x").code, exit::USAGE);
    }
}
