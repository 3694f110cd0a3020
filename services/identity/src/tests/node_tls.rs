//! Who reaches the API of a node, and which server passes for it.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;

use super::support::{DAY, ca, connect, domain, node, now, refused, watch};
use crate::{Ca, CredentialOptions, CredentialWatch, NodeCaller, NodeServing, node_client, tls};

fn serving(ca: &Ca, name: &str) -> NodeServing {
    NodeServing::new(watch(ca.node_credentials(&node(name), DAY, now()).unwrap()))
}

fn service(ca: &Ca, name: &str) -> CredentialWatch {
    watch(ca.service_credentials(name, &[], DAY, now()).unwrap())
}

/// A CA of the users' cluster, and a client certificate of it.
fn users() -> (String, rustls::ClientConfig) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    let issuer = Issuer::from_ca_cert_der(root.der(), key).unwrap();
    let own = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver-kubelet-client");
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&own, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    let certified = rustls::sign::CertifiedKey::from_der(vec![leaf.der().clone()], key, &tls::provider()).unwrap();
    // Whom this client trusts does not matter here: it takes the pinned CA of the node.
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    (root.pem(), config)
}

#[tokio::test]
async fn a_service_reaches_the_node_that_it_wants_and_no_other() {
    let ca = ca();
    let api = service(&ca, "apiserver");
    let edge = serving(&ca, "edge-1");
    let client = Arc::new(node_client(&api, &node("edge-1")).unwrap().unwrap());
    let (server, client) = connect(edge.config().unwrap().unwrap(), client, "anything").await;
    let server = server.unwrap();
    let chain = server.get_ref().1.peer_certificates().unwrap();
    assert_eq!(edge.caller(chain), Some(NodeCaller::Peer(api.identity().unwrap())));
    assert_eq!(client.unwrap().get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));

    for (name, server) in [
        ("another node", serving(&ca, "edge-2")),
        ("a node of another CA", serving(&super::support::ca(), "edge-1")),
        ("a service", NodeServing::new(service(&ca, "cloudhub"))),
    ] {
        let client = Arc::new(node_client(&api, &node("edge-1")).unwrap().unwrap());
        let said = refused(connect(server.config().unwrap().unwrap(), client, "anything").await);
        assert!(said.contains("client"), "{name}: {said}");
    }
}

#[tokio::test]
async fn strangers_are_refused_and_nodes_are_known_as_nodes() {
    let ca = ca();
    let edge = serving(&ca, "edge-1");
    // It trusts our CA, and comes with a certificate of its own.
    let foreign = Ca::generate_at(&domain(), now()).unwrap();
    let credentials = foreign.service_credentials("apiserver", &[], DAY, now()).unwrap();
    let both = ca.bundle().unwrap().union(&foreign.bundle().unwrap()).unwrap();
    let credentials = crate::Credentials::from_pem(&credentials.chain_pem(), &credentials.key_pem(), &both.pem());
    let stranger = node_client(&watch(credentials.unwrap()), &node("edge-1")).unwrap().unwrap();
    refused(connect(edge.config().unwrap().unwrap(), Arc::new(stranger), "x").await);

    let other = watch(ca.node_credentials(&node("edge-2"), DAY, now()).unwrap());
    let client = Arc::new(node_client(&other, &node("edge-1")).unwrap().unwrap());
    let (server, _client) = connect(edge.config().unwrap().unwrap(), client, "x").await;
    let server = server.unwrap();
    let caller = edge.caller(server.get_ref().1.peer_certificates().unwrap());
    assert_eq!(caller, Some(NodeCaller::Peer(other.identity().unwrap())));
}

#[tokio::test]
async fn the_users_ca_names_users_and_never_a_peer() {
    let ca = ca();
    let (users_ca, client) = users();
    let credentials = ca.node_credentials(&node("edge-1"), DAY, now()).unwrap();
    // A certificate of the users' own for those who verify by it; here the one of the same CA.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["x.skerry".to_owned()]).unwrap();
    params.is_ca = IsCa::ExplicitNoCa;
    let shown = params.self_signed(&key).unwrap();
    let edge = NodeServing::new(watch(credentials)).with_users(&users_ca).unwrap();
    let edge = edge.with_certificate(&shown.pem(), &key.serialize_pem()).unwrap();
    let mut client = client;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(shown.der().clone()).unwrap();
    let resolver = client.client_auth_cert_resolver.clone();
    client = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(resolver);
    let (server, dialled) = connect(edge.config().unwrap().unwrap(), Arc::new(client.clone()), "x").await;
    let server = server.unwrap();
    dialled.unwrap();
    let caller = edge.caller(server.get_ref().1.peer_certificates().unwrap());
    let groups = vec!["system:masters".to_owned()];
    assert_eq!(caller, Some(NodeCaller::User { name: "kube-apiserver-kubelet-client".into(), groups }));

    // Our services still get the node's own certificate.
    let api = service(&ca, "apiserver");
    let ours = Arc::new(node_client(&api, &node("edge-1")).unwrap().unwrap());
    let (server, _ours) = connect(edge.config().unwrap().unwrap(), ours, "x").await;
    server.unwrap();

    // Without the CA the same client is a stranger.
    let plain = NodeServing::new(watch(ca.node_credentials(&node("edge-1"), DAY, now()).unwrap()))
        .with_certificate(&shown.pem(), &key.serialize_pem())
        .unwrap();
    refused(connect(plain.config().unwrap().unwrap(), Arc::new(client), "x").await);
}

#[tokio::test]
async fn without_a_credential_there_is_no_configuration() {
    let (publisher, empty) = CredentialWatch::channel(CredentialOptions::new(domain())).unwrap();
    let edge = NodeServing::new(empty.clone());
    assert!(edge.config().unwrap().is_none());
    assert!(node_client(&empty, &node("edge-1")).unwrap().is_none());
    publisher.publish(ca().node_credentials(&node("edge-1"), DAY, now()).unwrap()).unwrap();
    assert!(edge.config().unwrap().is_some());
}
