//! Handshakes in memory: who gets in, and who does not, at both ends.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion, pki_types::CertificateDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::support::*;
use crate::{
    BUILD_FLOOR_UNIX, Ca, ClientAuth, Clock, CredentialOptions, CredentialWatch, Credentials, Identity, NodeKey,
    RevocationPublisher, RevocationSet, TrustBundle, TrustDomain, server_name, spki_fingerprint, tls,
};

struct World {
    ca: Ca,
    hub: CredentialWatch,
    edge: CredentialWatch,
}

fn world() -> World {
    let ca = ca();
    let hub = watch(ca.service_credentials("cloudhub", &[], DAY, now()).unwrap());
    let edge = watch(ca.node_credentials(&node("edge-1"), DAY, now()).unwrap());
    World { ca, hub, edge }
}

#[tokio::test]
async fn a_node_and_the_hub_recognise_each_other() {
    let w = world();
    let (server, client) = connect(w.hub.server_config(), w.edge.client_config(), "cloudhub").await;
    let (server, client) = (server.unwrap(), client.unwrap());
    assert_eq!(peer(&server), Some(Identity::Node(node("edge-1"))));
    let session = client.get_ref().1;
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519);
}

#[tokio::test]
async fn sessions_are_never_resumed() {
    let w = world();
    let (server, client) = (w.hub.server_config(), w.edge.client_config());
    for _ in 0..3 {
        let (server, client) = connect(Arc::clone(&server), Arc::clone(&client), "cloudhub").await;
        assert_eq!(server.unwrap().get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(client.unwrap().get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_anonymous_or_refused() {
    let w = world();
    let anonymous = crate::pin::client_config(w.ca.spki_hash()).unwrap();
    let (server, _) = connect(w.hub.server_config(), Arc::new(anonymous.clone()), "cloudhub").await;
    assert_eq!(peer(&server.unwrap()), None);
    let options = CredentialOptions { client_auth: ClientAuth::Required, ..CredentialOptions::new(domain()) };
    let credentials = w.ca.service_credentials("cloudhub", &[], DAY, now()).unwrap();
    let strict = CredentialWatch::fixed(options, credentials).unwrap();
    refused(connect(strict.server_config(), Arc::new(anonymous), "cloudhub").await);
}

#[tokio::test]
async fn nobody_gets_in_before_the_first_credential() {
    let w = world();
    let (publisher, empty) = CredentialWatch::channel(CredentialOptions::new(domain())).unwrap();
    refused(connect(empty.server_config(), w.edge.client_config(), "cloudhub").await);
    refused(connect(w.hub.server_config(), empty.client_config(), "cloudhub").await);
    let anonymous = crate::pin::client_config(w.ca.spki_hash()).unwrap();
    refused(connect(empty.server_config(), Arc::new(anonymous), "cloudhub").await);
    assert!(empty.current().is_none() && empty.identity().is_none());

    publisher.publish(w.ca.service_credentials("cloudhub", &[], DAY, now()).unwrap()).unwrap();
    let mut ready = empty.clone();
    ready.ready().await;
    let (server, client) = connect(empty.server_config(), w.edge.client_config(), "cloudhub").await;
    assert!(server.is_ok() && client.is_ok());
}

#[tokio::test]
async fn servers_refuse_bad_clients() {
    let w = world();
    let other = ca();
    let good = |lifetime, at| w.ca.node_credentials(&node("edge-1"), lifetime, at).unwrap();
    // Trusts our CA, but has a certificate of another one.
    let foreign = {
        let key = NodeKey::generate().unwrap();
        let issued = other.issue_node(&key.csr().unwrap(), &node("edge-1"), DAY, now()).unwrap();
        Credentials::new(vec![issued.certificate], key.private_key(), w.ca.bundle().unwrap()).unwrap()
    };
    let cases = [
        ("expired", good(DAY, now() - hours(48))),
        ("not yet valid", good(DAY, now() + hours(48))),
        ("other CA", foreign),
        ("self-signed", self_signed("spiffe://test.example/node/edge-1", "system:node:edge-1", &w.ca)),
    ];
    for (name, credentials) in cases {
        let result = connect(w.hub.server_config(), client_with(&credentials), "cloudhub").await;
        assert!(result.0.is_err(), "{name}");
        refused(result);
    }
}

#[tokio::test]
async fn clients_refuse_bad_servers() {
    let w = world();
    let other = ca();
    let service = |name: &str, at| w.ca.service_credentials(name, &[], DAY, at).unwrap();
    let foreign = other.service_credentials("cloudhub", &[], DAY, now()).unwrap();
    let cases = [
        ("expired", service("cloudhub", now() - hours(48))),
        ("not yet valid", service("cloudhub", now() + hours(48))),
        ("another service", service("edgecontroller", now())),
        ("a node in place of the service", w.ca.node_credentials(&node("cloudhub"), DAY, now()).unwrap()),
        ("other CA", foreign),
        (
            "self-signed with the right name",
            self_signed("spiffe://test.example/service/cloudhub", "cloudhub.skerry", &w.ca),
        ),
    ];
    for (name, credentials) in cases {
        let result = connect(server_with(&credentials), w.edge.client_config(), "cloudhub").await;
        assert!(result.1.is_err(), "{name}");
        refused(result);
    }
}

/// Our own CA would not issue these; they stand for a mistake in it. The name alone is not enough.
#[tokio::test]
async fn a_server_with_the_right_dns_name_but_another_identity_is_refused() {
    let w = world();
    let issue = |uri: &str, name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["cloudhub.skerry".to_owned()]).unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().unwrap()));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let ca_key = rcgen::KeyPair::from_pem(&w.ca.key_pem()).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&w.ca.certificate_pem(), ca_key).unwrap();
        let chain = vec![params.signed_by(&key, &issuer).unwrap().der().clone()];
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Credentials::new(chain, key, w.ca.bundle().unwrap()).unwrap()
    };
    let good = issue("spiffe://test.example/service/cloudhub", "cloudhub.skerry");
    let (server, client) = connect(server_with(&good), w.edge.client_config(), "cloudhub").await;
    assert!(server.is_ok() && client.is_ok(), "the control");
    for (uri, name) in [
        ("spiffe://test.example/service/edgecontroller", "edgecontroller.skerry"),
        ("spiffe://test.example/node/cloudhub", "system:node:cloudhub"),
        ("spiffe://other.example/service/cloudhub", "cloudhub.skerry"),
        ("spiffe://test.example/service/cloudhub", "edgecontroller.skerry"),
    ] {
        refused(connect(server_with(&issue(uri, name)), w.edge.client_config(), "cloudhub").await);
        let pinned = Arc::new(crate::pin::client_config(w.ca.spki_hash()).unwrap());
        refused(connect(server_with(&issue(uri, name)), pinned, "cloudhub").await);
    }
}

