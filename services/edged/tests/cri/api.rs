//! Callers of the node's API: every kind of credential, and HTTPS with each.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use skerry_common::NodeName;
use skerry_edged::Api;
use skerry_identity::{Ca, CredentialOptions, CredentialStore, CredentialWatch, Credentials, TrustDomain, node_client};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::node::Node;

const LIFE: Duration = Duration::from_secs(3600);
/// The name in the certificate that the node shows to those who are not ours.
const NAME: &str = "kubelet.example";

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who {
    /// Without any credential.
    Nobody,
    /// With a bearer token.
    Token(&'static str),
    /// A service of ours.
    Service(&'static str),
    /// Another node.
    OtherNode,
    /// A user of the users' CA.
    User(&'static str),
}

pub(crate) struct Identities {
    ca: Ca,
    users: (String, Issuer<'static, KeyPair>),
    shown: (rcgen::Certificate, KeyPair),
}

impl Identities {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let users = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_ca_cert_der(users.der(), key).unwrap();
        let own = KeyPair::generate().unwrap();
        let shown = CertificateParams::new(vec![NAME.to_owned()]).unwrap().self_signed(&own).unwrap();
        let domain = TrustDomain::parse("test.example").unwrap();
        Self { ca: Ca::generate(&domain).unwrap(), users: (users.pem(), issuer), shown: (shown, own) }
    }

    /// The configuration of the node's API, with its files below `dir`.
    pub(crate) fn api(&self, dir: &Path, node: &str) -> Api {
        let credentials = dir.join("credentials");
        let node = NodeName::parse(node).unwrap();
        let own = self.ca.node_credentials(&node, LIFE, jiff::Timestamp::now()).unwrap();
        CredentialStore::open(&credentials).unwrap().save(&own).unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.join(name), text).unwrap();
            Some(dir.join(name))
        };
        let mut api = Api::new(credentials, self.ca.trust_domain().to_string());
        api.listen = "127.0.0.1:0".parse().unwrap();
        api.client_ca_file = file("users.pem", &self.users.0);
        api.tls_cert_file = file("shown.pem", &self.shown.0.pem());
        api.tls_private_key_file = file("shown.key", &self.shown.1.serialize_pem());
        api
    }

    fn ours(&self, credentials: Credentials, node: &str) -> ClientConfig {
        let options = CredentialOptions::new(self.ca.trust_domain().clone());
        let watch = CredentialWatch::fixed(options, credentials).unwrap();
        node_client(&watch, &NodeName::parse(node).unwrap()).unwrap().unwrap()
    }

    fn config(&self, who: Who, node: &str) -> ClientConfig {
        let now = jiff::Timestamp::now();
        let mut roots = RootCertStore::empty();
        roots.add(self.shown.0.der().clone()).unwrap();
        let plain = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match who {
            Who::Nobody | Who::Token(_) => plain.with_no_client_auth(),
            Who::Service(name) => self.ours(self.ca.service_credentials(name, &[], LIFE, now).unwrap(), node),
            Who::OtherNode => {
                let other = NodeName::parse("another-node").unwrap();
                self.ours(self.ca.node_credentials(&other, LIFE, now).unwrap(), node)
            }
            Who::User(name) => {
                let key = KeyPair::generate().unwrap();
                let mut params = CertificateParams::default();
                params.distinguished_name.push(DnType::CommonName, name);
                params.distinguished_name.push(DnType::OrganizationName, "dev");
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                let leaf = params.signed_by(&key, &self.users.1).unwrap();
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                let provider = crypto::aws_lc_rs::default_provider();
                let certified = CertifiedKey::from_der(vec![leaf.der().clone()], key, &provider).unwrap();
                plain.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        }
    }
}

impl Node {
    /// Port of the node's API, as the Node says.
    pub(crate) async fn api_port(&self) -> u16 {
        let port = || {
            let status = self.hub.newest(skerry_common::kinds::NODE_STATUS, "")?;
            u16::try_from(status["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?).ok()
        };
        crate::node::wait("the port of the api", || port().is_some(), String::new).await;
        port().unwrap()
    }

    pub(crate) async fn dial(&self, who: Who) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.api_port().await)).await.unwrap();
        let config = self.identities.config(who, &self.name);
        let name = ServerName::try_from(NAME).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// One request; its answer's body comes as it comes.
    pub(crate) async fn ask(&self, who: Who, method: &str, path: &str) -> http::Response<Incoming> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.dial(who).await)).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(path).header("host", NAME);
        if let Who::Token(token) = who {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
    }

    /// One request with its whole answer.
    pub(crate) async fn call(&self, who: Who, method: &str, path: &str) -> (u16, String) {
        let answer = self.ask(who, method, path).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// As the API server asks.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.call(Who::Service("apiserver"), "GET", path).await
    }
}
