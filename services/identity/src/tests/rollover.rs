//! Rotation of certificates and of the CA, while connections are open.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;
use crate::{CredentialOptions, CredentialWatch, Credentials, Identity, IdentityError, TrustBundle, inspect};

async fn echo(server: &mut Server, client: &mut Client) {
    client.write_all(b"ping").await.unwrap();
    client.flush().await.unwrap();
    let mut buffer = [0; 4];
    server.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"ping");
}

fn presented(client: &Client) -> String {
    inspect(&client.get_ref().1.peer_certificates().unwrap()[0]).unwrap().fingerprint
}

#[tokio::test]
async fn new_handshakes_use_the_new_certificate_and_open_connections_go_on() {
    let ca = ca();
    let (publisher, hub) = CredentialWatch::channel(CredentialOptions::new(domain())).unwrap();
    let edge = watch(ca.node_credentials(&node("edge-1"), DAY, now()).unwrap());
    publisher.publish(ca.service_credentials("cloudhub", &[], DAY, now()).unwrap()).unwrap();
    let (server, client) = connect(hub.server_config(), edge.client_config(), "cloudhub").await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    let old = presented(&client);

    let mut changed = hub.clone();
    let renewed = ca.service_credentials("cloudhub", &[], DAY, now()).unwrap();
    let expected = renewed.info().fingerprint.clone();
    publisher.publish(renewed).unwrap();
    changed.changed().await;
    echo(&mut server, &mut client).await;
    let (_, second) = connect(hub.server_config(), edge.client_config(), "cloudhub").await;
    let new = presented(&second.unwrap());
    assert!(new != old && new == expected);
    echo(&mut server, &mut client).await;
}

#[tokio::test]
async fn a_bad_new_credential_is_refused_and_the_old_one_stays() {
    let (ca, other) = (ca(), ca());
    let (publisher, watch) = CredentialWatch::channel(CredentialOptions::new(domain())).unwrap();
    let mine = |at| ca.node_credentials(&node("edge-1"), DAY, at).unwrap();
    let good = mine(now());
    let print = good.info().fingerprint.clone();
    assert_eq!(publisher.publish(good).unwrap(), Identity::Node(node("edge-1")));

    let refused = |credentials: Credentials| publisher.publish(credentials).unwrap_err().code();
    assert_eq!(refused(mine(now() - hours(48))), "expired");
    assert_eq!(refused(mine(now() + hours(48))), "not_yet_valid");
    assert_eq!(refused(ca.node_credentials(&node("edge-2"), DAY, now()).unwrap()), "other_identity");
    assert_eq!(refused(ca.service_credentials("edge-1", &[], DAY, now()).unwrap()), "other_identity");
    let foreign = mine(now());
    let foreign =
        Credentials::new(foreign.chain().to_vec(), foreign.key().clone_key(), other.bundle().unwrap()).unwrap();
    assert_eq!(refused(foreign), "tls");
    let (a, b) = (mine(now()), mine(now()));
    let mismatch = Credentials::new(a.chain().to_vec(), b.key().clone_key(), ca.bundle().unwrap());
    assert!(matches!(mismatch, Err(IdentityError::KeyMismatch)));
    assert_eq!(watch.current().unwrap().info().fingerprint, print);
}

#[test]
fn a_credential_of_another_ca_does_not_move_the_clock() {
    let (ca, other) = (ca(), ca());
    let clock = crate::Clock::manual(jiff::Timestamp::UNIX_EPOCH);
    let options = CredentialOptions { clock: clock.clone(), ..CredentialOptions::new(domain()) };
    let (publisher, _watch) = CredentialWatch::channel(options).unwrap();
    let before = clock.floor();
    let mine = ca.node_credentials(&node("edge-1"), DAY, now()).unwrap();
    let foreign = Credentials::new(mine.chain().to_vec(), mine.key().clone_key(), other.bundle().unwrap()).unwrap();
    assert!(publisher.publish(foreign).is_err());
    assert_eq!(clock.floor(), before);
    publisher.publish(mine).unwrap();
    assert!(clock.floor() > before);
}

#[tokio::test]
async fn an_old_certificate_works_to_its_last_second() {
    let ca = ca();
    let clock = crate::Clock::manual(now());
    let options = CredentialOptions { clock: clock.clone(), ..CredentialOptions::new(domain()) };
    let hub =
        CredentialWatch::fixed(options, ca.service_credentials("cloudhub", &[], DAY * 3, now()).unwrap()).unwrap();
    let credentials = ca.node_credentials(&node("edge-1"), DAY, now()).unwrap();
    let end = credentials.not_after();
    let edge = watch(credentials);
    // The server judges the client, so its clock moves.
    clock.set(end - jiff::SignedDuration::from_secs(1));
    let (server, client) = connect(hub.server_config(), edge.client_config(), "cloudhub").await;
    assert!(server.is_ok() && client.is_ok());
    clock.set(end + jiff::SignedDuration::from_secs(1));
    refused(connect(hub.server_config(), edge.client_config(), "cloudhub").await);
}

/// Trust old and new, issue from new, drop old: no handshake fails between parties that are one step apart.
#[tokio::test]
async fn the_ca_rolls_over_without_a_failed_handshake() {
    let (old, new) = (ca(), ca());
    let both = old.bundle().unwrap().union(&new.bundle().unwrap()).unwrap();
    let with = |credentials: Credentials, bundle: &TrustBundle| {
        Credentials::new(credentials.chain().to_vec(), credentials.key().clone_key(), bundle.clone()).unwrap()
    };
    let hub = |ca: &crate::Ca, bundle| with(ca.service_credentials("cloudhub", &[], DAY, now()).unwrap(), bundle);
    let edge = |ca: &crate::Ca, bundle| with(ca.node_credentials(&node("edge-1"), DAY, now()).unwrap(), bundle);
    let (only_old, only_new) = (old.bundle().unwrap(), new.bundle().unwrap());
    let hubs = [hub(&old, &only_old), hub(&old, &both), hub(&new, &both), hub(&new, &only_new)];
    let edges = [edge(&old, &only_old), edge(&old, &both), edge(&new, &both), edge(&new, &only_new)];
    for (i, hub) in hubs.iter().enumerate() {
        for (j, edge) in edges.iter().enumerate() {
            let (server, client) = connect(server_with(hub), client_with(edge), "cloudhub").await;
            let works = server.is_ok() && client.is_ok();
            assert_eq!(works, i.abs_diff(j) <= 1, "hub at step {i}, node at step {j}");
        }
    }
    assert_eq!(both.union(&both).unwrap(), both);
}
