//! The stream of `skerry.dmi.v1`, as a mapper that speaks it.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use skerry_common::kinds;
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::mapper_message::Message as Up;
use skerry_proto::dmi::v1::mappers_client::MappersClient;
use skerry_proto::dmi::v1::node_message::Message as Down;
use skerry_rpc::Channel;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::node::{Node, condition, device, eventually, key, twin};

pub(crate) struct Mapper {
    send: mpsc::Sender<pb::MapperMessage>,
    receive: Streaming<pb::NodeMessage>,
    sequence: u64,
}

impl Mapper {
    pub(crate) async fn connect(node: &Node, name: &str) -> Self {
        Self::connect_at(node.socket(), name).await
    }

    pub(crate) async fn connect_at(socket: &Path, name: &str) -> Self {
        Self::connect_as(socket, name, "modbus").await
    }

    pub(crate) async fn connect_as(socket: &Path, name: &str, protocol: &str) -> Self {
        let hello =
            pb::Hello { name: name.into(), version: "1".into(), protocol: protocol.into(), ..Default::default() };
        let (mut mapper, first) = Self::open(socket, hello).await.unwrap();
        match first {
            Some(Down::Welcome(welcome)) => assert_eq!(welcome.node, "edge-1"),
            other => panic!("{other:?}"),
        }
        mapper.sequence = 0;
        mapper
    }

    async fn open(socket: &Path, hello: pb::Hello) -> Result<(Self, Option<Down>), tonic::Status> {
        let (send, queue) = mpsc::channel(64);
        send.send(pb::MapperMessage { message: Some(Up::Hello(hello)) }).await.unwrap();
        let mut client = MappersClient::new(Channel::unix(socket)).max_decoding_message_size(4 << 20);
        let mut receive = client.connect(ReceiverStream::new(queue)).await?.into_inner();
        let first = receive.message().await?.and_then(|message| message.message);
        Ok((Self { send, receive, sequence: 0 }, first))
    }

