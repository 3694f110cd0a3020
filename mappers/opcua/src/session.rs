//! A session with a server: opened once, used until it ends, never repaired.
//!
//! [`open`] does what a session takes; a task then moves its messages. The task ends with the session, whatever
//! ends it, and the next request says so. Dropping the session drops the connection; the server forgets the
//! session after [`SESSION_TIMEOUT`]. The library's own logs are left out: in detail they have keys and messages,
//! and what went wrong is told by the errors.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use opcua::client::transport::Connector;
use opcua::client::{
    ClientBuilder, ClientConfig, IdentityToken, SessionBuilder, SessionEventLoop, SessionPollResult,
    SubscriptionActivity,
};
use opcua::core::sync::RwLock;
use opcua::crypto::{CertificateStore, X509Data};
use opcua::types::{DataValue, Error, ReadValueId, StatusCode, TimestampsToReturn, VariableId, Variant, WriteValue};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use crate::config::{ProtocolConfig, User};
use crate::denied::{Denied, Proof};
use crate::endpoint::{choose, discover, longest};
use crate::error::{OpenError, status};
use crate::own::{self, Own};
use crate::pki::{Pki, digest};

/// How long a server keeps a session that it does not hear of. Servers have few places.
const SESSION_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the session is used when nothing else uses it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Nodes in one request, where the server does not say less.
const MAX_NODES: usize = 1000;
/// Namespaces of a server, of which a handful is usual.
const MAX_NAMESPACES: usize = 1000;
/// Largest message: a thousand values of a few kilobytes. What is larger is asked for in parts.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Chunks of a message, which are 64 KiB and may be smaller.
const MAX_CHUNKS: usize = 512;
/// Longest text in a message. What is longer than a value may be is refused alone; what is beyond ends the session.
const MAX_STRING: usize = MAX_MESSAGE;
/// Elements of an array, which are only counted. What is beyond ends the session, so it is what a message can hold
/// of anything but single bytes.
const MAX_ARRAY: usize = MAX_MESSAGE / 4;

/// What servers say of a user that they do not know.
const TURNED_AWAY: [StatusCode; 4] = [
    StatusCode::BadIdentityTokenInvalid,
    StatusCode::BadIdentityTokenRejected,
    StatusCode::BadUserAccessDenied,
    StatusCode::BadUserSignatureInvalid,
];

/// A session that is open, or was.
pub(crate) struct Session {
    inner: Arc<opcua::client::Session>,
    task: JoinHandle<()>,
    state: watch::Receiver<State>,
    begun: Instant,
    /// Milliseconds since `begun` at which the server last answered for a subscription.
    published: Arc<AtomicU64>,
    /// Names of the server's namespaces.
    pub(crate) namespaces: Vec<String>,
    /// Nodes that one read may ask for.
    pub(crate) max_read: usize,
    /// Items that one request may add to a subscription.
    pub(crate) max_items: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Opening,
    Open,
    Ended(StatusCode),
}

/// Opens a session.
pub(crate) async fn open(pki: &Pki, denied: &Denied, config: &ProtocolConfig) -> Result<Session, OpenError> {
    let name = config.to_string();
    let (files, wanted) = (pki.clone(), config.clone());
    let (own, (token, proof)) = blocking(move || {
        let own = if wanted.security.is_on() { Some(files.own(&wanted.security)?) } else { None };
        Ok((own, token(&wanted.user)?))
    })
    .await?;
    if let Some(words) = denied.lately(&name, &proof, Instant::now()) {
        return Err(OpenError::Denied(words));
    }
    let client = client(config, own.as_ref());
    let endpoint = choose(discover(config, &client).await?, config)?;
    let (files, wanted) = (pki.clone(), config.clone());
    let (certificate, known) = (endpoint.server_certificate.clone(), own.clone());
    let store = blocking(move || {
        let Some(own) = known else { return Ok(CertificateStore::new(Path::new("/nonexistent"))) };
        files.check(certificate.value.as_deref().unwrap_or_default(), &wanted.security)?;
        store(&files.folder, &own)
    })
    .await?;
    let builder = SessionBuilder::new(&client).connect_to_endpoint_directly(endpoint);
    let built = builder.and_then(|builder| builder.user_identity_token(token).build(Arc::new(RwLock::new(store))));
    let (inner, events) = built.map_err(|error| OpenError::Refused(crate::error::words(&error)))?;
    let mut session = Session::begin(inner, events);
    let opened = tokio::time::timeout(longest(config) * 2, session.until_open()).await;
    match opened {
        Ok(Ok(())) => {}
        Ok(Err(code)) => {
            let words = refusal(code, config, own.as_ref());
            if !TURNED_AWAY.contains(&code) {
                return Err(OpenError::Refused(words));
            }
            denied.note(&name, proof, Instant::now(), &words);
            return Err(OpenError::Denied(words));
        }
        Err(_) => return Err(OpenError::Refused(format!("no session within {:?}", longest(config) * 2))),
    }
    session.learn().await.map_err(|error| OpenError::Refused(crate::error::words(&error)))?;
    Ok(session)
}

