//! Trust by the CA's hash, for joining.

use std::sync::Arc;

use rustls::{ServerConfig, pki_types::CertificateDer, sign::CertifiedKey};

use super::support::*;
use crate::{Ca, Credentials, IdentityError, NodeKey, Token, TokenRequest, pin, tls};

fn hub(ca: &Ca) -> Arc<ServerConfig> {
    watch(ca.service_credentials("cloudhub", &[], DAY, now()).unwrap()).server_config()
}

fn joiner(hash: &str) -> Arc<rustls::ClientConfig> {
    Arc::new(pin::client_config(hash).unwrap())
}

/// A server that shows any chain with the key of its first certificate.
fn showing(chain: Vec<CertificateDer<'static>>, key: &NodeKey) -> Arc<ServerConfig> {
    let certified = CertifiedKey::from_der(chain, key.private_key(), &tls::provider()).unwrap();
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn the_token_is_enough_to_find_the_right_hub() {
    let ca = ca();
    let (token, _) = Token::generate(ca.spki_hash(), TokenRequest::default(), now()).unwrap();
    let token = Token::parse(&token.reveal()).unwrap();
    let (server, client) = connect(hub(&ca), joiner(token.ca_hash()), "cloudhub").await;
    assert_eq!(peer(&server.unwrap()), None, "a machine that joins has no certificate");
    let client = client.unwrap();
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(client.get_ref().1.peer_certificates().unwrap().len(), 2, "the CA was sent on request");
}

#[tokio::test]
async fn another_ca_is_refused() {
    let (ours, other) = (ca(), ca());
    refused(connect(hub(&other), joiner(ours.spki_hash()), "cloudhub").await);
    refused(connect(hub(&ours), joiner(ours.spki_hash()), "edgecontroller").await);
}

#[tokio::test]
async fn showing_our_ca_is_not_enough() {
    let (ours, other) = (ca(), ca());
    let key = NodeKey::generate().unwrap();
    let csr = key.csr().unwrap();
    let issue = |ca: &Ca, service: &str, at| ca.issue_service(&csr, service, &[], DAY, at).unwrap().certificate;
    let with_ours = |leaf| vec![leaf, ours.certificate().clone()];
    let pinned = || joiner(ours.spki_hash());
    let (server, client) =
        connect(showing(with_ours(issue(&ours, "cloudhub", now())), &key), pinned(), "cloudhub").await;
    assert!(server.is_ok() && client.is_ok(), "the control");
    for (name, chain) in [
        ("a leaf of another CA, with our CA beside it", with_ours(issue(&other, "cloudhub", now()))),
        ("an expired leaf", with_ours(issue(&ours, "cloudhub", now() - hours(48)))),
        ("another service", with_ours(issue(&ours, "edgecontroller", now()))),
        ("a node", with_ours(ours.issue_node(&csr, &node("cloudhub"), DAY, now()).unwrap().certificate)),
        ("no CA in the chain", vec![issue(&ours, "cloudhub", now())]),
        ("our CA itself buried in rubbish", {
            let mut chain = vec![issue(&ours, "cloudhub", now())];
            chain.extend(std::iter::repeat_n(other.certificate().clone(), 20));
            chain.push(ours.certificate().clone());
            chain
        }),
    ] {
        let result = connect(showing(chain, &key), pinned(), "cloudhub").await;
        assert!(result.1.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_leaf_whose_own_key_has_the_hash_is_no_ca() {
    // A service that knows its own fingerprint must not become a CA by being pinned.
    let ours = ca();
    let key = NodeKey::generate().unwrap();
    let leaf = ours.issue_service(&key.csr().unwrap(), "cloudhub", &[], DAY, now()).unwrap().certificate;
    let result = connect(showing(vec![leaf.clone(), leaf], &key), joiner(&key.fingerprint()), "cloudhub").await;
    assert!(result.1.is_err());
}

#[test]
fn a_pin_must_be_a_hash() {
    for bad in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"a".repeat(63)] {
        assert!(matches!(pin::client_config(bad), Err(IdentityError::Pin)), "{bad}");
    }
}

#[test]
fn what_join_receives_is_checked_against_the_key_and_the_pin() {
    let (ours, other) = (ca(), ca());
    let key = NodeKey::generate().unwrap();
    let issued = ours.issue_node(&key.csr().unwrap(), &node("edge-1"), DAY, now()).unwrap();
    // The chain may include the CA, as the protocol sends it.
    let chain = issued.pem() + &ours.certificate_pem();
    let credentials = Credentials::from_answer(&chain, &ours.certificate_pem(), &key).unwrap();
    assert_eq!(credentials.chain().len(), 1);
    assert!(credentials.ca().contains_key(ours.spki_hash()) && !credentials.ca().contains_key(other.spki_hash()));
    let wrong_key = NodeKey::generate().unwrap();
    let refused = Credentials::from_answer(&chain, &ours.certificate_pem(), &wrong_key);
    assert!(matches!(refused, Err(IdentityError::KeyMismatch)));
    let wrong_ca = Credentials::from_answer(&issued.pem(), &other.certificate_pem(), &key).unwrap();
    assert!(wrong_ca.validate(&domain(), now()).is_err());
    assert!(Credentials::from_answer("", &ours.certificate_pem(), &key).is_err());
    assert!(Credentials::from_answer(&chain, "", &key).is_err());
    assert!(Credentials::from_answer(&chain, &issued.pem(), &key).is_err(), "a leaf is no CA");
}
