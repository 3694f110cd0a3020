//! How a credential reaches every listener and client: through a watch.
//!
//! One task owns the [`CredentialPublisher`] (it loads, renews and stores credentials); servers take
//! [`CredentialWatch::server_config`] for each handshake and clients [`CredentialWatch::client_config`]
//! for each connection attempt, so a rotation touches no connection code and open connections go on.
//!
//! Invariants: before the first credential every handshake fails; a credential that is not good in
//! every respect, or names someone else, is refused and the old one stays. Reading is a short lock and
//! an `Arc` clone. When the publisher is dropped, the last credential stays in use.

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::{
    ClientAuth, Clock, Credentials, Identity, IdentityError, RevocationList, TrustDomain,
    tls::{self, Settings},
};

/// What a [`CredentialWatch`] is made with.
#[derive(Clone, Debug)]
pub struct CredentialOptions {
    /// The trust domain that peers must belong to.
    pub trust_domain: TrustDomain,
    /// Whether servers want a certificate from their clients.
    pub client_auth: ClientAuth,
    /// The clock that certificates are judged by.
    pub clock: Clock,
    /// Keys and nodes that are refused during the handshake.
    pub revocations: RevocationList,
}

impl CredentialOptions {
    /// Optional client certificates, the system's clock, nothing revoked.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            client_auth: ClientAuth::Optional,
            clock: Clock::system(),
            revocations: RevocationList::empty(),
        }
    }
}

struct State {
    current: Option<(Arc<Credentials>, Identity)>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Where new credentials come in.
pub struct CredentialPublisher {
    sender: watch::Sender<Arc<State>>,
    settings: Arc<Settings>,
}

/// Where listeners and clients get their TLS configuration. Cheap to clone; all clones see the same.
#[derive(Clone)]
pub struct CredentialWatch {
    receiver: watch::Receiver<Arc<State>>,
    settings: Arc<Settings>,
}

impl CredentialWatch {
    /// A publisher and a watch that has no credential yet.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] when the cryptography cannot be set up.
    pub fn channel(options: CredentialOptions) -> Result<(CredentialPublisher, Self), IdentityError> {
        let CredentialOptions { trust_domain, client_auth, clock, revocations } = options;
        let settings = Arc::new(Settings { trust_domain, client_auth, clock, revocations });
        let state = State {
            current: None,
            server: Arc::new(tls::server(None, &settings)?),
            client: Arc::new(tls::client(None, &settings)?),
        };
        let (sender, receiver) = watch::channel(Arc::new(state));
        Ok((CredentialPublisher { sender, settings: Arc::clone(&settings) }, Self { receiver, settings }))
    }

    /// A watch that holds one credential for good; for tools and tests.
    ///
    /// # Errors
    /// When the credential is refused, as by [`CredentialPublisher::publish`].
    pub fn fixed(options: CredentialOptions, credentials: Credentials) -> Result<Self, IdentityError> {
        let (publisher, watch) = Self::channel(options)?;
        publisher.publish(credentials)?;
        Ok(watch)
    }

    /// The server configuration for the next handshake. Before the first credential it refuses every
    /// client with an alert.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.receiver.borrow().server)
    }

    /// The client configuration for the next connection. It verifies the server as the Skerry service
    /// that [`crate::server_name`] names. Before the first credential it refuses every server.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.receiver.borrow().client)
    }

    /// The credential in use.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.receiver.borrow().current.as_ref().map(|(credentials, _)| Arc::clone(credentials))
    }

    /// Who we are.
    pub fn identity(&self) -> Option<Identity> {
        self.receiver.borrow().current.as_ref().map(|(_, identity)| identity.clone())
    }

    /// The trust domain that peers must belong to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.settings.trust_domain
    }

    /// The clock that certificates are judged by.
    pub fn clock(&self) -> &Clock {
        &self.settings.clock
    }

    /// The keys and nodes that are refused.
    pub fn revocations(&self) -> &RevocationList {
        &self.settings.revocations
    }

    /// Waits for the next credential. Never returns when the publisher is gone.
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until there is a credential. Never returns when the publisher went away without one.
    pub async fn ready(&mut self) {
        if self.receiver.wait_for(|state| state.current.is_some()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl std::fmt::Debug for CredentialWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialWatch").field("current", &self.current()).finish_non_exhaustive()
    }
}

impl CredentialPublisher {
    /// Puts a credential into use for all new handshakes.
    ///
    /// The certificate must lead to one of its CAs, be valid now, be in the trust domain, and name the
    /// same identity as the one before. When the system's clock is known to be wrong, the start of the
    /// certificate's life is taken as the time. Returns who it names.
    ///
    /// # Errors
    /// What is wrong with it; the credential before stays in use.
    pub fn publish(&self, credentials: Credentials) -> Result<Identity, IdentityError> {
        let clock = &self.settings.clock;
        if clock.is_behind() {
            credentials.verify_chain(credentials.info().not_before)?;
            clock.raise(credentials.info().not_before);
        }
        let identity = credentials.validate(&self.settings.trust_domain, clock.now())?;
        if let Some(expected) = self.sender.borrow().current.as_ref().map(|(_, expected)| expected)
            && *expected != identity
        {
            return Err(IdentityError::OtherIdentity { found: identity.to_string(), expected: expected.to_string() });
        }
        let state = State {
            server: Arc::new(tls::server(Some(&credentials), &self.settings)?),
            client: Arc::new(tls::client(Some(&credentials), &self.settings)?),
            current: Some((Arc::new(credentials), identity.clone())),
        };
        self.sender.send_replace(Arc::new(state));
        Ok(identity)
    }

    /// Another watch on the same credential.
    pub fn watch(&self) -> CredentialWatch {
        CredentialWatch { receiver: self.sender.subscribe(), settings: Arc::clone(&self.settings) }
    }
}

impl std::fmt::Debug for CredentialPublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialPublisher").finish_non_exhaustive()
    }
}
