//! Deadlines of calls: the `grpc-timeout` header and the helper that sets it.
//!
//! A unary call without a deadline gets its channel's default, and the server never works longer on
//! one than its own limit, so no call can wait for ever.

use std::time::Duration;

use http::HeaderMap;
use tonic::{IntoRequest, Request, Status};

const HEADER: &str = "grpc-timeout";

/// Digits that the protocol allows in the header.
const MAX_DIGITS: usize = 8;

/// A request that must be answered within `after`, by the server's and by the client's clock.
pub fn deadline<T>(request: impl IntoRequest<T>, after: Duration) -> Request<T> {
    let mut request = request.into_request();
    request.set_timeout(after);
    request
}

/// The deadline that a request carries.
///
/// # Errors
/// `INVALID_ARGUMENT` for a header that is not of the protocol's form.
pub(crate) fn requested(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    value.to_str().ok().and_then(parse).map(Some).ok_or_else(|| Status::invalid_argument("malformed grpc-timeout"))
}

fn parse(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        // At most 10^8 hours, which fits.
        'H' => Duration::from_secs(amount.saturating_mul(3600)),
        'M' => Duration::from_secs(amount.saturating_mul(60)),
        'S' => Duration::from_secs(amount),
        'm' => Duration::from_millis(amount),
        'u' => Duration::from_micros(amount),
        'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The header's value for a deadline.
pub(crate) fn header_value(after: Duration) -> http::HeaderValue {
    let millis = after.as_millis();
    let text =
        if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", after.as_secs().min(99_999_999)) };
    // Digits and a letter are always a header value.
    http::HeaderValue::from_str(&text).unwrap_or(http::HeaderValue::from_static("60S"))
}

pub(crate) fn header_name() -> http::HeaderName {
    http::HeaderName::from_static(HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_protocols_form_is_taken() {
        assert_eq!(parse("0S"), Some(Duration::ZERO));
        assert_eq!(parse("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse("1500m"), Some(Duration::from_millis(1500)));
        for bad in ["", "S", "5", "5s", "-5S", "+5S", "5.0S", "123456789S", "5 S", "١S", "5SS"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(header_value(Duration::from_secs(10)), "10000m");
        assert_eq!(header_value(Duration::from_secs(1_000_000)), "1000000S");
    }
}
