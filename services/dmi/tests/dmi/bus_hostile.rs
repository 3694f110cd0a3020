//! The event bus and clients that say too much, or what makes no sense.

use serde_json::json;
use skerry_common::kinds;
use skerry_dmi::Mqtt;

use crate::broker::Broker;
use crate::bus::{ask, node, topic};
use crate::node::{Node, device, model, twin};

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

#[tokio::test]
async fn bytes_that_are_no_request_are_refused() {
    let broker = Broker::open().await;
    let node = node(&broker).await;
    let mut heard = broker.until_served().await;
    node.put_boiler("b1");
    node.until("b1", |_| true).await;
    let long = [b'{'].into_iter().chain(std::iter::repeat_n(b' ', 1 << 20)).chain([b'}']).collect();
    let deep = b"{\"twin\":".iter().copied().chain(std::iter::repeat_n(b'[', 60_000)).collect();
    let no_text = b"{\"twin\":{\"temperature\":{\"actual\":{\"value\":\"\xff\xfe\"}}}}".to_vec();
    let bytes: [Vec<u8>; 7] = [long, deep, no_text, Vec::new(), b"null".to_vec(), b"[]".to_vec(), vec![0; 1000]];
    for bytes in bytes {
        for what in ["twin/get", "twin/update", "state/update"] {
            let input = if bytes.is_empty() { "-n" } else { "-s" };
            broker.send(&["-q", "1", "-t", &topic("b1", what), input], &bytes).await;
            let answer = heard.hear(&topic("b1", &format!("{what}/result"))).await;
            assert_eq!(answer["code"], 400, "{what} {answer}");
        }
    }
    let got = ask(&broker, &mut heard, "b1", "twin/get", r#"{"event_id":"g"}"#).await;
    assert_eq!(got["event_id"], "g");
    assert!(twin(&node.view("b1").await.unwrap(), "temperature").reported.is_none());
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_said_to_be() {
    let broker = Broker::open().await;
    let node = node(&broker).await;
    let mut heard = broker.until_served().await;
    let names: Vec<String> = (0..1_200).map(|at| format!("p{at}")).collect();
    let (mut large, mut described) = (device("b1"), model());
    large["spec"]["properties"] = names.iter().map(|name| json!({ "name": name })).collect();
    described["spec"]["properties"] =
        names.iter().map(|name| json!({ "name": name, "type": "STRING", "accessMode": "ReadWrite" })).collect();
    node.hub.put(kinds::DEVICE_MODEL, "plant", "boiler", described);
    node.hub.put(kinds::DEVICE, "plant", "b1", large);
    // That it has come is said without its twins.
    let added = heard.hear("$hw/events/node/edge-1/membership/updated").await;
    assert_eq!((&added["added_devices"][0]["name"], &added["added_devices"][0]["twin"]), (&json!("b1"), &json!(null)));
    let long = json!({ "actual": { "value": "x".repeat(4_000) } });
    let mut said = String::new();
    for (at, some) in names.chunks(15).enumerate() {
        let twin: serde_json::Map<_, _> = some.iter().map(|name| (name.clone(), long.clone())).collect();
        said += &format!("{}\n", json!({ "event_id": at.to_string(), "twin": twin }));
    }
    broker.send(&["-q", "1", "-l", "-t", &topic("b1", "twin/update")], said).await;
    let last = names.len().div_ceil(15) - 1;
    heard.answer(&topic("b1", "twin/update/result"), &last.to_string()).await;
    let answer = ask(&broker, &mut heard, "b1", "twin/get", r#"{"event_id":"g"}"#).await;
    assert_eq!((&answer["event_id"], &answer["code"]), (&json!("g"), &json!(500)));
    let few = ask(&broker, &mut heard, "b1", "twin/update", r#"{"twin":{"p7":{"actual":{"value":"5"}}}}"#).await;
    assert_eq!(few["twin"]["p7"]["actual"]["value"], "5");
}

#[tokio::test]
async fn topics_with_odd_characters_are_nobodys() {
    let broker = Broker::open().await;
    let node = node(&broker).await;
    let mut heard = broker.until_served().await;
    // Everything that a name may have.
    let name = "0.b-1.x9";
    node.hub.put(kinds::DEVICE_MODEL, "plant", "boiler", model());
    node.hub.put(kinds::DEVICE, "plant", name, device(name));
    node.until(name, |_| true).await;
    let long = "x".repeat(60_000);
    for odd in ["\u{1F525}", "b 1", "B1", "b1%2f..", "..", "b1\\", "b1\"", "\u{202e}b1", "b1;", "$b1", &long] {
        broker.publish(&topic(odd, "twin/get"), r#"{"event_id":"odd"}"#).await;
        broker.publish(&topic(name, &format!("twin/{odd}")), r#"{"event_id":"odd"}"#).await;
        broker.publish(&format!("$hw/events/node/{odd}/membership/get"), r#"{"event_id":"odd"}"#).await;
    }
    broker.publish(&topic(name, "twin/get"), r#"{"event_id":"end"}"#).await;
    loop {
        let (heard, message) = heard.next().await;
        // What the client itself has said is heard as well.
        if heard.ends_with("/result") {
            assert_eq!((heard, &message["event_id"]), (topic(name, "twin/get/result"), &json!("end")));
            break;
        }
    }
}

#[tokio::test]
async fn properties_have_the_names_that_they_have() {
    let broker = Broker::open().await;
    let node = node(&broker).await;
    let mut heard = broker.until_served().await;
    let names = ["a b", "\u{b0}C", "x\"y\\z", "#/+", "$hw", "a\nb"];
    let mut odd = device("b1");
    odd["spec"]["properties"] = names.iter().map(|name| json!({ "name": name })).collect();
    let mut described = model();
    described["spec"]["properties"] =
        names.iter().map(|name| json!({ "name": name, "type": "STRING", "accessMode": "ReadWrite" })).collect();
    node.hub.put(kinds::DEVICE_MODEL, "plant", "boiler", described);
    node.hub.put(kinds::DEVICE, "plant", "b1", odd);
    node.until("b1", |view| view.twins.len() == names.len()).await;
    for name in names {
        let value = json!({ "value": name });
        let said = json!({ "event_id": name, "twin": { name: { "actual": value, "expected": value } } }).to_string();
        let done = ask(&broker, &mut heard, "b1", "twin/update", &said).await;
        assert_eq!(done["twin"][name]["actual"]["value"], name, "{done}");
        assert_eq!(done["twin"][name]["expected"]["value"], name);
    }
}
