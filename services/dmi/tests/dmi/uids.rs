//! Processes of other users at the socket: this test binary, started again as somebody else.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use prost::Message as _;
use skerry_proto::dmi::v1 as pb;

use crate::node::{Node, condition};
use crate::stream::Mapper;
use crate::v1beta1::{REGISTER, STATES, STATUS, registration, report, states};
use crate::wire::{Message, try_call};

const CHILD: &str = "SKERRY_TEST_OTHER_USER";
/// Nobody, on every Linux.
const NOBODY: u32 = 65_534;
/// A call that has not ended by then is a stream that goes on.
const OPEN: Duration = Duration::from_secs(2);
const DENIED: &str = "7";
/// The child could not even connect.
const NO_CONNECTION: &str = "-";

/// Does nothing, except in the child: calls what its standard input names, and prints the codes.
#[test]
fn entry() {
    let Some(socket) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (path, hex) = line.split_once(' ').unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let message = Message((0..hex.len()).step_by(2).map(byte).collect());
        let call = async { tokio::time::timeout(OPEN, try_call(Path::new(&socket), path, &message)).await };
        let code = match runtime.block_on(call) {
            Ok(Some((code, ..))) => code.to_string(),
            Ok(None) => NO_CONNECTION.to_owned(),
            // A stream that goes on: nobody was denied.
            Err(_) => "0".to_owned(),
        };
        println!("\ncode {code}");
    }
}

/// What a user gets for calls in this order.
async fn codes(node: &Node, uid: u32, calls: &[(String, Message)]) -> Vec<String> {
    // The folders of a build are not everybody's.
    let program = node.path("other-user");
    if !program.exists() {
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        for path in [&node.path("."), &program] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let mut command = tokio::process::Command::new(program);
    command
        .args(["--exact", "uids::entry", "--nocapture", "--test-threads=1"])
        .env(CHILD, node.socket())
        .uid(uid)
        .gid(uid)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let hex = |message: &Message| message.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let input: String = calls.iter().map(|(path, message)| format!("{path} {}\n", hex(message))).collect();
    let mut stdin = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let codes: Vec<String> = text.lines().filter_map(|line| line.strip_prefix("code ")).map(str::to_owned).collect();
    assert_eq!(codes.len(), calls.len(), "{text}");
    codes
}

/// Every call that the socket has for mappers and people, from the descriptors.
fn every_call() -> Vec<(String, Message)> {
    let files = prost_types::FileDescriptorSet::decode(skerry_proto::FILE_DESCRIPTOR_SET).unwrap().file;
    let mut calls = Vec::new();
    for file in files {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            if ["v1beta1.DeviceManagerService", "skerry.dmi.v1.Mappers", "skerry.dmi.v1.Devices"]
                .contains(&name.as_str())
            {
                calls
                    .extend(service.method.iter().map(|method| (format!("/{name}/{}", method.name()), Message::new())));
            }
        }
    }
    assert_eq!(calls.len(), 10, "{calls:?}");
    calls
}

fn open_to_all(node: &Node) {
    std::fs::set_permissions(node.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
}

#[tokio::test]
async fn a_user_who_is_not_named_is_denied_every_call() {
    let node = Node::start().await;
    let calls = every_call();
    // The socket's mode keeps strangers away.
    assert!(codes(&node, NOBODY, &calls).await.iter().all(|code| code == NO_CONNECTION));
    // And where somebody has widened it, the kernel's word about the peer does.
    open_to_all(&node);
    for ((path, _), code) in calls.iter().zip(codes(&node, NOBODY, &calls).await) {
        assert_eq!(code, DENIED, "{path}");
    }
}

#[tokio::test]
async fn control_a_user_who_is_named_is_not_denied() {
    let node = Node::with(|config| config.dmi.allowed_uids = vec![NOBODY]).await;
    open_to_all(&node);
    let calls = every_call();
    for ((path, _), code) in calls.iter().zip(codes(&node, NOBODY, &calls).await) {
        assert!(code != DENIED && code != NO_CONNECTION, "{path}: {code}");
    }
}

#[tokio::test]
async fn a_user_cannot_speak_for_the_mapper_of_another() {
    let node = Node::with(|config| config.dmi.allowed_uids = vec![NOBODY]).await;
    open_to_all(&node);
    node.put_boiler("b1");
    let mut mapper = Mapper::connect(&node, "m").await;
    mapper.take_device().await;
    mapper.state("b1", pb::DeviceState::Online, "").await;
    node.until("b1", |view| condition(view, "Online").status).await;
    let own = node.path("stranger.sock");
    let hello = pb::Hello { name: "m".into(), protocol: "modbus".into(), ..Default::default() };
    let hello = pb::MapperMessage { message: Some(pb::mapper_message::Message::Hello(hello)) };
    let theft = [
        (REGISTER.to_owned(), registration("m", "modbus", &own, true)),
        ("/skerry.dmi.v1.Mappers/Connect".to_owned(), Message(hello.encode_to_vec())),
        (STATUS.to_owned(), report("b1", "temperature", "99")),
        (STATES.to_owned(), states("b1", "offline")),
    ];
    assert_eq!(codes(&node, NOBODY, &theft).await, [DENIED; 4]);
    // A mapper of its own it may have, which gets nothing that another has.
    let own_mapper = [
        (REGISTER.to_owned(), registration("stranger", "modbus", &own, true)),
        (STATUS.to_owned(), report("b1", "temperature", "99")),
    ];
    assert_eq!(codes(&node, NOBODY, &own_mapper).await, ["0", DENIED]);
    let view = node.view("b1").await.unwrap();
    assert_eq!((view.mapper.as_str(), view.state()), ("m", pb::DeviceState::Online));
    assert!(view.twins.iter().all(|twin| twin.reported.is_none()));
    // Whose mapper it is may replace it.
    let again = Mapper::connect(&node, "m").await;
    drop(again);
}
