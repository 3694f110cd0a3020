//! One header of the first request of a connection, from bytes that are only looked at.
//!
//! HTTP/1 only: headers of HTTP/2 are compressed over the whole connection. Whoever speaks something else is
//! recognised by the first bytes, so no connection waits for a header that cannot come.

/// Most bytes of a request that are looked at; what servers usually take for all headers.
pub const MAX_PEEK: usize = 8192;
/// Most headers of a request that are looked at, as hyper has it.
const MAX_HEADERS: usize = 100;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Peeked<'a> {
    /// The header's value, without spaces around it.
    Value(&'a [u8]),
    /// There is none, or this is no HTTP/1.
    Absent,
    /// More bytes may tell.
    Incomplete,
}

/// Looks for a header; `name` is in lower case.
pub(super) fn header<'a>(bytes: &'a [u8], name: &str) -> Peeked<'a> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(bytes);
    if parsed.is_err() {
        return Peeked::Absent;
    }
    let whole = parsed.is_ok_and(|status| status.is_complete());
    // Of a request whose headers have not all come, those that have are there.
    let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    match found {
        Some(header) => Peeked::Value(header.value),
        _ if whole || bytes.len() >= MAX_PEEK => Peeked::Absent,
        _ => Peeked::Incomplete,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_is_found_as_soon_as_it_is_there() {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent:  curl/8 \r\nAccept: */*\r\n\r\nuser-agent: body";
        assert_eq!(header(request, "user-agent"), Peeked::Value(b"curl/8"));
        assert_eq!(header(request, "x-none"), Peeked::Absent);
        assert_eq!(header(b"", "host"), Peeked::Incomplete);
        assert_eq!(header(b"GET / HTTP/1.1\r\nHos", "host"), Peeked::Incomplete);
        assert_eq!(header(b"GET / HTTP/1.1\r\nHost: a\r\n", "user-agent"), Peeked::Incomplete);
    }

    #[test]
    fn what_is_no_http_1_is_not_waited_for() {
        for bytes in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"\x16\x03\x01\x02", b"SSH-2.0-OpenSSH\r\n", b"\0\0"] {
            assert_eq!(header(bytes, "host"), Peeked::Absent, "{bytes:?}");
        }
        let mut endless = b"GET / HTTP/1.1\r\nX: ".to_vec();
        endless.resize(MAX_PEEK, b'a');
        assert_eq!(header(&endless, "host"), Peeked::Absent);
        let many = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(header(many.as_bytes(), "host"), Peeked::Absent);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            header(&bytes, "host");
            header(&[b"GET / HTTP/1.1\r\n".as_slice(), &bytes].concat(), "host");
        }
    }
}
