//! Which of a server's endpoints is taken, and as whom.
//!
//! Anybody on the line may have written what a server offers, because it is asked for without security. So the
//! policy and the mode are those of the Device and never what is offered, a password is not encrypted with less
//! than it, and the certificate is looked at before it is used.

use std::time::Duration;

use opcua::client::transport::{TcpConnector, TransportPollResult};
use opcua::client::{ClientConfig, SessionBuilder};
use opcua::core::ResponseMessage;
use opcua::core::sync::RwLock;
use opcua::crypto::{CertificateStore, SecurityPolicy};
use opcua::types::{
    DateTime, EndpointDescription, GetEndpointsRequest, MessageSecurityMode, RequestHeader, UserTokenPolicy,
    UserTokenType,
};
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use crate::config::{ProtocolConfig, User, policy_name};
use crate::error::{OpenError, status, words};

/// Policies that are not withdrawn.
const SAFE: [SecurityPolicy; 3] =
    [SecurityPolicy::Basic256Sha256, SecurityPolicy::Aes128Sha256RsaOaep, SecurityPolicy::Aes256Sha256RsaPss];
/// Endpoints or users that are shown of a server.
const MAX_SHOWN: usize = 12;
/// Characters of each.
const MAX_NAME: usize = 64;

/// Asks a server for its endpoints, over a connection of its own.
pub(crate) async fn discover(
    config: &ProtocolConfig,
    client: &ClientConfig,
) -> Result<Vec<EndpointDescription>, OpenError> {
    let failed = |error: &opcua::types::Error| OpenError::Discovery(words(error));
    let asked = async {
        let builder = SessionBuilder::new(client).connect_to_endpoint_directly(config.url.as_str());
        // Without security there is nothing to look up in a folder.
        let store = std::sync::Arc::new(RwLock::new(CertificateStore::new(std::path::Path::new("/nonexistent"))));
        let channel = builder.and_then(|builder| builder.build_channel(store)).map_err(|error| failed(&error))?;
        let connector = TcpConnector::new(&config.url).map_err(|error| failed(&error))?;
        let mut line = channel.connect_no_retry(&connector).await.map_err(|error| failed(&error))?;
        let request_header = RequestHeader {
            timestamp: DateTime::now(),
            request_handle: channel.request_handle(),
            timeout_hint: u32::try_from(config.timeout.as_millis()).unwrap_or(u32::MAX),
            ..RequestHeader::default()
        };
        let endpoint_url = config.url.as_str().into();
        let request = GetEndpointsRequest { request_header, endpoint_url, locale_ids: None, profile_uris: None };
        let mut answer = std::pin::pin!(channel.send(request, config.timeout));
        loop {
            tokio::select! {
                answer = &mut answer => return answer.map_err(|error| failed(&error)),
                polled = line.poll() => if let TransportPollResult::Closed(code) = polled {
                    return Err(OpenError::Discovery(status(code)));
                },
            }
        }
    };
    let late = |_| OpenError::Discovery(format!("no answer within {:?}", config.timeout));
    match tokio::time::timeout(longest(config), asked.with_subscriber(NoSubscriber::new())).await.map_err(late)?? {
        ResponseMessage::GetEndpoints(response) => Ok(response.endpoints.unwrap_or_default()),
        ResponseMessage::ServiceFault(fault) => Err(OpenError::Discovery(status(fault.response_header.service_result))),
        _ => Err(OpenError::Discovery("it answered something else".to_owned())),
    }
}

/// How long one part of opening a session may take.
pub(crate) fn longest(config: &ProtocolConfig) -> Duration {
    config.timeout
}

/// The endpoint that the Device describes, with the one kind of user that it names.
pub(crate) fn choose(
    offered: Vec<EndpointDescription>,
    config: &ProtocolConfig,
) -> Result<EndpointDescription, OpenError> {
    let security = &config.security;
    let names = summary(offered.iter().map(|endpoint| {
        let uri = endpoint.security_policy_uri.as_ref();
        let policy = known(uri).map_or_else(|| last(uri), |policy| policy_name(policy).to_owned());
        format!("{policy}/{}", endpoint.security_mode)
    }));
    let fits = |endpoint: &EndpointDescription| {
        endpoint.security_policy_uri.as_ref() == security.policy.to_uri() && endpoint.security_mode == security.mode
    };
    // An endpoint of another transport can have the same policy.
    let mut fitting: Vec<_> = offered
        .into_iter()
        .filter(|endpoint| fits(endpoint) && endpoint.endpoint_url.as_ref().starts_with("opc.tcp"))
        .collect();
    let chosen = fitting.iter().position(|endpoint| token(endpoint, config).is_some()).unwrap_or_default();
    if fitting.is_empty() {
        let (policy, mode) = (security.policy, security.mode);
        return Err(OpenError::NoEndpoint { policy, mode, offered: names });
    }
    let mut endpoint = fitting.swap_remove(chosen);
    let Some(token) = token(&endpoint, config) else {
        let tokens = endpoint.user_identity_tokens.unwrap_or_default();
        let tokens =
            tokens.iter().map(|token| format!("{:?} {}", token.token_type, last(token.security_policy_uri.as_ref())));
        return Err(OpenError::NoToken { wanted: wanted(&config.user).1, offered: summary(tokens) });
    };
    endpoint.user_identity_tokens = Some(vec![token]);
    // Servers name themselves as they see themselves; the Device says how they are reached from here.
    endpoint.endpoint_url = config.url.as_str().into();
    Ok(endpoint)
}

fn wanted(user: &User) -> (UserTokenType, &'static str) {
    match user {
        User::Anonymous => (UserTokenType::Anonymous, "anonymous users"),
        User::Password { .. } => (UserTokenType::UserName, "user name and password with a policy that is safe"),
        User::Certificate(_) => (UserTokenType::Certificate, "users' certificates with a policy that is safe"),
    }
}

/// The user token of an endpoint that is as safe as the Device wants it.
fn token(endpoint: &EndpointDescription, config: &ProtocolConfig) -> Option<UserTokenPolicy> {
    let (kind, _) = wanted(&config.user);
    let tokens = endpoint.user_identity_tokens.iter().flatten().filter(|token| token.token_type == kind);
    tokens.cloned().find_map(|mut token| {
        let uri = token.security_policy_uri.as_ref();
        // An empty policy is the endpoint's.
        let own = if uri.is_empty() { Some(config.security.policy) } else { known(uri) };
        let safe = own.is_some_and(|policy| SAFE.contains(&policy));
        let open = own == Some(SecurityPolicy::None);
        let good = match config.user {
            User::Anonymous => true,
            User::Certificate(_) => safe,
            User::Password { .. } => match config.security.mode {
                MessageSecurityMode::SignAndEncrypt => safe || open,
                MessageSecurityMode::Sign => safe,
                // The Device says that it may be seen.
                _ => open || (safe && !endpoint.server_certificate.is_null_or_empty()),
            },
        };
        if let (User::Certificate(_), Some(policy)) = (&config.user, own) {
            // The library takes an empty one for none.
            token.security_policy_uri = policy.to_uri().into();
        }
        good.then_some(token)
    })
}

fn known(uri: &str) -> Option<SecurityPolicy> {
    SAFE.into_iter().chain([SecurityPolicy::None]).find(|policy| policy.to_uri() == uri)
}

/// The part of a URI that people know.
fn last(uri: &str) -> String {
    let name = uri.rsplit(['#', '/']).next().unwrap_or_default();
    name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect()
}

fn summary(names: impl Iterator<Item = String>) -> String {
    let names: std::collections::BTreeSet<String> = names.take(MAX_SHOWN).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.into_iter().collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
