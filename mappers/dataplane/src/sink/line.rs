//! InfluxDB's line protocol, which TDengine takes too: `measurement,tag=value field=value time`.
//!
//! Own code, since what there is as a crate brings a client and its HTTP library. Names come checked from
//! [`crate::route`]: not empty, without control characters and without a backslash at their end. Only text in
//! quotes comes from devices, and it can hold anything.

use std::fmt::Write as _;
use std::time::Duration;

use http::HeaderValue;

use super::client::{Client, post};
use super::{Sent, Trouble};
use crate::record::{Record, Typed};
use crate::tls::Tls;

/// How long a write may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Writes lines to one address over HTTP.
pub(super) struct Writer {
    url: String,
    authorization: Option<HeaderValue>,
    client: Client,
}

impl Writer {
    /// With TLS only if it is `secure`.
    pub(super) fn new(url: String, authorization: Option<HeaderValue>, tls: &Tls, secure: bool) -> Self {
        Self { url, authorization, client: Client::new(tls, secure) }
    }

    /// Sends the lines of values, which are taken together or not at all.
    pub(super) async fn send(&mut self, records: &[Record], lines: String) -> Sent {
        let request = post(&self.url, "text/plain; charset=utf-8", self.authorization.as_ref(), lines);
        let sent = match request {
            Ok(request) => self.client.send(request, TIMEOUT).await,
            Err(trouble) => Err(trouble),
        };
        match sent {
            Ok(_) => Sent::all(records),
            // The bucket or database is not there yet, or its name is wrong: that can be mended.
            Err(Trouble::Refused(words)) if words.contains("404") => Sent::away(0, words),
            Err(trouble) => Sent { taken: 0, trouble: Some(trouble) },
        }
    }
}

/// Begins a line.
pub(super) fn measurement(line: &mut String, name: &str) {
    escape(line, name, &[',', ' ']);
}

/// Adds a tag.
pub(super) fn tag(line: &mut String, key: &str, value: &str) {
    line.push(',');
    escape(line, key, &[',', '=', ' ']);
    line.push('=');
    escape(line, value, &[',', '=', ' ']);
}

/// Adds the first field, or another one.
pub(super) fn field(line: &mut String, first: bool, key: &str, value: &Typed<'_>) {
    line.push(if first { ' ' } else { ',' });
    escape(line, key, &[',', '=', ' ']);
    line.push('=');
    // Writing to a String does not fail.
    let _ = match value {
        Typed::Int(value) => write!(line, "{value}i"),
        Typed::Uint(value) => write!(line, "{value}u"),
        Typed::Float(value) => write!(line, "{value}"),
        Typed::Bool(value) => write!(line, "{value}"),
        Typed::Text(value) => {
            line.push('"');
            escape(line, value, &['"', '\\']);
            line.push('"');
            Ok(())
        }
    };
}

/// Ends the line.
pub(super) fn end(line: &mut String, unix_ms: i64) {
    let _ = writeln!(line, " {unix_ms}");
}

fn escape(line: &mut String, text: &str, special: &[char]) {
    for c in text.chars() {
        if special.contains(&c) {
            line.push('\\');
        }
        line.push(c);
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