/// A certificate that nobody issued, held together with our CA as trust.
fn self_signed(uri: &str, name: &str, ca: &Ca) -> Credentials {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["cloudhub.skerry".to_owned()]).unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().unwrap()));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let chain: Vec<CertificateDer<'static>> = vec![params.self_signed(&key).unwrap().der().clone()];
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Credentials::new(chain, key, ca.bundle().unwrap()).unwrap()
}

#[tokio::test]
async fn the_trust_domain_must_agree_even_under_a_trusted_ca() {
    let w = world();
    let foreign_domain = TrustDomain::parse("other.example").unwrap();
    let foreign = Ca::generate(&foreign_domain).unwrap();
    let both: TrustBundle = w.ca.bundle().unwrap().union(&foreign.bundle().unwrap()).unwrap();
    let trusting = |credentials: &Credentials| {
        Credentials::new(credentials.chain().to_vec(), credentials.key().clone_key(), both.clone()).unwrap()
    };
    let hub = trusting(&w.ca.service_credentials("cloudhub", &[], DAY, now()).unwrap());
    let edge = trusting(&w.ca.node_credentials(&node("edge-1"), DAY, now()).unwrap());
    let foreign_hub = trusting(&foreign.service_credentials("cloudhub", &[], DAY, now()).unwrap());
    let foreign_edge = trusting(&foreign.node_credentials(&node("edge-1"), DAY, now()).unwrap());
    let (server, client) = connect(server_with(&hub), client_with(&edge), "cloudhub").await;
    assert!(server.is_ok() && client.is_ok(), "the control");
    refused(connect(server_with(&hub), client_with(&foreign_edge), "cloudhub").await);
    refused(connect(server_with(&foreign_hub), client_with(&edge), "cloudhub").await);
}

#[tokio::test]
async fn revoked_keys_and_nodes_are_refused_at_both_ends() {
    let w = world();
    let (revoke, list) = RevocationPublisher::new();
    let options = CredentialOptions { revocations: list.clone(), ..CredentialOptions::new(domain()) };
    let hub = CredentialWatch::fixed(options.clone(), w.ca.service_credentials("cloudhub", &[], DAY, now()).unwrap())
        .unwrap();
    let strict_edge =
        CredentialWatch::fixed(options, w.ca.node_credentials(&node("edge-2"), DAY, now()).unwrap()).unwrap();
    // The configurations are taken before the revocation: it must reach them too.
    let (server, client) = (hub.server_config(), w.edge.client_config());
    let strict = strict_edge.client_config();
    let ok = |(server, client): (std::io::Result<Server>, std::io::Result<Client>)| server.is_ok() && client.is_ok();
    assert!(ok(connect(Arc::clone(&server), Arc::clone(&client), "cloudhub").await));

    let leaf = w.edge.current().unwrap().chain()[0].clone();
    let print = spki_fingerprint(&leaf).unwrap();
    assert!(revoke.set(RevocationSet { fingerprints: [print].into(), ..RevocationSet::default() }));
    assert!(list.is_revoked(&leaf) && list.is_revoked(b"nonsense"));
    refused(connect(Arc::clone(&server), Arc::clone(&client), "cloudhub").await);
    assert!(ok(connect(Arc::clone(&server), Arc::clone(&strict), "cloudhub").await), "others are not affected");

    assert!(revoke.set(RevocationSet { nodes: [node("edge-1")].into(), ..RevocationSet::default() }));
    refused(connect(Arc::clone(&server), Arc::clone(&client), "cloudhub").await);

    let hub_print = spki_fingerprint(&hub.current().unwrap().chain()[0]).unwrap();
    let set = RevocationSet { fingerprints: [hub_print].into(), ..RevocationSet::default() };
    assert!(revoke.set(set.clone()));
    assert!(!revoke.set(set), "the same list wakes nobody");
    refused(connect(Arc::clone(&server), Arc::clone(&strict), "cloudhub").await);

    assert!(revoke.set(RevocationSet::default()));
    assert!(ok(connect(server, client, "cloudhub").await));
}

