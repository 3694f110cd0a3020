//! A1 and A2: over the network, nobody but cloudhub may call anything (cases 19 and 20).

use std::time::Duration;

use jiff::Timestamp;
use skerry_common::{NodeName, drain};
use skerry_edgecontroller::{Config, EdgeController, existing_ca, issue_service_credentials, kube_client};
use skerry_identity::{
    Ca, Clock, CredentialOptions, CredentialStore, CredentialWatch, Credentials, DEFAULT_NODE_LIFETIME, TrustDomain,
};
use skerry_proto::hub::v1::HubUpdate;
use skerry_proto::hub::v1::registry_client::RegistryClient;
use skerry_proto::identity::v1::issuer_client::IssuerClient;
use skerry_proto::identity::v1::{IssueForJoinRequest, IssueForRenewalRequest};
use skerry_proto::review::v1::ReviewRequest;
use skerry_proto::review::v1::reviews_client::ReviewsClient;
use skerry_proto::sync::v1::sink_client::SinkClient;
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_proto::sync::v1::{ReportRequest, SubscribeRequest};
use skerry_rpc::{Channel, ClientLimits, Listen};
use skerry_telemetry::{Readiness, Registry};
use tonic::Code;

use crate::cluster::{Cluster, eventually};

/// What each call of the server is answered with: every RPC of every service that it offers.
async fn codes(channel: &Channel) -> Vec<(&'static str, Code)> {
    let subscribe = tokio_stream::iter([SubscribeRequest::default()]);
    let report = tokio_stream::iter([ReportRequest::default()]);
    let connect = tokio_stream::iter([HubUpdate::default()]);
    let code = |result: Result<(), tonic::Status>| result.map_or_else(|status| status.code(), |()| Code::Ok);
    vec![
        ("Subscribe", code(SourceClient::new(channel.clone()).subscribe(subscribe).await.map(drop))),
        ("Report", code(SinkClient::new(channel.clone()).report(report).await.map(drop))),
        ("Connect", code(RegistryClient::new(channel.clone()).connect(connect).await.map(drop))),
        ("Review", code(ReviewsClient::new(channel.clone()).review(ReviewRequest::default()).await.map(drop))),
        (
            "IssueForJoin",
            code(IssuerClient::new(channel.clone()).issue_for_join(IssueForJoinRequest::default()).await.map(drop)),
        ),
        (
            "IssueForRenewal",
            code(
                IssuerClient::new(channel.clone()).issue_for_renewal(IssueForRenewalRequest::default()).await.map(drop),
            ),
        ),
    ]
}

fn channel(address: &str, domain: &TrustDomain, credentials: Credentials) -> Channel {
    let watch = CredentialWatch::fixed(CredentialOptions::new(domain.clone()), credentials).unwrap();
    Channel::tcp([address.to_owned()], "edgecontroller", watch, ClientLimits::default()).unwrap()
}

#[tokio::test]
async fn nobody_but_cloudhub_may_call() {
    let cluster = Cluster::start().await;
    let (registry, readiness) = (Registry::new(), Readiness::new());
    let (trigger, stop) = drain::channel(Duration::from_secs(5));
    let config = Config::default();
    let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let app = EdgeController::build(&config, listen, cluster.faulty(), &registry, &readiness).await.unwrap();
    let address = app.local_addr().unwrap().to_string();
    let task = tokio::spawn(app.run(stop));
    let ca = existing_ca(cluster.client.clone()).await.unwrap().unwrap();
    let domain = ca.trust_domain().clone();
    let node = NodeName::parse("edge-1").unwrap();

    let hub = issue_service_credentials(&ca, "cloudhub", &[]).unwrap();
    for (rpc, code) in codes(&channel(&address, &domain, hub)).await {
        assert!(!matches!(code, Code::PermissionDenied | Code::Unavailable), "the control: {rpc} is {code:?}");
    }
    let node = ca.node_credentials(&node, DEFAULT_NODE_LIFETIME, Timestamp::now()).unwrap();
    let service = issue_service_credentials(&ca, "devicecontroller", &[]).unwrap();
    for credentials in [node, service] {
        for (rpc, code) in codes(&channel(&address, &domain, credentials)).await {
            assert_eq!(code, Code::PermissionDenied, "{rpc}");
        }
    }
    // Another CA that claims the same trust domain: not even a connection.
    let stranger = Ca::generate(&domain).unwrap();
    let stranger = issue_service_credentials(&stranger, "cloudhub", &[]).unwrap();
    for (rpc, code) in codes(&channel(&address, &domain, stranger)).await {
        assert_eq!(code, Code::Unavailable, "{rpc}");
    }
    trigger.drain().await;
    task.await.unwrap().unwrap();
}

/// As a process: a kubeconfig, TLS towards the API, certificates for the services beside it.
#[tokio::test]
async fn it_starts_from_a_kubeconfig_and_hands_out_certificates() {
    let (trigger, stop) = drain::channel(Duration::from_secs(5));
    let (dir, kubeconfig) = Cluster::over_tls(stop.clone()).await;
    let folder = dir.path().join("cloudhub");
    let config = Config {
        kubeconfig: Some(kubeconfig),
        credentials: [("cloudhub".to_owned(), folder.clone())].into(),
        ..Config::default()
    };
    let client = kube_client(&config).await.unwrap();
    let (registry, readiness) = (Registry::new(), Readiness::new());
    let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let app = EdgeController::build(&config, listen, client, &registry, &readiness).await.unwrap();
    let address = app.local_addr().unwrap().to_string();
    let task = tokio::spawn(app.run(stop));
    eventually("all kinds are listed", || async { readiness.is_ready() }).await;

    let domain = TrustDomain::parse(&config.trust_domain).unwrap();
    let loaded = CredentialStore::open(&folder).unwrap().load(&domain, &Clock::system());
    let (credentials, _, identity) = loaded.newest.unwrap();
    assert_eq!(identity.service().unwrap().as_str(), "cloudhub");
    let (_, code) = codes(&channel(&address, &domain, credentials)).await[0];
    assert_eq!(code, Code::Ok);
    let metrics = registry.encode();
    for name in ["changes_in", "api_requests", "lease_seconds", "cert_seconds_left", "panics"] {
        assert!(metrics.contains(&format!("skerry_edgecontroller_{name}")), "{name}");
    }
    trigger.drain().await;
    task.await.unwrap().unwrap();
}
