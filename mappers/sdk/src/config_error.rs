//! What can be wrong with the configuration of a device. Each text names the key and says what to do.

/// A configuration that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nothing reads this key.
    #[error("unknown key `{key}`; known here: {known}")]
    Unknown {
        /// As the user wrote it.
        key: String,
        /// All keys that would have been read, separated by commas.
        known: String,
    },
    /// A key that must be there.
    #[error("`{key}` is missing: {fix}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What to write.
        fix: &'static str,
    },
    /// A value that the key cannot have.
    #[error("`{key}`: {problem}")]
    Invalid {
        /// The key.
        key: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

impl ConfigError {
    /// A value that `key` cannot have.
    pub fn invalid(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { key: key.into(), problem: problem.into() }
    }
}
