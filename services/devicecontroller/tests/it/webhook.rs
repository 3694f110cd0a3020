//! Admission as the API server meets it: registered, over TLS, and away.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use skerry_devicecontroller::Config;
use skerry_identity::{Ca, CredentialStore, Credentials, NodeKey, TrustDomain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cluster::{Cluster, Controller, device, eventually};

const LIFE: Duration = Duration::from_secs(3600);

/// An address of loopback for this process alone, because the URL is needed before anything listens.
fn address() -> SocketAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    ([127, 101 + a % 100, b, c], 20_000).into()
}

/// A controller whose webhook is registered.
async fn admitting(cluster: &Cluster, folder: &std::path::Path) -> (Controller, SocketAddr) {
    let address = address();
    let config = Config {
        webhook_url: Some(format!("https://{address}")),
        credentials: folder.to_owned(),
        trust_domain: "skerry.test".to_owned(),
        ..Config::default()
    };
    let ca = Ca::generate(&TrustDomain::parse(&config.trust_domain).unwrap()).unwrap();
    let key = NodeKey::generate().unwrap();
    let names = [address.ip().to_string()];
    let issued = ca.issue_service(&key.csr().unwrap(), "devicecontroller", &names, LIFE, jiff::Timestamp::now());
    let credentials = Credentials::from_answer(&issued.unwrap().pem(), &ca.certificate_pem(), &key).unwrap();
    CredentialStore::open(folder).unwrap().save(&credentials).unwrap();
    let controller = Controller::with(cluster.client.clone(), config, Some(address)).await;
    eventually("the webhook is registered", || async {
        cluster.global("ValidatingWebhookConfiguration", "skerry-devices").await.is_some()
    })
    .await;
    (controller, address)
}

#[tokio::test]
async fn mistakes_are_refused_by_the_api_server() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (controller, _) = admitting(&cluster, folder.path()).await;
    let object = cluster.global("ValidatingWebhookConfiguration", "skerry-devices").await.unwrap();
    assert_eq!(object.data["webhooks"][0]["failurePolicy"], "Ignore");

    let with = |properties: serde_json::Value| {
        let mut device = device("d", "n1");
        device["spec"]["properties"] = properties;
        device
    };
    for (properties, words) in [
        (json!([{"name": "q"}]), "has t, p"),
        (json!([{"name": "t", "desired": {"value": "91"}}]), "0 to 90"),
        (json!([{"name": "p", "desired": {"value": "1"}}]), "ReadOnly"),
    ] {
        let refused = cluster.try_create("Device", with(properties.clone())).await;
        let kube::Error::Api(status) = refused.unwrap_err() else { panic!("{properties}") };
        assert!(status.message.contains(words), "{properties}: {}", status.message);
    }
    assert!(cluster.get("Device", "d").await.is_none());
    cluster.create("Device", "default", with(json!([{"name": "t", "desired": {"value": "90"}}]))).await;
    let answered = controller.metrics.encode();
    assert!(answered.contains("skerry_devicecontroller_denied_total 3"), "{answered}");

    // Away: what it would refuse is stored, and its conditions say what is wrong.
    controller.stop().await;
    let mut late = with(json!([{"name": "q"}]));
    late["metadata"]["name"] = "late".into();
    cluster.try_create("Device", late).await.unwrap();
}

#[tokio::test]
async fn whoever_says_nothing_or_no_tls_holds_up_nobody() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (controller, address) = admitting(&cluster, folder.path()).await;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"POST /validate HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "it speaks TLS only");
    let mut wrong = device("d", "n1");
    wrong["spec"]["properties"] = json!([{"name": "q"}]);
    assert!(cluster.try_create("Device", wrong).await.is_err(), "others are answered meanwhile");
    drop(silent);
    controller.stop().await;
}
