//! Who calls, and what they may call.

use std::time::Duration;

use skerry_identity::{CredentialWatch, RevocationPublisher, RevocationSet};
use skerry_proto::hub::v1::GetUsageRequest;
use skerry_proto::hub::v1::hub_client::HubClient;
use skerry_rpc::{BindError, Caller, ClientLimits, CloseReason, Listen, Policy, Server, ServerConfig, ServerLimits};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_learns_the_identity_of_the_certificate() {
    let pki = Pki::new();
    let server = serve_tls(&pki, ServerLimits::hub()).await;
    let node = connect(server.address, pki.node("edge-1")).await;
    let mut open = Open::new(node.channel()).await.unwrap();
    assert_eq!(open.next().await.unwrap(), "node edge-1");
    let admin = connect(server.address, pki.service("admin")).await;
    assert_eq!(list(admin.channel(), "").await.unwrap().hub, "service admin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_table_does_not_allow_is_refused_before_the_handler() {
    let pki = Pki::new();
    let server = serve_tls(&pki, ServerLimits::hub()).await;
    let node = connect(server.address, pki.node("edge-1")).await.channel();
    let service = connect(server.address, pki.service("edgecontroller")).await.channel();
    let stranger = connect(server.address, pki.stranger()).await.channel();
    for channel in [&node, &service, &stranger] {
        assert_eq!(list(channel.clone(), "").await.unwrap_err().code(), Code::PermissionDenied);
    }
    for channel in [&service, &stranger] {
        assert_eq!(Open::new(channel.clone()).await.err().unwrap().code(), Code::PermissionDenied);
    }
    assert_eq!(server.echo.calls(), 0);
    // The one method that is open to everybody.
    for channel in [node, service, stranger] {
        HubClient::new(channel).get_usage(GetUsageRequest::default()).await.unwrap();
    }
    assert_eq!(server.metrics.refusals("test", "anonymous"), 2);
    assert_eq!(server.metrics.refusals("test", "caller"), 3);
}

/// Every method that the descriptors know, on a server whose table allows nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_is_refused_unless_the_table_names_it() {
    let pki = Pki::new();
    let tls = pki.service("cloudhub");
    let server = serve(
        Policy::new().allow("skerry.hub.v1.Hub/GetUsage", &[Caller::Anonymous]),
        Some(tls),
        ServerLimits::default(),
    )
    .await;
    let set: prost_types::FileDescriptorSet = prost::Message::decode(skerry_proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut methods = 0;
    for (name, tls) in [("node", pki.node("edge-1")), ("service", pki.service("admin"))] {
        let channel = connect(server.address, tls).await.channel();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    if path == "/skerry.hub.v1.Hub/GetUsage" {
                        continue;
                    }
                    let mut grpc = tonic::client::Grpc::new(channel.clone());
                    let codec = skerry_proto::codec::SmallCodec::<(), ()>::default();
                    let result = grpc.unary(Request::new(()), path.parse().unwrap(), codec).await;
                    assert_eq!(result.map(drop).unwrap_err().code(), Code::PermissionDenied, "{name} {path}");
                    methods += 1;
                }
            }
        }
    }
    assert!(methods >= 20, "{methods}");
    assert_eq!(server.echo.calls(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authority_is_refused_by_both_ends() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let server = serve_tls(&ours, ServerLimits::hub()).await;
    // They do not trust our server.
    let error = skerry_rpc::connect_once(&target(server.address, theirs.node("edge-1")), &ClientLimits::node()).await;
    assert_eq!(error.unwrap_err().code(), "tls");
    // Their certificate, with our CA trusted: the server refuses it.
    let mixed = skerry_identity::Credentials::new(
        theirs.node_credentials("edge-1").chain().to_vec(),
        theirs.node_credentials("edge-1").key().clone_key(),
        ours.ca.bundle().unwrap(),
    );
    // Key and chain of two calls differ; such a pair does not even load.
    assert!(mixed.is_err());
    let credentials = theirs.node_credentials("edge-1");
    let both = ours.ca.bundle().unwrap().union(&theirs.ca.bundle().unwrap()).unwrap();
    let trusting =
        skerry_identity::Credentials::new(credentials.chain().to_vec(), credentials.key().clone_key(), both).unwrap();
    let tls = CredentialWatch::fixed(ours.options(), trusting).unwrap();
    let connection = connect(server.address, tls).await;
    assert!(matches!(connection.closed().await, CloseReason::Broken(_)));
    until("the refusal", Duration::from_secs(5), || server.metrics.refusals("test", "tls") >= 2).await;
    assert_eq!(server.echo.calls(), 0);
}

/// A node's certificate must not serve, nor that of another service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_connects_only_to_the_service_that_it_means() {
    let pki = Pki::new();
    for tls in [pki.node("edge-1"), pki.service("edgecontroller")] {
        let server = serve(policy(), Some(tls), ServerLimits::default()).await;
        let to = target(server.address, pki.node("edge-2"));
        let error = skerry_rpc::connect_once(&to, &ClientLimits::node()).await.unwrap_err();
        assert_eq!(error.code(), "tls", "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_anonymous_methods_a_connection_without_certificate_is_closed() {
    let pki = Pki::new();
    let table = Policy::new().allow("skerry.sync.v1.Source", &[Caller::Node]);
    let server = serve(table, Some(pki.service("cloudhub")), ServerLimits::default()).await;
    let connection = connect(server.address, pki.stranger()).await;
    assert_ne!(connection.closed().await, CloseReason::Silent);
    assert_eq!(server.metrics.refusals("test", "anonymous"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_without_tls_is_for_loopback() {
    let config = ServerConfig::new("test", Listen::Tcp(([0, 0, 0, 0], 0).into()), policy());
    assert!(matches!(Server::bind(config).await, Err(BindError::Plaintext(_))));
    let server = serve(policy(), None, ServerLimits::default()).await;
    let to = skerry_rpc::Target::loopback(server.address).unwrap();
    let channel = skerry_rpc::Channel::lazy(&to, ClientLimits::default());
    assert_eq!(list(channel, "").await.unwrap_err().code(), Code::PermissionDenied);
    assert!(skerry_rpc::Target::loopback(([10, 0, 0, 1], 1).into()).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_first_credential_every_handshake_fails_and_a_new_one_needs_no_restart() {
    let pki = Pki::new();
    let (publisher, empty) = pki.empty();
    let server = serve(policy(), Some(empty), ServerLimits::hub()).await;
    let to = target(server.address, pki.node("edge-1"));
    assert_eq!(skerry_rpc::connect_once(&to, &ClientLimits::node()).await.unwrap_err().code(), "tls");
    publisher.publish(pki.service_credentials("cloudhub")).unwrap();
    let first = connect(server.address, pki.node("edge-1")).await;
    let mut open = Open::new(first.channel()).await.unwrap();
    open.next().await.unwrap();

    // A rotation: open streams go on, new connections get the new certificate.
    publisher.publish(pki.service_credentials("cloudhub")).unwrap();
    assert_eq!(open.ask().await.unwrap(), "node edge-1");
    let second = connect(server.address, pki.node("edge-1")).await;
    Open::new(second.channel()).await.unwrap().next().await.unwrap();
    assert_eq!(open.ask().await.unwrap(), "node edge-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_credential_connects_once_it_has_one() {
    let pki = Pki::new();
    let server = serve_tls(&pki, ServerLimits::hub()).await;
    let (publisher, empty) = pki.empty();
    let to = target(server.address, empty);
    assert_eq!(skerry_rpc::connect_once(&to, &ClientLimits::node()).await.unwrap_err().code(), "tls");
    publisher.publish(pki.node_credentials("edge-7")).unwrap();
    let connection = skerry_rpc::connect_once(&to, &ClientLimits::node()).await.unwrap();
    assert_eq!(Open::new(connection.channel()).await.unwrap().next().await.unwrap(), "node edge-7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_ends_live_connections_and_refuses_new_ones() {
    let pki = Pki::new();
    let (revoke, list) = RevocationPublisher::new();
    let server = serve(policy(), Some(pki.service_with("cloudhub", list)), ServerLimits::hub()).await;
    let credentials = pki.node_credentials("edge-1");
    let fingerprint = credentials.info().fingerprint.clone();
    let bad = CredentialWatch::fixed(pki.options(), credentials).unwrap();
    let by_key = connect(server.address, bad.clone()).await;
    let mut by_key_stream = Open::new(by_key.channel()).await.unwrap();
    let by_name = connect(server.address, pki.node("edge-2")).await;
    let mut by_name_stream = Open::new(by_name.channel()).await.unwrap();
    let good = connect(server.address, pki.node("edge-3")).await;
    let mut good_stream = Open::new(good.channel()).await.unwrap();
    for stream in [&mut by_key_stream, &mut by_name_stream, &mut good_stream] {
        stream.next().await.unwrap();
    }

    let started = std::time::Instant::now();
    let node = skerry_common::NodeName::parse("edge-2").unwrap();
    revoke.set(RevocationSet { fingerprints: [fingerprint].into(), nodes: [node].into() });
    by_key.closed().await;
    by_name.closed().await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(by_key_stream.end().await.code() != Code::Ok);
    assert_eq!(server.metrics.ended("test", "revoked"), 2);
    assert_eq!(good_stream.ask().await.unwrap(), "node edge-3");

    // The handshake of a revoked key fails; TLS 1.3 tells the client a moment later.
    match skerry_rpc::connect_once(&target(server.address, bad), &ClientLimits::node()).await {
        Err(_) => {}
        Ok(connection) => assert!(matches!(connection.closed().await, CloseReason::Broken(_))),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_connection_of_an_identity_replaces_the_oldest() {
    let pki = Pki::new();
    let limits = ServerLimits { max_connections_per_identity: 2, ..ServerLimits::hub() };
    let server = serve_tls(&pki, limits).await;
    let mut streams = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..3 {
        let connection = connect(server.address, pki.node("edge-1")).await;
        let mut open = Open::new(connection.channel()).await.unwrap();
        open.next().await.unwrap();
        streams.push(open);
        connections.push(connection);
    }
    let status = streams[0].end().await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "replaced by a newer connection of the same identity")
    );
    connections[0].closed().await;
    assert_eq!(streams[1].ask().await.unwrap(), "node edge-1");
    assert_eq!(streams[2].ask().await.unwrap(), "node edge-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_may_end_a_connection_with_a_reason() {
    let pki = Pki::new();
    let server = serve(policy(), Some(pki.service("cloudhub")), ServerLimits::default()).await;
    let connection = connect(server.address, pki.service("admin")).await;
    // The call itself is answered, and then the connection ends.
    list(connection.channel(), "close").await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(3), connection.closed()).await;
    assert_eq!(closed.unwrap(), CloseReason::Peer);
    until("the end", Duration::from_secs(2), || server.metrics.ended("test", "closed_by_service") == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_for_those_with_a_certificate() {
    let pki = Pki::new();
    let server = serve_tls(&pki, ServerLimits::hub()).await;
    let check = |channel, service: &'static str| async move {
        let request = HealthCheckRequest { service: service.to_owned() };
        HealthClient::new(channel).check(request).await.map(|r| r.into_inner().status)
    };
    let node = connect(server.address, pki.node("edge-1")).await.channel();
    assert_eq!(check(node.clone(), "").await.unwrap(), 1);
    assert_eq!(check(node.clone(), "skerry.sync.v1.Source").await.unwrap(), 1);
    assert_eq!(check(node.clone(), "skerry.sync.v1.Sink").await.unwrap_err().code(), Code::NotFound);
    let stranger = connect(server.address, pki.stranger()).await.channel();
    assert_eq!(check(stranger, "").await.unwrap_err().code(), Code::PermissionDenied);
    server.health.set("skerry.sync.v1.Source", false).await;
    assert_eq!(check(node.clone(), "skerry.sync.v1.Source").await.unwrap(), 2);
    assert_eq!(check(node, "").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_the_services_of_the_table() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let pki = Pki::new();
    let server = serve_tls(&pki, ServerLimits::hub()).await;
    let ask = |message: MessageRequest| {
        let tls = pki.node("edge-1");
        async move {
            let channel = connect(server.address, tls).await.channel();
            let request = tonic_reflection::pb::v1::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(message),
            };
            let stream = tokio_stream::once(request);
            let answers = ServerReflectionClient::new(channel).server_reflection_info(stream).await.unwrap();
            answers.into_inner().message().await.map(|answer| answer.unwrap().message_response.unwrap())
        }
    };
    let Ok(MessageResponse::ListServicesResponse(list)) = ask(MessageRequest::ListServices(String::new())).await else {
        panic!("no list")
    };
    let mut names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "skerry.hub.v1.Hub",
            "skerry.sync.v1.Source",
        ]
    );
    let symbol = |name: &str| MessageRequest::FileContainingSymbol(name.to_owned());
    assert!(matches!(ask(symbol("skerry.sync.v1.Source")).await, Ok(MessageResponse::FileDescriptorResponse(_))));
    assert_eq!(ask(symbol("skerry.identity.v1.Identity")).await.unwrap_err().code(), Code::NotFound);
}

/// Python's reflection client, among others, speaks only the older version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_also_speaks_its_older_version() {
    use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;
    let pki = Pki::new();
    let server = serve_tls(&pki, ServerLimits::hub()).await;
    let channel = connect(server.address, pki.node("edge-1")).await.channel();
    let request = tonic_reflection::pb::v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("skerry.hub.v1.Hub".to_owned())),
    };
    let stream = tokio_stream::once(request);
    let answers = ServerReflectionClient::new(channel).server_reflection_info(stream).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)));
}
