//! What people ask the mapper of a device: answered by the device now, by nobody else, and in time.

use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::mapper_message::Message as Up;
use skerry_proto::dmi::v1::node_message::Message as Down;
use skerry_proto::dmi::v1::value::Value as V;
use tonic::{Code, Status};

use crate::node::{Node, key, twin};
use crate::stream::{Mapper, value};
use crate::v1beta1::register;
use crate::wire::MapperServer;

/// Asks in a task of its own.
fn ask(
    node: &Node,
    properties: &[&str],
    timeout_ms: u32,
) -> tokio::task::JoinHandle<Result<Vec<pb::TwinView>, Status>> {
    let properties = properties.iter().map(|name| (*name).to_owned()).collect();
    let (mut devices, device) = (node.devices(), Some(key("b1")));
    tokio::spawn(async move {
        let answer = devices.read_device(pb::ReadDeviceRequest { device, properties, timeout_ms }).await;
        answer.map(|answer| answer.into_inner().twins)
    })
}

async fn asked(mapper: &mut Mapper) -> pb::Command {
    loop {
        if let Down::Command(command) = mapper.hear().await {
            return command;
        }
    }
}

fn answer(id: u64, error: &str, values: Vec<pb::Value>) -> Up {
    Up::Result(pb::CommandResult { id, error: error.into(), values })
}

#[tokio::test]
async fn a_device_is_read_when_somebody_asks() {
    let node = Node::start().await;
    node.put_boiler("b1");
    let mut mapper = Mapper::connect(&node, "m").await;
    let mut other = Mapper::connect_as(node.socket(), "other", "opcua").await;
    mapper.take_device().await;
    mapper.report("b1", vec![value("temperature", V::Number(20.5))]).await;

    let waiting = ask(&node, &["temperature"], 0);
    let command = asked(&mut mapper).await;
    assert_eq!((command.device, command.timeout_ms), (Some(key("b1")), 5000));
    assert_eq!(command.what, Some(pb::command::What::Read(pb::ReadNow { properties: vec!["temperature".into()] })));
    // Nobody else answers it.
    other.say(answer(command.id, "", vec![value("temperature", V::Number(-1.0))])).await;
    other.report("b1", vec![value("temperature", V::Number(-1.0))]).await;
    // What the device does not have is nobody's.
    let values = vec![value("temperature", V::Number(23.75)), value("nothing", V::Integer(1))];
    mapper.say(answer(command.id, "", values)).await;
    let read = waiting.await.unwrap().unwrap();
    assert_eq!(read.len(), 1, "{read:?}");
    assert_eq!((read[0].reported.as_deref(), read[0].unit.as_str()), (Some("23.75"), "C"));
    assert_eq!(read[0].quality(), pb::Quality::Good);
    // It was an answer and not a report.
    assert_eq!(twin(&node.view("b1").await.unwrap(), "temperature").reported.as_deref(), Some("20.5"));

    // In the mapper's words.
    let waiting = ask(&node, &[], 60_000_000);
    let command = asked(&mut mapper).await;
    assert_eq!(command.timeout_ms, 60_000);
    mapper.say(answer(command.id, "the line\nis away", Vec::new())).await;
    let refused = waiting.await.unwrap().unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "the line is away"));

    // In time, and an answer that comes later is nobody's.
    let late = ask(&node, &[], 1).await.unwrap().unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    let command = asked(&mut mapper).await;
    mapper.say(answer(command.id, "", Vec::new())).await;

    assert_eq!(ask(&node, &["pressure"], 0).await.unwrap().unwrap_err().code(), Code::NotFound);
    // The mapper goes while somebody waits.
    let waiting = ask(&node, &[], 0);
    asked(&mut mapper).await;
    drop(mapper);
    let gone = waiting.await.unwrap().unwrap_err();
    assert_eq!(gone.code(), Code::FailedPrecondition, "{gone:?}");
}

#[tokio::test]
async fn questions_are_bounded_and_a_mapper_of_v1beta1_is_not_asked() {
    let node = Node::start().await;
    node.put_boiler("b1");
    let nobody = ask(&node, &[], 0).await.unwrap().unwrap_err();
    assert!([Code::NotFound, Code::FailedPrecondition].contains(&nobody.code()), "{nobody:?}");
    let mut mapper = Mapper::connect(&node, "m").await;
    mapper.take_device().await;
    // It reads and does not answer.
    let mut waiting = Vec::new();
    for _ in 0..64 {
        waiting.push(ask(&node, &[], 60_000));
        asked(&mut mapper).await;
    }
    let refused = ask(&node, &[], 0).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // Who does not wait any more makes room.
    waiting.pop().unwrap().abort();
    let room = crate::node::eventually(async || {
        let answer = ask(&node, &[], 1).await.unwrap().unwrap_err();
        (answer.code() == Code::DeadlineExceeded).then_some(())
    });
    assert!(room.await.is_some());
    drop(mapper);
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::FailedPrecondition);
    }
    let (address, _) = register(&node, "old", "modbus", true).await;
    let _server = MapperServer::willing(&address);
    node.until("b1", |view| view.mapper == "old").await;
    let refused = ask(&node, &[], 0).await.unwrap().unwrap_err();
    assert!(refused.message().contains("v1beta1"), "{refused:?}");
}
