//! Who calls, and whether they may.
//!
//! Called once per request. Our own services [`SERVICES`] prove themselves by certificate and need no
//! further question, so that they work while the cloud is away; nodes and other services may nothing.
//! Users come with a certificate of the users' CA or with a bearer token; about them the cloud decides
//! ([`Reviews`]). Doubt means refuse.

use http::{HeaderMap, StatusCode, header};
use skerry_identity::{Identity, NodeCaller};

use super::find::Refusal;
use super::reviews::{Caller, MAX_TOKEN, Reviews, Verdict};

/// The services that may use the whole API: they answer for their users.
const SERVICES: [&str; 2] = ["apiserver", "cloudstream"];

/// Decides about one request.
pub(super) async fn check(
    reviews: &Reviews,
    caller: Option<&NodeCaller>,
    headers: &HeaderMap,
    verb: &str,
    subresource: &str,
) -> Result<(), Refusal> {
    let asked = match caller {
        Some(NodeCaller::Peer(Identity::Service(name))) if SERVICES.contains(&name.as_str()) => return Ok(()),
        Some(NodeCaller::Peer(peer)) => return Err(forbidden(&peer.to_string(), verb, subresource)),
        Some(NodeCaller::User { name, groups }) => Caller::User { name: name.clone(), groups: groups.clone() },
        None => Caller::Token(bearer(headers).ok_or_else(unauthorized)?),
    };
    match reviews.ask(asked, verb, subresource).await {
        Verdict::Allowed => Ok(()),
        Verdict::Denied(user) => Err(forbidden(&user, verb, subresource)),
        Verdict::Nobody => Err(unauthorized()),
        Verdict::Unknown => {
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the cloud cannot be asked who may do this"))
        }
    }
}

/// The token of a request, if it can be one.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let plausible = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_TOKEN;
    plausible.then(|| token.to_owned())
}

fn unauthorized() -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized")
}

fn forbidden(user: &str, verb: &str, subresource: &str) -> Refusal {
    let text = format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])\n");
    Refusal::new(StatusCode::FORBIDDEN, text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            bearer(&headers)
        };
        assert_eq!(of("Bearer abc"), Some("abc".to_owned()));
        assert_eq!(of("bearer abc "), Some("abc".to_owned()));
        for wrong in ["Basic abc", "Bearer", "Bearer ", &format!("Bearer {}", "x".repeat(MAX_TOKEN + 1))] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
