//! The event bus when the broker, its clients or the node are not as they should be.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use skerry_common::kinds;
use skerry_dmi::{Mqtt, MqttTls};
use skerry_proto::dmi::v1 as pb;

use crate::broker::Broker;
use crate::bus::{ask, node, quality, topic};
use crate::node::{Node, device, twin};

#[tokio::test]
async fn the_broker_goes_with_its_state_and_comes_back() {
    let mut broker = Broker::open().await;
    let node = node(&broker).await;
    let mut heard = broker.until_served().await;
    node.put_boiler("b1");
    node.until("b1", |_| true).await;
    let update = r#"{"twin":{"temperature":{"actual":{"value":"21.5"}}}}"#;
    ask(&broker, &mut heard, "b1", "twin/update", update).await;
    node.until("b1", |view| quality(view, "temperature") == pb::Quality::Good).await;
    broker.kill().await;
    // Nobody can say any more whether it is so.
    let view = node.until("b1", |view| quality(view, "temperature") == pb::Quality::Uncertain).await;
    assert_eq!(twin(&view, "temperature").reported.as_deref(), Some("21.5"));
    let mut changed = device("b1");
    changed["spec"]["properties"][1]["desired"]["value"] = json!("70");
    node.hub.put(kinds::DEVICE, "plant", "b1", changed);
    broker.start().await;
    let mut heard = broker.until_served().await;
    let got = ask(&broker, &mut heard, "b1", "twin/get", "{}").await;
    assert_eq!(got["twin"]["setpoint"]["expected"]["value"], "70");
    ask(&broker, &mut heard, "b1", "twin/update", update).await;
    node.until("b1", |view| quality(view, "temperature") == pb::Quality::Good).await;
}

#[tokio::test]
async fn what_is_wanted_is_on_disk_before_the_result() {
    let broker = Broker::open().await;
    let mut node = node(&broker).await;
    let mut heard = broker.until_served().await;
    node.put_boiler("b1");
    node.until("b1", |_| true).await;
    let update = r#"{"twin":{"setpoint":{"expected":{"value":"55"}}}}"#;
    let done = ask(&broker, &mut heard, "b1", "twin/update", update).await;
    assert!(done["code"].is_null(), "{done}");
    node.kill().await;
    node.run().await;
    let view = node.until("b1", |view| view.twins.len() == 2).await;
    assert_eq!(twin(&view, "setpoint").desired.as_deref(), Some("55"));
}

