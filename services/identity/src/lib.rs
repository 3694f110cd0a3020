//! Who is who in Skerry: the certificate authority, join tokens, certificates, their rotation and
//! revocation, and the TLS configurations made from them.
//!
//! Every service uses this crate: the hub's join service issues with [`Ca`] and checks with
//! [`TokenRecord`]; every server and client takes its TLS configuration from a [`CredentialWatch`];
//! every handler learns who is calling from [`Identity`].
//!
//! Invariants:
//! - A certificate's subject, names and usages are decided by the CA, never by the request.
//! - An identity is read only from a verified certificate's SPIFFE name.
//! - Before the first credential, every handshake fails; a bad new credential never replaces a good one.
//! - Doubt means refuse.
//!
//! There is one place that skips the ordinary trust store, [`pin`], and it replaces the store by a
//! hash that the operator carried to the node.

mod ca;
mod cert;
mod clock;
mod credentials;
mod csr;
mod error;
mod follow;
mod key;
mod names;
mod node_tls;
mod peer;
mod pem;
pub mod pin;
mod revoke;
mod rotate;
mod signed;
mod slots;
mod tls;
mod token;
mod verify;
mod watch;

pub use ca::{
    Ca, DEFAULT_NODE_LIFETIME, DEFAULT_SERVICE_LIFETIME, IssuedCertificate, MAX_NODE_LIFETIME, MAX_SERVICE_LIFETIME,
};
pub use cert::{CertificateInfo, inspect, spki_fingerprint};
pub use clock::{BUILD_FLOOR_UNIX, Clock};
pub use credentials::{Credentials, TrustBundle};
pub use error::{CsrError, IdentityError};
pub use follow::CredentialFolder;
pub use key::NodeKey;
pub use names::{DEFAULT_TRUST_DOMAIN, SERVICE_DOMAIN, ServiceName, TrustDomain, server_name};
pub use node_tls::{NodeCaller, NodeServing, node_client};
pub use peer::Identity;
pub use revoke::{MAX_REVOKED, RevocationList, RevocationPublisher, RevocationSet};
pub use rotate::renew_at;
pub use slots::{CredentialStore, Loaded};
pub use tls::ClientAuth;
pub use token::{DEFAULT_TOKEN_LIFETIME, Token, TokenError, TokenRecord, TokenRequest};
pub use watch::{CredentialOptions, CredentialPublisher, CredentialWatch};

#[cfg(test)]
mod tests;