impl Session {
    fn begin<C: Connector + Send + Sync + 'static>(
        inner: Arc<opcua::client::Session>,
        events: SessionEventLoop<C>,
    ) -> Self {
        let (tell, state) = watch::channel(State::Opening);
        let (begun, published) = (Instant::now(), Arc::<AtomicU64>::default());
        let seen = Arc::clone(&published);
        let moves = async move {
            let mut events = std::pin::pin!(events.enter());
            let ended = loop {
                match events.next().await {
                    Some(Ok(SessionPollResult::Reconnected(_))) => {
                        tell.send_replace(State::Open);
                    }
                    Some(Ok(SessionPollResult::Subscription(SubscriptionActivity::Publish))) => {
                        seen.store(millis(begun.elapsed()), Ordering::Relaxed);
                    }
                    // It would be opened again here; that is the SDK's to decide.
                    Some(Ok(SessionPollResult::ConnectionLost(code) | SessionPollResult::ReconnectFailed(code))) => {
                        break code;
                    }
                    Some(Ok(_)) => {}
                    Some(Err(code)) => break code,
                    None => break StatusCode::BadConnectionClosed,
                }
            };
            tell.send_replace(State::Ended(ended));
        };
        let task = tokio::spawn(moves.with_subscriber(NoSubscriber::new()));
        let (max_read, max_items) = (MAX_NODES, MAX_NODES);
        Self { inner, task, state, begun, published, namespaces: Vec::new(), max_read, max_items }
    }

    async fn until_open(&mut self) -> Result<(), StatusCode> {
        let open = self.state.wait_for(|state| !matches!(state, State::Opening)).await;
        match open.map(|state| *state) {
            Ok(State::Open) => Ok(()),
            Ok(State::Ended(code)) => Err(code),
            // The library panicked.
            Ok(State::Opening) | Err(_) => Err(StatusCode::BadUnexpectedError),
        }
    }

    /// Reads what the server can do at a time, and its namespaces.
    async fn learn(&mut self) -> Result<(), Error> {
        let nodes = [
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
            VariableId::Server_NamespaceArray,
        ];
        let nodes: Vec<ReadValueId> = nodes.into_iter().map(|id| opcua::types::NodeId::from(id).into()).collect();
        let mut values = self.read(&nodes).await?.into_iter().map(|value| value.value);
        let limit = |value: Option<Option<Variant>>| match value {
            // 0 is no limit, and many servers say nothing.
            Some(Some(Variant::UInt32(limit))) if limit > 0 => {
                usize::try_from(limit).unwrap_or(MAX_NODES).min(MAX_NODES)
            }
            _ => MAX_NODES,
        };
        self.max_read = limit(values.next());
        self.max_items = limit(values.next());
        if let Some(Some(Variant::Array(names))) = values.next() {
            let names = names.values.iter().take(MAX_NAMESPACES).map(|name| match name {
                Variant::String(name) => name.to_string(),
                _ => String::new(),
            });
            self.namespaces = names.collect();
        }
        Ok(())
    }

    /// The values of nodes, one each.
    pub(crate) async fn read(&self, nodes: &[ReadValueId]) -> Result<Vec<DataValue>, Error> {
        // Age 0: what the node has now, not what the server remembers.
        let values =
            self.inner.read(nodes, TimestampsToReturn::Source, 0.0).await.map_err(|error| self.cause(error))?;
        if values.len() != nodes.len() {
            let words = format!("{} values for {} nodes", values.len(), nodes.len());
            return Err(Error::new(StatusCode::BadUnknownResponse, words));
        }
        Ok(values)
    }

    /// Writes one value.
    pub(crate) async fn write(&self, value: WriteValue) -> Result<StatusCode, Error> {
        let results = self.inner.write(&[value]).await.map_err(|error| self.cause(error))?;
        let first = results.first().copied();
        first.ok_or_else(|| Error::new(StatusCode::BadUnknownResponse, "no result of a write"))
    }

    /// The library's session, for subscriptions.
    pub(crate) fn inner(&self) -> &opcua::client::Session {
        &self.inner
    }

    /// Why the session is of no more use, if it is.
    pub(crate) fn ended(&self) -> Option<StatusCode> {
        match *self.state.borrow() {
            State::Ended(code) => Some(code),
            // The task ends without a word when it panics.
            State::Opening | State::Open => self.task.is_finished().then_some(StatusCode::BadUnexpectedError),
        }
    }

    /// Waits until the session has ended.
    pub(crate) fn until_ended(&self) -> impl Future<Output = String> + Send + 'static {
        let mut state = self.state.clone();
        async move {
            // An error is an end without a word: the library panicked.
            let ended = state.wait_for(|state| matches!(state, State::Ended(_))).await.map(|state| *state);
            match ended {
                Ok(State::Ended(code)) => status(code),
                Ok(State::Opening | State::Open) | Err(_) => status(StatusCode::BadUnexpectedError),
            }
        }
    }

    /// How long the server has said nothing of any subscription.
    pub(crate) fn silent_for(&self) -> Duration {
        let published = Duration::from_millis(self.published.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(published)
    }

    /// What ended the session says more than what that did to a request.
    pub(crate) fn cause(&self, error: Error) -> Error {
        match self.ended() {
            Some(code) if code != error.status() => Error::new(code, "the session ended"),
            _ => error,
        }
    }

    /// Ends the session politely.
    pub(crate) async fn close(self) {
        if let Err(error) = self.inner.disconnect().await {
            tracing::debug!(%error, "the session did not end politely");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Does what waits for a disk, or thinks about keys.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| OpenError::Own(error.to_string()))?
}

/// What is shown to the server of the user, and a digest of the secret in it.
fn token(user: &User) -> Result<(IdentityToken, Proof), OpenError> {
    match user {
        User::Anonymous => Ok((IdentityToken::Anonymous, Proof::default())),
        User::Password { name, file } => {
            let password = own::password(file)?;
            let proof = digest(password.as_bytes());
            Ok((IdentityToken::new_user_name(name, password), proof))
        }
        User::Certificate(files) => {
            let (certificate, key) = own::identity(files)?;
            let proof = digest(&own::certificate_in(&files.certificate)?);
            Ok((IdentityToken::new_x509(certificate, key), proof))
        }
    }
}

/// The library's own ideas of trust and of reconnection are switched off: [`Pki`] and the SDK have them.
fn client(config: &ProtocolConfig, own: Option<&Own>) -> ClientConfig {
    let uri = own.map_or("urn:skerry:opcua-mapper", |own| own.uri.as_str());
    ClientBuilder::new()
        .application_name("Skerry OPC UA mapper")
        .application_uri(uri)
        .product_uri("urn:skerry:opcua-mapper")
        .session_name("skerry-mapper-opcua")
        .session_retry_limit(0)
        .recreate_subscriptions(false)
        .request_timeout(config.timeout)
        .session_timeout(u32::try_from(SESSION_TIMEOUT.as_millis()).unwrap_or(u32::MAX))
        .keep_alive_interval(KEEP_ALIVE)
        .max_message_size(MAX_MESSAGE)
        .max_chunk_count(MAX_CHUNKS)
        .max_string_length(MAX_STRING)
        .max_byte_string_length(MAX_STRING)
        .max_array_length(MAX_ARRAY)
        .into_config()
}

/// Where the library finds the mapper's certificate: in a copy, because it tells the format by the file's name. It
/// also looks whether it has the server's in a folder of its own; [`Pki::check`] has just done so with more care,
/// and the library compares what the server shows with what was checked, so that one may be filled by itself.
fn store(folder: &Path, own: &Own) -> Result<CertificateStore, OpenError> {
    let folder = folder.join("library");
    let (certificate, key) = (own::copy(&folder, &own.der)?, own.files.key.as_path());
    let made = CertificateStore::new_with_x509_data(&folder, false, Some(&certificate), Some(key), None::<X509Data>);
    let mut store = made.0;
    store.set_trust_unknown_certs(true);
    store.set_skip_verify_certs(true);
    Ok(store)
}

/// What a server means that does not open a session.
fn refusal(code: StatusCode, config: &ProtocolConfig, own: Option<&Own>) -> String {
    let said = status(code);
    match code {
        code if TURNED_AWAY.contains(&code) => match &config.user {
            User::Anonymous => format!("the server takes no anonymous users: {said}"),
            User::Password { name, .. } => {
                format!("the server does not accept the password of user {name:?}, or the user: {said}")
            }
            User::Certificate(files) => {
                format!("the server does not accept the user's certificate {}: {said}", files.certificate.display())
            }
        },
        StatusCode::BadCertificateUntrusted
        | StatusCode::BadCertificateInvalid
        | StatusCode::BadCertificateUriInvalid
        | StatusCode::BadCertificateUseNotAllowed
        | StatusCode::BadCertificateChainIncomplete
        | StatusCode::BadSecurityChecksFailed => match own {
            Some(own) => format!(
                "the server does not accept the mapper's certificate: {said}; add {} to those that it trusts, its SHA-256 \
                 fingerprint is {}",
                own.files.certificate.display(),
                hex::encode(digest(&own.der))
            ),
            None => format!("the server refused: {said}"),
        },
        _ => format!("no session: {said}"),
    }
}
