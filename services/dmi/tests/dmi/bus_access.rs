//! Who is let in by the broker, and what they may say: TLS, users, and the access list of `MQTT.md` as it is there.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use skerry_dmi::{Mqtt, MqttTls, MqttVersion};

use crate::broker::{Broker, Listener};
use crate::bus::{ask, topic};
use crate::node::{Node, twin};

const GUIDE: &str = include_str!("../../MQTT.md");

/// The block of the guide that begins so.
fn block(begin: &str) -> &'static str {
    let from = GUIDE.find(&format!("```\n{begin}")).expect("the guide has no such block") + "```\n".len();
    let text = &GUIDE[from..];
    &text[..text.find("```").unwrap()]
}

/// Users whose passwords are their names.
async fn users(file: &Path, names: &[&str]) {
    for (at, name) in names.iter().enumerate() {
        let mut command = tokio::process::Command::new("mosquitto_passwd");
        command.arg("-b").args((at == 0).then_some("-c")).arg(file).args([name, name]);
        assert!(command.status().await.unwrap().success());
    }
}

#[tokio::test]
async fn with_the_access_list_of_the_guide_a_device_is_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("acl"), block("# acl")).unwrap();
    users(&dir.path().join("passwords"), &["skerry", "boiler-1", "boiler-2"]).await;
    std::fs::write(path("password"), "skerry\n").unwrap();
    let config: String = block("# mosquitto.conf")
        .lines()
        .filter(|line| !line.starts_with("listener"))
        .map(|line| format!("{line}\n").replace("/etc/mosquitto/", &format!("{}/", dir.path().display())))
        .collect();
    let broker = Broker::with(dir, &config, &[]).await;
    let mqtt = Mqtt {
        username: Some("skerry".into()),
        password_file: Some(broker.path("password")),
        ..Mqtt::new(format!("tcp://127.0.0.1:{}", broker.port))
    };
    let node = Node::with(|config| config.dmi.mqtt = Some(mqtt)).await;
    node.put_boiler("boiler-1");
    node.put_boiler("boiler-2");
    node.until("boiler-2", |_| true).await;
    let mut first = broker.listen_as(&["-u", "boiler-1", "-P", "boiler-1"]).await;
    let mut second = broker.listen_as(&["-u", "boiler-2", "-P", "boiler-2"]).await;
    let say = async |user: &str, topic: &str, message: &str| {
        broker.try_send(&["-u", user, "-P", user, "-q", "1", "-t", topic, "-s"], message).await
    };
    let get = async |name: &str, id: &str| {
        let topic = topic(name, "twin/get");
        assert!(say(name, &topic, &format!(r#"{{"event_id":"{id}"}}"#)).await);
    };
    // Until the node is there.
    let ready = crate::node::eventually(async || {
        get("boiler-1", "ready").await;
        let soon = std::time::Duration::from_millis(300);
        tokio::time::timeout(soon, first.answer(&topic("boiler-1", "twin/get/result"), "ready")).await.ok()
    });
    ready.await.expect("the node is not let in");

    let hot = r#"{"event_id":"forged","twin":{"temperature":{"actual":{"value":"99"}},"setpoint":{"expected":{"value":"1"}}}}"#;
    for forged in [
        topic("boiler-2", "twin/update"),
        topic("boiler-2", "state/update"),
        topic("boiler-2", "twin/get"),
        topic("boiler-2", "twin/update/delta"),
        topic("boiler-1", "twin/update/result"),
        "$hw/events/node/edge-1/membership/updated".into(),
    ] {
        // The broker does not say that it has thrown it away.
        say("boiler-1", &forged, hot).await;
    }
    // Both are heard after what was forged, and what boiler-2 says is for itself only.
    get("boiler-1", "end").await;
    let told = r#"{"event_id":"true","twin":{"temperature":{"actual":{"value":"21.5"}}}}"#;
    assert!(say("boiler-2", &topic("boiler-2", "twin/update"), told).await);
    let done = second.hear(&topic("boiler-2", "twin/update/result")).await;
    assert_eq!((&done["event_id"], &done["twin"]["temperature"]["actual"]["value"]), (&json!("true"), &json!("21.5")));
    let view = node.view("boiler-2").await.unwrap();
    assert_eq!(twin(&view, "temperature").reported.as_deref(), Some("21.5"));
    assert_eq!(twin(&view, "setpoint").desired.as_deref(), Some("40"));
    get("boiler-1", "very end").await;
    hears_only_itself(&mut first, "boiler-1", "very end").await;
    // Who is nobody says nothing.
    assert!(!broker.try_send(&["-q", "1", "-t", &topic("boiler-1", "twin/get"), "-s"], "{}").await);
}

async fn hears_only_itself(heard: &mut Listener, name: &str, until: &str) {
    let own = format!("$hw/events/device/plant/{name}/");
    loop {
        let (topic, message) = heard.next().await;
        assert!(topic.starts_with(&own), "{topic}");
        assert_ne!(message["event_id"], "forged", "{topic}");
        if message["event_id"] == until {
            return;
        }
    }
}

#[tokio::test]
async fn a_password_that_was_wrong_is_used_as_soon_as_it_is_right() {
    let dir = tempfile::tempdir().unwrap();
    users(&dir.path().join("passwords"), &["edge"]).await;
    std::fs::write(dir.path().join("password"), "old").unwrap();
    let config = format!("allow_anonymous false\npassword_file {}\n", dir.path().join("passwords").display());
    let broker = Broker::with(dir, &config, &["-u", "edge", "-P", "edge"].map(str::to_owned)).await;
    let mqtt = Mqtt {
        username: Some("edge".into()),
        password_file: Some(broker.path("password")),
        ..Mqtt::new(format!("tcp://127.0.0.1:{}", broker.port))
    };
    let _node = Node::with(|config| config.dmi.mqtt = Some(mqtt)).await;
    let refused = crate::node::eventually(async || broker.log().contains("not authorised").then_some(()));
    refused.await.expect("the node has not tried");
    std::fs::write(broker.path("password"), "edge\n").unwrap();
    broker.until_served().await;
}

#[tokio::test]
async fn a_client_cannot_take_the_nodes_place_by_its_name() {
    let broker = Broker::open().await;
    let _node = crate::bus::node(&broker).await;
    let mut heard = broker.until_served().await;
    let _same = broker.listen_as(&["-i", "skerry-edge-1"]).await;
    broker.publish("$hw/events/node/edge-1/membership/get", r#"{"event_id":"still"}"#).await;
    heard.answer("$hw/events/node/edge-1/membership/get/result", "still").await;
    assert_eq!(broker.log().matches(" as skerry-edge-1-").count(), 1, "{}", broker.log());
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn with_certificates_a_user_and_a_password_and_not_without() {
    only_with_everything(MqttVersion::V3).await;
}

#[tokio::test]
async fn with_certificates_a_user_and_a_password_and_not_without_over_mqtt_5() {
    only_with_everything(MqttVersion::V5).await;
}

async fn only_with_everything(version: MqttVersion) {
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
    users(&path("passwords"), &["edge"]).await;
    std::fs::write(path("password"), "edge\n").unwrap();
    std::fs::write(path("wrong"), "s3cret\n").unwrap();
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
        "edge",
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
        Mqtt { password_file: Some(wrong_password), ..good_for(&broker, version, &good_tls) },
        Mqtt { tls: Some(MqttTls { ca_file: other_ca, ..good_tls.clone() }), ..good_for(&broker, version, &good_tls) },
        Mqtt {
            tls: Some(MqttTls { cert_file: None, key_file: None, ..good_tls.clone() }),
            ..good_for(&broker, version, &good_tls)
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
    let node = Node::with(|config| config.dmi.mqtt = Some(good_for(&broker, version, &good_tls))).await;
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

fn good_for(broker: &Broker, version: MqttVersion, tls: &MqttTls) -> Mqtt {
    Mqtt {
        version,
        username: Some("edge".into()),
        password_file: Some(broker.path("password")),
        tls: Some(tls.clone()),
        ..Mqtt::new(format!("ssl://127.0.0.1:{}", broker.port))
    }
}