#[tokio::test]
async fn a_flood_does_not_take_the_place_of_others() {
    let broker = Broker::open().await;
    let port = broker.port;
    let few = |config: &mut skerry_dmi::Config| {
        let mqtt = Mqtt::new(format!("tcp://127.0.0.1:{port}"));
        config.dmi.mqtt = Some(Mqtt { messages_per_second: 5, ..mqtt });
    };
    let node = Node::with(few).await;
    let mut heard = broker.until_served().await;
    node.put_boiler("b1");
    node.put_boiler("b2");
    node.until("b2", |_| true).await;
    let began = std::time::Instant::now();
    // No more than the broker keeps for a client by default.
    let flood = "{\"event_id\":\"flood\"}\n".repeat(900);
    broker.send(&["-q", "1", "-l", "-t", &topic("b1", "twin/get")], &flood).await;
    broker.publish(&topic("b2", "twin/get"), r#"{"event_id":"other"}"#).await;
    let (mut done, mut refused) = (0, 0);
    loop {
        let (heard, message) = heard.next().await;
        if heard == topic("b1", "twin/get/result") {
            done += u64::from(message["event_id"] == "flood");
            refused += u64::from(message["code"] == 429);
        }
        if heard == topic("b2", "twin/get/result") {
            assert_eq!(message["event_id"], "other");
            break;
        }
    }
    let seconds = began.elapsed().as_secs() + 1;
    assert!((5..=5 + 5 * seconds).contains(&done), "{done} in {seconds} s");
    assert!((1..=1 + seconds).contains(&refused), "{refused} in {seconds} s");
}

#[tokio::test]
async fn a_message_that_no_memory_should_hold_ends_the_connection_and_no_more() {
    let broker = Broker::open().await;
    let node = node(&broker).await;
    let _heard = broker.until_served().await;
    node.put_boiler("b1");
    broker.publish(&topic("b1", "twin/update"), &"x".repeat(5 << 20)).await;
    let mut heard = broker.until_served().await;
    let got = ask(&broker, &mut heard, "b1", "twin/get", r#"{"event_id":"g"}"#).await;
    assert_eq!(got["event_id"], "g");
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn with_certificates_a_user_and_a_password_and_not_without() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (ca, other) = (authority("broker's"), authority("another"));
    std::fs::write(path("ca.crt"), ca.pem()).unwrap();
    std::fs::write(path("other.crt"), other.pem()).unwrap();
    for (name, subject) in [("server", "127.0.0.1"), ("client", "edge-1")] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, subject);
        let certificate = params.signed_by(&key, &ca).unwrap();
        std::fs::write(path(&format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let passwords = path("passwords");
    let mut command = tokio::process::Command::new("mosquitto_passwd");
    command.arg("-b").arg("-c").arg(&passwords).args(["edge", "s3cret"]);
    assert!(command.status().await.unwrap().success());
    std::fs::write(path("password"), "s3cret\n").unwrap();
    std::fs::write(path("wrong"), "secret\n").unwrap();
    let shown = |name: &str| path(name).display().to_string();
    let config = format!(
        "allow_anonymous false\npassword_file {}\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
        shown("passwords"),
        shown("ca.crt"),
        shown("server.crt"),
        shown("server.key"),
    );
    let client = [
        "-u",
        "edge",
        "-P",
        "s3cret",
        "--cafile",
        &shown("ca.crt"),
        "--cert",
        &shown("client.crt"),
        "--key",
        &shown("client.key"),
    ];
    let client = client.map(str::to_owned);
    let good_tls =
        MqttTls { ca_file: path("ca.crt"), cert_file: Some(path("client.crt")), key_file: Some(path("client.key")) };
    let (wrong_password, other_ca) = (path("wrong"), path("other.crt"));
    let broker = Broker::with(dir, &config, &client).await;
    let wrong = [
        Mqtt { password_file: Some(wrong_password), ..good_for(&broker, &good_tls) },
        Mqtt { tls: Some(MqttTls { ca_file: other_ca, ..good_tls.clone() }), ..good_for(&broker, &good_tls) },
        Mqtt {
            tls: Some(MqttTls { cert_file: None, key_file: None, ..good_tls.clone() }),
            ..good_for(&broker, &good_tls)
        },
    ];
    let mut nodes = Vec::new();
    for mqtt in wrong {
        let node =
            Node::with(|config| config.dmi.mqtt = Some(Mqtt { client_id: format!("wrong-{}", nodes.len()), ..mqtt }))
                .await;
        node.put_boiler(&format!("wrong-{}", nodes.len()));
        nodes.push(node);
    }
    let node = Node::with(|config| config.dmi.mqtt = Some(good_for(&broker, &good_tls))).await;
    node.put_boiler("b1");
    let mut heard = broker.until_served().await;
    // Had one of the others been let in, it would have answered as well, and with another device.
    broker.publish("$hw/events/node/edge-1/membership/get", r#"{"event_id":"who"}"#).await;
    let who = heard.answer("$hw/events/node/edge-1/membership/get/result", "who").await;
    assert_eq!(who["devices"].as_array().unwrap().len(), 1);
    assert_eq!(who["devices"][0]["name"], "b1");
    ask(&broker, &mut heard, "b1", "twin/get", "{}").await;
    for (at, _) in nodes.iter().enumerate() {
        let answer = ask(&broker, &mut heard, &format!("wrong-{at}"), "twin/get", "{}").await;
        assert_eq!(answer["code"], 404, "{answer}");
    }
}

fn good_for(broker: &Broker, tls: &MqttTls) -> Mqtt {
    Mqtt {
        username: Some("edge".into()),
        password_file: Some(broker.path("password")),
        tls: Some(tls.clone()),
        ..Mqtt::new(format!("ssl://127.0.0.1:{}", broker.port))
    }
}
