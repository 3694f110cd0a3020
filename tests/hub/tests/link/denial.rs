//! Who may call what on the hub's port, and that a node speaks only for itself.

use prost::Message as _;
use skerry_common::kinds;
use skerry_hub_tests::{Fixture, Raw, call};
use skerry_identity::{Ca, Credentials, NodeKey, TrustDomain};
use skerry_proto::sync::v1 as pb;
use skerry_rpc::{Channel, ClientLimits, Target, connect_once};
use tonic::Code;

/// Every method that is in the protocol's descriptors, as a path.
fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(skerry_proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut paths = Vec::new();
    for file in set.file {
        let package = file.package().to_owned();
        for service in &file.service {
            for method in &service.method {
                paths.push(format!("/{package}.{}/{}", service.name(), method.name()));
            }
        }
    }
    assert!(paths.len() > 15, "{paths:?}");
    paths
}

/// The methods that pass the hub's table for a class of callers. Everything else must be refused.
fn allowed(caller: &str) -> &'static [&'static str] {
    match caller {
        "node" => &[
            "/skerry.sync.v1.Source/Subscribe",
            "/skerry.sync.v1.Sink/Report",
            "/skerry.identity.v1.Identity/Join",
            "/skerry.identity.v1.Identity/Renew",
            "/skerry.review.v1.Reviews/Review",
        ],
        "admin" => &[
            "/skerry.hub.v1.Hub/ListSessions",
            "/skerry.hub.v1.Hub/GetUsage",
            "/skerry.hub.v1.Hub/DisconnectNode",
            "/skerry.identity.v1.Identity/Join",
        ],
        // Joining is for machines that have no certificate yet, so it is open to all.
        _ => &["/skerry.identity.v1.Identity/Join"],
    }
}

async fn connect(hub: std::net::SocketAddr, credentials: Credentials) -> Channel {
    Raw::connect(hub, credentials).await.unwrap().connection.channel()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_refused_to_whom_the_table_does_not_name() {
    let fixture = Fixture::start().await.unwrap();
    let hub = fixture.hub("hub-0").await.unwrap();
    let anonymous = {
        let trust = skerry_identity::pin::client_config(fixture.ca_hash()).unwrap();
        let target = Target::tcp([hub.address.to_string()], "cloudhub", trust).unwrap();
        connect_once(&target, &ClientLimits::node()).await.unwrap().channel()
    };
    let callers = [
        ("anonymous", anonymous),
        ("node", connect(hub.address, fixture.node("edge-1").unwrap()).await),
        ("admin", connect(hub.address, fixture.service("admin").unwrap()).await),
        ("edgecontroller", connect(hub.address, fixture.service("edgecontroller").unwrap()).await),
    ];
    for (caller, channel) in &callers {
        for path in methods() {
            let code = call(channel, &path).await.unwrap();
            let refused = matches!(code, Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented);
            // The cloud of the fixture knows no join token, which is a refusal by the handler.
            let handled = path.ends_with("/Join") && code == Code::PermissionDenied;
            assert_eq!(refused && !handled, !allowed(caller).contains(&&*path), "{caller} {path}: {code:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_others_are_refused_in_the_handshake() {
    let fixture = Fixture::start().await.unwrap();
    let hub = fixture.hub("hub-0").await.unwrap();
    let other = Ca::generate(&TrustDomain::parse("skerry.test").unwrap()).unwrap();
    let key = NodeKey::generate().unwrap();
    let name = skerry_common::NodeName::parse("edge-1").unwrap();
    let life = std::time::Duration::from_secs(600);
    let issued = other.issue_node(&key.csr().unwrap(), &name, life, jiff::Timestamp::now()).unwrap();
    // Trusts the real CA, but shows a certificate of another one with the right name.
    let real = fixture.node("edge-1").unwrap();
    let forged = Credentials::from_answer(&issued.pem(), &real.ca().pem(), &key);
    let connected = match forged {
        Ok(forged) => match Raw::connect(hub.address, forged).await {
            Ok(raw) => call(&raw.connection.channel(), "/skerry.sync.v1.Source/Subscribe").await.is_ok(),
            Err(_) => false,
        },
        // Refused before it reached the network.
        Err(_) => false,
    };
    assert!(!connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_cannot_speak_for_another() {
    let fixture = Fixture::start().await.unwrap();
    let hub = fixture.hub("hub-0").await.unwrap();
    let raw = Raw::connect(hub.address, fixture.node("edge-1").unwrap()).await.unwrap();

    let mut stream = raw.subscribe("edge-2", 1).await.unwrap();
    assert_eq!(stream.next().await.unwrap_err().code(), Code::PermissionDenied);

    let mut stream = raw.subscribe("edge-1", 1).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), Some(pb::subscribe_response::Message::Welcome(_))));
    let open =
        pb::Open { subscription: 1, node: "edge-2".to_owned(), kind: kinds::POD.to_owned(), ..pb::Open::default() };
    stream.send(pb::subscribe_request::Message::Open(open)).await.unwrap();
    assert_eq!(stream.next().await.unwrap_err().code(), Code::PermissionDenied);

    let key = Some(pb::Key { namespace: "default".to_owned(), name: "web".to_owned() });
    let report = pb::Report {
        id: 1,
        node: "edge-2".to_owned(),
        kind: kinds::POD_STATUS.to_owned(),
        key,
        encoding: pb::Encoding::Identity.into(),
        ..pb::Report::default()
    };
    assert_eq!(raw.report(2, report.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(fixture.cloud.reports().is_empty());

    // The control: for itself it may, and the cloud sees the name of the certificate.
    let own = pb::Report { node: String::new(), ..report };
    assert!(matches!(raw.report(3, own).await.unwrap(), Some(pb::outcome::Result::Committed(_))));
    assert_eq!(fixture.cloud.reports()[0].node, "edge-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_stream_are_said() {
    let fixture = Fixture::start().await.unwrap();
    let hub = fixture.hub("hub-0").await.unwrap();
    let raw = Raw::connect(hub.address, fixture.node("edge-1").unwrap()).await.unwrap();
    let mut stream = raw.subscribe("", 1).await.unwrap();
    stream.next().await.unwrap();
    let open = |id, kind: &str| {
        let open = pb::Open { subscription: id, kind: kind.to_owned(), ..pb::Open::default() };
        pb::subscribe_request::Message::Open(open)
    };
    stream.send(open(1, "Unheard")).await.unwrap();
    let Some(pb::subscribe_response::Message::Closed(closed)) = stream.next().await.unwrap() else { panic!() };
    assert_eq!(closed.code(), pb::CloseCode::UnknownKind);
    let mut limited = false;
    for id in 2..100 {
        stream.send(open(id, kinds::POD)).await.unwrap();
    }
    while let Some(message) = stream.next().await.unwrap() {
        if let pb::subscribe_response::Message::Closed(closed) = message {
            limited = closed.code() == pb::CloseCode::Limit;
            if limited {
                break;
            }
        }
    }
    assert!(limited);
    stream.send(open(2, kinds::POD)).await.unwrap();
    let refused = loop {
        match stream.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::InvalidArgument);
}
