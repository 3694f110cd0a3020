//! Authentication: the certificate of the connection, or a bearer token.
//!
//! Called once per request. Invariants: an identity in the extensions (certificate, in-process) wins over
//! a token; a token that does not verify is a 401, never anonymous.
//! Limits: [`MAX_TOKEN`]. Stateless.

use super::{Tokens, User};
use crate::storage::Storage;
use http::{Extensions, HeaderMap, header};
use skerry_apimachinery::ApiError;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest bearer token: ours are about 1 KB.
const MAX_TOKEN: usize = 8192;
/// Most groups of one certificate.
const MAX_GROUPS: usize = 64;

/// The caller, or `None` when there are no credentials.
pub(crate) fn authenticate(
    extensions: &Extensions,
    headers: &HeaderMap,
    tokens: &Tokens,
    storage: &Storage,
    now: jiff::Timestamp,
) -> Result<Option<User>, ApiError> {
    if let Some(user) = extensions.get::<User>() {
        return Ok(Some(user.clone()));
    }
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let refused = || ApiError::Unauthorized("Unauthorized".into());
    let text = value.to_str().map_err(|_| refused())?;
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && token.len() <= MAX_TOKEN => token.trim(),
        _ => return Err(refused()),
    };
    let claims = tokens.verify(token, storage, now, None).map_err(|error| {
        tracing::debug!(%error, "bearer token refused");
        refused()
    })?;
    Ok(Some(claims.user()))
}

/// The identity in a client certificate that the TLS layer has verified: CN is the user, O are the groups.
pub(crate) fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups: Vec<&str> = subject.iter_organization().take(MAX_GROUPS).filter_map(|o| o.as_str().ok()).collect();
    Some(User::new(&name, &groups))
}
