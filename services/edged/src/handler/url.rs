//! The URL of an HTTP action, and where a redirect leads. Pure.

use std::fmt;

use http::Uri;
use http::uri::PathAndQuery;

use super::host_port;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// `None`: not one that is spoken here.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "" | "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: Scheme,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Begins with a slash and has the query.
    pub(super) path: PathAndQuery,
    /// As it goes into the `Host` header.
    pub(super) authority: String,
}

impl Url {
    /// The error is what users see.
    pub(super) fn new(scheme: Scheme, host: &str, port: u16, path: &str) -> Result<Self, String> {
        let slash = if path.starts_with('/') { "" } else { "/" };
        let path = parse_path(&format!("{slash}{path}"))?;
        Ok(Self { scheme, host: host.to_owned(), port, path, authority: host_port(host, port) })
    }

    /// Where a `Location` leads, from here. `None`: nowhere that could be asked.
    pub(super) fn join(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next().unwrap_or_default();
        if let Some((scheme, rest)) = location.split_once("://").filter(|(s, _)| !s.contains(['/', '?'])) {
            return Self::absolute(Scheme::parse(scheme)?, rest);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::absolute(self.scheme, rest);
        }
        let path = match location {
            "" => self.path.as_str().to_owned(),
            absolute if absolute.starts_with('/') => absolute.to_owned(),
            query if query.starts_with('?') => format!("{}{query}", self.path.path()),
            relative => {
                let directory = self.path.path().rsplit_once('/').map(|(before, _)| before).unwrap_or_default();
                format!("{directory}/{relative}")
            }
        };
        let path = parse_path(&without_dots(&path)).ok()?;
        Some(Self { path, ..self.clone() })
    }

    /// What follows `://`.
    fn absolute(scheme: Scheme, rest: &str) -> Option<Self> {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        // Names and passwords before the host are nothing that a probe passes on.
        let authority = authority.rsplit('@').next()?;
        let uri: Uri = authority.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(scheme.default_port());
        let slash = if path.starts_with('/') { "" } else { "/" };
        let path = parse_path(&without_dots(&format!("{slash}{path}"))).ok()?;
        Some(Self { scheme, host, port, path, authority: authority.to_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// What may not stand in a request line is escaped; a fragment is not sent.
fn parse_path(path: &str) -> Result<PathAndQuery, String> {
    use std::fmt::Write as _;
    let path = path.split('#').next().unwrap_or_default();
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped.parse().map_err(|_| format!("parse {path:?}: invalid path"))
}

/// Removes `.` and `..` from the path before the query.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." => {}
            ".." => drop(kept.pop()),
            other => {
                kept.push(other);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    let mut clean = format!("/{}", kept.join("/"));
    if let Some(query) = query {
        clean.push('?');
        clean.push_str(query);
    }
    clean
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_path_is_sent_as_it_is_meant() {
        let url = |path| Url::new(Scheme::Http, "10.0.0.1", 8080, path).unwrap().to_string();
        assert_eq!(url(""), "http://10.0.0.1:8080/");
        assert_eq!(url("healthz"), "http://10.0.0.1:8080/healthz");
        assert_eq!(url("/a?b=c&d=%20#e"), "http://10.0.0.1:8080/a?b=c&d=%20");
        assert_eq!(url("/a b/é\r\nX: y"), "http://10.0.0.1:8080/a%20b/%C3%A9%0D%0AX:%20y");
        let six = Url::new(Scheme::Https, "fd00::1", 443, "/").unwrap();
        assert_eq!((six.to_string().as_str(), six.host.as_str()), ("https://[fd00::1]:443/", "fd00::1"));
    }

    #[test]
    fn a_redirect_leads_where_a_browser_would_go() {
        let from = Url::new(Scheme::Http, "10.0.0.1", 8080, "/a/b?q").unwrap();
        let to = |location| from.join(location).map(|u| u.to_string());
        for (location, expected) in [
            ("/c", "http://10.0.0.1:8080/c"),
            ("c", "http://10.0.0.1:8080/a/c"),
            ("../c?x=../y", "http://10.0.0.1:8080/c?x=../y"),
            ("../../../..", "http://10.0.0.1:8080/"),
            (".", "http://10.0.0.1:8080/a/"),
            ("?x", "http://10.0.0.1:8080/a/b?x"),
            ("", "http://10.0.0.1:8080/a/b?q"),
            ("//other/x", "http://other/x"),
            ("https://10.0.0.1", "https://10.0.0.1/"),
            ("https://u:p@[fd00::2]:8443?x", "https://[fd00::2]:8443/?x"),
            ("/go?to=http://x/", "http://10.0.0.1:8080/go?to=http://x/"),
        ] {
            assert_eq!(to(location).as_deref(), Some(expected), "{location}");
        }
        assert_eq!(from.join("https://10.0.0.1").unwrap().port, 443);
        assert_eq!(from.join("https://[fd00::2]:8443").unwrap().host, "fd00::2");
        for nowhere in ["ftp://10.0.0.1/", "http://", "http://a:b:c/"] {
            assert_eq!(to(nowhere), None, "{nowhere}");
        }
    }
}
