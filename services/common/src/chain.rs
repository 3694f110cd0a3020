//! Printing an error with its causes.
//!
//! Display of our errors never contains the cause; whoever shows an error to a person calls this.

use std::error::Error;
use std::fmt::Write as _;

/// The error and its causes, joined by `: `. A cause whose text the error repeats is left out, as
/// some libraries print their source themselves.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let part = next.to_string();
        if !text.ends_with(&part) {
            let _ = write!(text, ": {part}");
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the store")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_names_each_cause_once() {
        let error = Outer(std::io::Error::other("disk is full"));
        assert_eq!(chain(&error), "cannot open the store: disk is full");
    }
}
