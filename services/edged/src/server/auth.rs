//! Who calls, and whether they may.
//!
//! Called once per request. Our own services [`SERVICES`] prove themselves by certificate and need no
//! further question, so that they work while the cloud is away; nodes and other services may nothing.
//! Doubt means refuse.

use http::{HeaderMap, StatusCode};
use skerry_identity::{Identity, NodeCaller};

use super::find::Refusal;

/// The services that may use the whole API: they answer for their users.
const SERVICES: [&str; 2] = ["apiserver", "cloudstream"];

/// Decides about one request.
pub(super) async fn check(
    caller: Option<&NodeCaller>,
    _headers: &HeaderMap,
    verb: &str,
    subresource: &str,
) -> Result<(), Refusal> {
    match caller {
        Some(NodeCaller::Peer(Identity::Service(name))) if SERVICES.contains(&name.as_str()) => Ok(()),
        Some(NodeCaller::Peer(peer)) => Err(forbidden(&peer.to_string(), verb, subresource)),
        Some(NodeCaller::User { name, .. }) => Err(forbidden(name, verb, subresource)),
        None => Err(Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized")),
    }
}

fn forbidden(user: &str, verb: &str, subresource: &str) -> Refusal {
    let text = format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])\n");
    Refusal::new(StatusCode::FORBIDDEN, text)
}