#[tokio::test]
async fn tls_1_2_clients_are_refused_with_an_alert() {
    let w = world();
    // A ClientHello of TLS 1.2, written by hand so that no library has to be able to speak it.
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..], // supported groups: P-256
        &[0, 11, 0, 2, 1, 0],            // point formats
        &[0, 13, 0, 4, 0, 2, 4, 3],      // signature: ecdsa with SHA-256
    ]
    .concat();
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let length = u8::try_from(body.len()).unwrap();
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat();

    let (mut near, far) = tokio::io::duplex(4096);
    near.write_all(&record).await.unwrap();
    let accepted = TlsAcceptor::from(w.hub.server_config()).accept(far).await;
    assert!(accepted.is_err());
    drop(accepted);
    let mut alert = Vec::new();
    near.read_to_end(&mut alert).await.unwrap();
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 70], "fatal alert: protocol version");
}

#[tokio::test]
async fn tls_1_2_servers_are_refused() {
    let w = world();
    let (near, mut far) = tokio::io::duplex(4096);
    // A ServerHello of TLS 1.2 without the extension that would say 1.3.
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0xc0, 0x2b, 0]);
    let length = u8::try_from(body.len()).unwrap();
    let record = [&[22, 3, 3, 0, length + 4, 2, 0, 0, length][..], &body].concat();
    far.write_all(&record).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(w.edge.client_config());
    assert!(connector.connect(server_name("cloudhub").unwrap(), near).await.is_err());
}

#[tokio::test]
async fn a_handshake_is_small() {
    let w = world();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let mut client = rustls::ClientConnection::new(w.edge.client_config(), server_name("cloudhub").unwrap()).unwrap();
    let mut server = rustls::ServerConnection::new(w.hub.server_config()).unwrap();
    drop((near, far));
    let (mut up, mut down) = (0, 0);
    while client.is_handshaking() || server.is_handshaking() {
        let mut buffer = Vec::new();
        client.write_tls(&mut buffer).unwrap();
        up += buffer.len();
        server.read_tls(&mut buffer.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let mut buffer = Vec::new();
        server.write_tls(&mut buffer).unwrap();
        down += buffer.len();
        client.read_tls(&mut buffer.as_slice()).unwrap();
        client.process_new_packets().unwrap();
    }
    // Ten thousand nodes reconnect at once: nothing may creep in here.
    assert!(up <= 1100 && down <= 1000, "{up} bytes up, {down} down");
}

#[tokio::test]
async fn a_node_whose_clock_is_in_1970_still_judges_certificates() {
    let ca = ca();
    let hub = watch(ca.service_credentials("cloudhub", &[], DAY, now()).unwrap());
    let clock = Clock::manual(Timestamp::UNIX_EPOCH);
    let options = CredentialOptions { clock: clock.clone(), ..CredentialOptions::new(domain()) };
    let mine = ca.node_credentials(&node("edge-1"), DAY, now()).unwrap();
    let start = mine.info().not_before;
    let edge = CredentialWatch::fixed(options, mine).unwrap();
    assert_eq!(clock.now(), start, "our own certificate tells at least that time");
    let (server, client) = connect(hub.server_config(), edge.client_config(), "cloudhub").await;
    assert!(server.is_ok() && client.is_ok());

    // A server's certificate that began later than anything we know is not refused for that ...
    let later = ca.service_credentials("cloudhub", &[], DAY, now() + hours(5)).unwrap();
    let (server, client) = connect(server_with(&later), edge.client_config(), "cloudhub").await;
    assert!(server.is_ok() && client.is_ok());

    // ... but one that ended before what we know is, whatever the clock reads.
    let old_start = Timestamp::from_second(BUILD_FLOOR_UNIX - 30 * 24 * 3600).unwrap();
    let old = ca.service_credentials("cloudhub", &[], DAY, old_start).unwrap();
    refused(connect(server_with(&old), edge.client_config(), "cloudhub").await);
}

#[tokio::test]
async fn nothing_but_http2_is_negotiated() {
    let w = world();
    let mut other = (*w.edge.client_config()).clone();
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    refused(connect(w.hub.server_config(), Arc::new(other), "cloudhub").await);
    let config = tls::server(None, &settings(ClientAuth::Optional)).unwrap();
    assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
    assert!(!config.session_storage.can_cache());
}
