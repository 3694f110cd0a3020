//! Finds the socket of the container runtime.
//!
//! Called once at start. A configured endpoint is taken as it is, also when nothing listens there
//! yet; otherwise the first of the usual places that is a socket wins.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Where containerd and CRI-O listen, in the order in which they are tried.
pub(crate) const USUAL: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/containerd/containerd.sock",
    "/var/run/crio/crio.sock",
];

/// The socket to use.
///
/// # Errors
/// When none is configured and none is there, or the configured one is not a local path.
pub(crate) fn socket(configured: Option<&str>) -> Result<PathBuf, Error> {
    match configured.filter(|c| !c.is_empty()) {
        Some(endpoint) => {
            let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
            if path.starts_with('/') {
                Ok(path.into())
            } else {
                Err(Error::Options(format!("the runtime endpoint {endpoint:?} is not the path of a unix socket")))
            }
        }
        None => USUAL
            .iter()
            .map(Path::new)
            .find(|p| fs::metadata(p).is_ok_and(|m| m.file_type().is_socket()))
            .map(Path::to_owned)
            .ok_or_else(|| Error::NoRuntime(USUAL.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_configured_endpoint_may_be_a_url_or_a_path() {
        assert_eq!(socket(Some("unix:///run/x.sock")).unwrap(), Path::new("/run/x.sock"));
        assert_eq!(socket(Some("/run/x.sock")).unwrap(), Path::new("/run/x.sock"));
        assert!(socket(Some("tcp://1.2.3.4:5")).is_err());
    }
}
