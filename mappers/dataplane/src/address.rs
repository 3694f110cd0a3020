//! Where a sink listens, as the many forms of a Device's fields have it: `host`, `host:port`, `scheme://host:port`.
//!
//! Credentials in an address are refused: it is shown in logs, and they belong into the environment.

use std::fmt;

use http::Uri;
use serde::{Deserialize, Serialize};

/// A host, a port, and whether the way there is TLS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What comes behind, of addresses that are URLs; without a slash at its end.
    pub(crate) path: String,
}

impl Address {
    /// Reads an address. `schemes` are those without and those with TLS, the first of which are assumed; the ports
    /// are the defaults of both.
    pub(crate) fn parse(text: &str, schemes: [&[&str]; 2], ports: [u16; 2]) -> Result<Self, String> {
        let text = text.trim();
        if text.contains('@') {
            return Err("credentials do not belong into an address: set them in the environment".to_owned());
        }
        if text.contains(['?', '#']) {
            return Err("an address has no query and no fragment".to_owned());
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let scheme = scheme.to_ascii_lowercase();
        let [plain, secure] = schemes;
        let tls = secure.contains(&scheme.as_str());
        if !tls && !scheme.is_empty() && !plain.contains(&scheme.as_str()) {
            let known = plain.iter().chain(secure).copied().collect::<Vec<_>>().join(", ");
            return Err(format!("{scheme:?} is none of {known}"));
        }
        // The standard forms are in the library; it only wants a scheme that it knows.
        let uri: Uri = format!("http://{rest}").parse().map_err(|_| format!("{rest:?} is not an address"))?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("the address has no host")?.to_owned();
        let [default, secured] = ports;
        // A port that is too large is none to the library.
        let port = match uri.authority().is_some_and(|authority| authority.as_str() != host) {
            true => uri.port_u16().filter(|port| *port != 0).ok_or("the port is not from 1 to 65535")?,
            false if tls => secured,
            false => default,
        };
        Ok(Self { tls, host, port, path: uri.path().trim_end_matches('/').to_owned() })
    }

    /// An address that is only a host and a port.
    pub(crate) fn without_path(self) -> Result<Self, String> {
        if self.path.is_empty() { Ok(self) } else { Err(format!("{:?} is more than a host and a port", self.path)) }
    }

    /// As the beginning of a URL of HTTP.
    pub(crate) fn url(&self) -> String {
        format!("{}://{self}", if self.tls { "https" } else { "http" })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.host, self.port, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTP: [&[&str]; 2] = [&["http"], &["https"]];

    #[test]
    fn addresses_of_all_forms_are_read() {
        let table = [
            ("example", "http://example:80"),
            ("example:8086", "http://example:8086"),
            ("http://127.0.0.1:8086/", "http://127.0.0.1:8086"),
            ("HTTPS://db.example", "https://db.example:443"),
            ("https://db.example/base/", "https://db.example:443/base"),
            ("http://[::1]:9", "http://[::1]:9"),
        ];
        for (text, expected) in table {
            assert_eq!(Address::parse(text, HTTP, [80, 443]).unwrap().url(), expected, "{text}");
        }
        assert!(Address::parse("a/b", HTTP, [80, 443]).unwrap().without_path().is_err());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let table =
            ["", "http://", "ftp://a", "http://u:secret@a", "a:0", "a:99999", "a b", "a?x=1", "\n", "http://a#\r"];
        for text in table {
            let error = Address::parse(text, HTTP, [80, 443]).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
