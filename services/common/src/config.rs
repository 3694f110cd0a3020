//! Configuration files: YAML into a typed struct.
//!
//! The struct decides what is allowed (`#[serde(deny_unknown_fields)]` everywhere); this module
//! bounds the input and says which file was wrong and where.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// A configuration file is written by people; anything larger is a mistake.
const MAX_BYTES: u64 = 1 << 20;

/// Why a configuration was refused. Exit code 64 for all of them.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or not readable: check the path and its permissions.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is far too large to be a configuration: check the path.
    #[error("the configuration {} is larger than {MAX_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A wrong key, type or syntax; the message has the line.
    #[error("the configuration {place} is wrong: {message}")]
    Invalid {
        /// The file, or another place that the text came from.
        place: String,
        /// What is wrong, with its line.
        message: String,
    },
}

/// Reads a configuration file.
///
/// # Errors
/// When it cannot be read, is too large, or does not fit the type.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    parse(&text, &path.display().to_string())
}

/// Reads a configuration from text; `place` names it in errors.
///
/// # Errors
/// When it does not fit the type.
pub fn parse<T: DeserializeOwned>(text: &str, place: &str) -> Result<T, ConfigError> {
    serde_saphyr::from_str(text).map_err(|e| ConfigError::Invalid { place: place.to_owned(), message: e.to_string() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        listen: String,
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name() {
        let error = parse::<Example>("listen: a\nlisten_port: 1\n", "hub.yaml").unwrap_err();
        assert!(error.to_string().contains("listen_port"), "{error}");
        assert_eq!(parse::<Example>("listen: a\n", "hub.yaml").unwrap().listen, "a");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Example>(Path::new("/nonexistent/hub.yaml")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/hub.yaml"));
    }
}