    pub(crate) async fn say(&self, message: Up) {
        self.send.send(pb::MapperMessage { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> Down {
        let next = tokio::time::timeout(Duration::from_secs(10), self.receive.message()).await;
        next.expect("nothing came").unwrap().expect("the stream ended").message.unwrap()
    }

    /// How the stream ends.
    pub(crate) async fn end(&mut self) -> Code {
        let ends = async {
            loop {
                match self.receive.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Code::Ok,
                    Err(status) => return status.code(),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ends).await.expect("the stream goes on")
    }

    /// Everything up to AllSent.
    async fn all(&mut self) -> Vec<Down> {
        let mut heard = Vec::new();
        loop {
            match self.hear().await {
                Down::AllSent(_) => return heard,
                other => heard.push(other),
            }
        }
    }

    /// The next device; takes it over.
    pub(crate) async fn take_device(&mut self) -> pb::Device {
        loop {
            if let Down::Device(device) = self.hear().await {
                let applied =
                    pb::Applied { device: device.key.clone(), version: device.version.clone(), error: String::new() };
                self.say(Up::Applied(applied)).await;
                return device;
            }
        }
    }

    pub(crate) async fn report(&mut self, name: &str, values: Vec<pb::Value>) -> pb::ReportsAck {
        self.sequence += 1;
        let devices = vec![pb::DeviceValues { device: Some(key(name)), values }];
        self.say(Up::Reports(pb::Reports { sequence: self.sequence, devices })).await;
        loop {
            if let Down::Ack(ack) = self.hear().await {
                assert_eq!(ack.sequence, self.sequence);
                return ack;
            }
        }
    }

    pub(crate) async fn state(&self, name: &str, state: pb::DeviceState, reason: &str) {
        let report = pb::StateReport { device: Some(key(name)), state: state.into(), reason: reason.into() };
        self.say(Up::States(pb::StateReports { states: vec![report] })).await;
    }
}

pub(crate) fn value(property: &str, value: pb::value::Value) -> pb::Value {
    pb::Value { property: property.into(), value: Some(value), quality: pb::Quality::Good.into(), ..Default::default() }
}

#[tokio::test]
async fn from_a_device_to_its_status_and_back() {
    use pb::value::Value as V;
    let node = Node::start().await;
    node.put_boiler("b1");
    let mut mapper = Mapper::connect(&node, "m").await;
    let heard = mapper.all().await;
    let [Down::Model(model), Down::Device(device)] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!(model.properties.len(), 2);
    assert!(!model.properties[0].writable && model.properties[1].writable);
    let config: serde_json::Value = serde_json::from_slice(&device.protocol_config).unwrap();
    assert_eq!(config, json!({ "address": "10.0.0.7", "unit": 1, "keepAlive": true, "timeoutMs": 500 }));
    let temperature = &device.properties[0];
    let visitor: serde_json::Value = serde_json::from_slice(&temperature.visitor_config).unwrap();
    assert_eq!(visitor, json!({ "register": "InputRegister", "scale": 0.5, "offset": 4 }));
    assert_eq!((temperature.collect_cycle_ms, temperature.report_cycle_ms), (500, 1000));
    assert_eq!((device.properties[1].collect_cycle_ms, device.state_report_cycle_ms), (1000, 2000));
    let wanted = device.properties[1].desired.clone().unwrap();
    assert_eq!(wanted.value, "40");

    let applied = pb::Applied { device: device.key.clone(), version: device.version.clone(), error: String::new() };
    mapper.say(Up::Applied(applied)).await;
    mapper.state("b1", pb::DeviceState::Online, "").await;
    let exact = 0.1 + 0.2;
    let ack = mapper.report("b1", vec![value("temperature", V::Number(exact)), value("nothing", V::Integer(1))]).await;
    assert_eq!(ack.refused.len(), 1);
    assert_eq!(ack.refused[0].property, "nothing");
    let view = node.until("b1", |v| condition(v, "Ready").status && condition(v, "Online").status).await;
    assert_eq!(twin(&view, "temperature").reported.as_deref(), Some("0.30000000000000004"));
    assert!(!condition(&view, "Synced").status, "{view:?}");

    let done = pb::Value { property: "setpoint".into(), desired_version: wanted.version, ..Default::default() };
    let refused = pb::Value { desired_refused: true, problem: "too hot".into(), ..done.clone() };
    mapper.report("b1", vec![refused]).await;
    let view = node.until("b1", |v| condition(v, "Synced").reason == "DesiredRefused").await;
    assert_eq!(condition(&view, "Synced").state, "False");
    let setpoint = twin(&view, "setpoint");
    assert_eq!((setpoint.refused, setpoint.problem.as_str()), (true, "too hot"));
    assert!(!twin(&view, "temperature").refused);
    mapper.report("b1", vec![done]).await;
    let status = node.status("b1", |s| s["status"]["conditions"][2]["status"] == "True").await;
    assert_eq!(status["metadata"]["uid"], "uid-b1");
    assert_eq!(status["status"]["state"], "online");
    let twins = status["status"]["twins"].as_array().unwrap();
    let reported = twins.iter().find(|t| t["propertyName"] == "temperature").unwrap();
    assert_eq!(reported["reported"]["value"], "0.30000000000000004");
    assert_eq!(reported["reported"]["metadata"]["quality"], "Good");
    assert_eq!(reported["reported"]["metadata"]["type"], "DOUBLE");
}

#[tokio::test]
async fn a_value_set_on_the_node_is_durable_and_travels_up() {
    let mut node = Node::start().await;
    node.put_boiler("b1");
    let mut mapper = Mapper::connect(&node, "m").await;
    mapper.take_device().await;
    let set = |value: &str| pb::SetDesiredRequest {
        device: Some(key("b1")),
        property: "setpoint".into(),
        value: value.into(),
    };
    let version = node.devices().set_desired(set("55")).await.unwrap().into_inner().version;
    loop {
        if let Down::Desired(desired) = mapper.hear().await {
            assert_eq!((desired.value.as_str(), &desired.version), ("55", &version));
            break;
        }
    }
    let told = eventually(async || node.hub.received(kinds::DEVICE_DESIRED).pop()).await.unwrap();
    let base = skerry_common::kinds::desired_base(Some("40"));
    let mut body = told.body.clone();
    let id = body.as_object_mut().unwrap().remove("id").unwrap();
    assert_eq!(body, json!({ "device": "b1", "property": "setpoint", "value": "55", "base": base, "earlier": [] }));
    for (wrong, code) in [
        (set("91"), Code::InvalidArgument),
        (set("warm"), Code::InvalidArgument),
        (pb::SetDesiredRequest { property: "temperature".into(), ..set("1") }, Code::InvalidArgument),
        (pb::SetDesiredRequest { device: Some(key("b9")), ..set("1") }, Code::NotFound),
        (pb::SetDesiredRequest { device: None, ..set("1") }, Code::InvalidArgument),
    ] {
        assert_eq!(node.devices().set_desired(wrong).await.unwrap_err().code(), code);
    }

    // A crash: what was acknowledged is still wanted, and told to the cloud again.
    let before = node.hub.received(kinds::DEVICE_DESIRED).len();
    node.kill().await;
    node.run().await;
    let view = node.until("b1", |v| twin(v, "setpoint").desired.as_deref() == Some("55")).await;
    assert_eq!(twin(&view, "setpoint").desired_origin(), pb::DesiredOrigin::Edge);
    eventually(async || (node.hub.received(kinds::DEVICE_DESIRED).len() > before).then_some(())).await.unwrap();

    // The cloud accepts it: the value stays, and is the cloud's.
    let mut accepted = device("b1");
    accepted["spec"]["properties"][1]["desired"]["value"] = "55".into();
    accepted["metadata"]["generation"] = 2.into();
    node.hub.put(kinds::DEVICE, "plant", "b1", accepted.clone());
    let cloud = |v: &pb::DeviceView| twin(v, "setpoint").desired_origin() == pb::DesiredOrigin::Cloud;
    assert_eq!(twin(&node.until("b1", cloud).await, "setpoint").desired.as_deref(), Some("55"));
    assert!(twin(&node.view("b1").await.unwrap(), "setpoint").problem.is_empty());
    let mut mapper = Mapper::connect(&node, "m").await;
    mapper.take_device().await;
    // A value that the cloud does not take: the node wants what the cloud wants again, and people read why.
    node.devices().set_desired(set("60")).await.unwrap();
    let told =
        eventually(async || node.hub.received(kinds::DEVICE_DESIRED).pop().filter(|told| told.body["value"] == "60"));
    let next = told.await.unwrap().body["id"].clone();
    assert_ne!(next, id, "each write has its own");
    let answer = json!({ "setpoint": { "id": next, "refused": "the model allows at most 58" } });
    accepted["metadata"]["annotations"] = json!({ "skerry.io/set-on-node": answer.to_string() });
    node.hub.put(kinds::DEVICE, "plant", "b1", accepted.clone());
    let view = node.until("b1", cloud).await;
    assert_eq!(twin(&view, "setpoint").desired.as_deref(), Some("55"));
    let problem = &twin(&view, "setpoint").problem;
    assert!(problem.contains("did not take 60") && problem.contains("at most 58"), "{problem}");
    loop {
        if let Down::Desired(desired) = mapper.hear().await
            && desired.value == "55"
        {
            break;
        }
    }
    // A change in the cloud wins over what is set on the node before it is known.
    node.devices().set_desired(set("60")).await.unwrap();
    accepted["spec"]["properties"][1]["desired"]["value"] = "70".into();
    node.hub.put(kinds::DEVICE, "plant", "b1", accepted);
    assert_eq!(twin(&node.until("b1", cloud).await, "setpoint").desired.as_deref(), Some("70"));
    node.stop().await;
}

#[tokio::test]
async fn who_is_not_a_mapper_is_refused_with_words() {
    let node = Node::start().await;
    let hello =
        |name: &str, protocol: &str| pb::Hello { name: name.into(), protocol: protocol.into(), ..Default::default() };
    for hello in [hello("", "modbus"), hello("m", ""), hello("a/b", "modbus"), hello("m\n", "modbus")] {
        let refused = Mapper::open(node.socket(), hello).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("mapper's"), "{refused:?}");
    }
    // Something else than hello.
    let (send, queue) = mpsc::channel(1);
    send.send(pb::MapperMessage { message: Some(Up::Reports(pb::Reports::default())) }).await.unwrap();
    let mut stream = MappersClient::new(node.channel()).connect(ReceiverStream::new(queue)).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::InvalidArgument);
    // What people ask for must be named.
    let mut devices = node.devices();
    let nobody = devices.get_device(pb::GetDeviceRequest { device: None }).await.unwrap_err();
    assert_eq!(nobody.code(), Code::InvalidArgument);
    let unknown = devices.get_device(pb::GetDeviceRequest { device: Some(key("b1")) }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(devices.list_devices(pb::ListDevicesRequest::default()).await.unwrap().into_inner().devices.is_empty());
    assert!(devices.list_mappers(pb::ListMappersRequest {}).await.unwrap().into_inner().mappers.is_empty());
}

#[tokio::test]
async fn limits_of_a_stream_end_it_or_make_it_wait() {
    use pb::value::Value as V;
    let node = Node::with(|config| config.dmi.quotas.values_per_second = 1000).await;
    node.put_boiler("b1");
    let mut mapper = Mapper::connect(&node, "m").await;
    mapper.take_device().await;
    // The rate: a flood waits, and nothing of it is lost.
    let started = std::time::Instant::now();
    for n in 0..30 {
        let values = (0..100).map(|_| value("temperature", V::Integer(n))).collect();
        assert!(mapper.report("b1", values).await.refused.is_empty());
    }
    assert!(started.elapsed() > Duration::from_millis(1800), "{:?}", started.elapsed());
    assert_eq!(twin(&node.view("b1").await.unwrap(), "temperature").reported.as_deref(), Some("29"));
    // Others are answered meanwhile, and a refusal names what it is about.
    let ack = mapper.report("b9", vec![value("temperature", V::Boolean(true))]).await;
    assert!(ack.refused[0].reason.contains("not on this node"), "{ack:?}");
    let many = (0..40).map(|_| value("nothing", V::Text("x".into()))).collect();
    assert_eq!(mapper.report("b1", many).await.refused.len(), 32);
    // A number that is none is Bad.
    mapper.report("b1", vec![value("temperature", V::Number(f64::NAN))]).await;
    assert_eq!(twin(&node.view("b1").await.unwrap(), "temperature").quality(), pb::Quality::Bad);
    // Too many values, or a sequence that does not grow, end the stream.
    let values = (0..5001).map(|_| value("temperature", V::Integer(1))).collect();
    let devices = vec![pb::DeviceValues { device: Some(key("b1")), values }];
    mapper.say(Up::Reports(pb::Reports { sequence: 1000, devices })).await;
    assert_eq!(mapper.end().await, Code::InvalidArgument);
    let mut mapper = Mapper::connect(&node, "m").await;
    mapper.say(Up::Reports(pb::Reports { sequence: 0, devices: Vec::new() })).await;
    assert_eq!(mapper.end().await, Code::InvalidArgument);
    let mut mapper = Mapper::connect(&node, "m").await;
    let states = vec![pb::StateReport::default(); 5001];
    mapper.say(Up::States(pb::StateReports { states })).await;
    assert_eq!(mapper.end().await, Code::InvalidArgument);
}

#[tokio::test]
async fn a_second_stream_of_a_mapper_ends_the_first_and_watchers_see_the_newest() {
    use pb::value::Value as V;
    let node = Node::start().await;
    node.put_boiler("b1");
    let mut watch =
        node.devices().watch_devices(pb::WatchDevicesRequest { namespace: "plant".into() }).await.unwrap().into_inner();
    let mut first = Mapper::connect(&node, "m").await;
    first.take_device().await;
    let mut second = Mapper::connect(&node, "m").await;
    assert_eq!(first.end().await, Code::Aborted);
    second.take_device().await;
    second.state("b1", pb::DeviceState::Unhealthy, "fan\nbroken").await;
    second.report("b1", vec![value("temperature", V::Unsigned(u64::MAX))]).await;
    loop {
        let change = tokio::time::timeout(Duration::from_secs(10), watch.message()).await.unwrap().unwrap().unwrap();
        let Some(pb::device_change::Change::Device(view)) = change.change else { continue };
        if twin(&view, "temperature").reported.as_deref() == Some("18446744073709551615") {
            assert_eq!((view.state(), view.state_reason.as_str()), (pb::DeviceState::Unhealthy, "fan broken"));
            break;
        }
    }
    let mappers = node.devices().list_mappers(pb::ListMappersRequest {}).await.unwrap().into_inner().mappers;
    assert_eq!((mappers.len(), mappers[0].api.as_str(), mappers[0].devices, mappers[0].values), (1, "v1", 1, 1));
    node.hub.delete(kinds::DEVICE, "plant", "b1");
    loop {
        if let Down::DeviceRemoved(gone) = second.hear().await {
            assert_eq!(gone, key("b1"));
            break;
        }
    }
    assert!(matches!(second.hear().await, Down::ModelRemoved(_)));
}
