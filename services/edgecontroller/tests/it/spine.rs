//! The whole cloud side: a machine joins over a real CloudHub, and objects and reports pass.

use std::time::Duration;

use serde_json::json;
use skerry_cloudhub::{CloudHub, SourceConfig};
use skerry_common::{NodeName, drain};
use skerry_edgecontroller::{Config, EdgeController, nodes, tokens};
use skerry_identity::{CredentialOptions, CredentialWatch, Credentials, NodeKey, TokenRequest, TrustDomain, pin};
use skerry_proto::identity::v1::identity_client::IdentityClient;
use skerry_proto::identity::v1::{JoinRequest, RenewRequest};
use skerry_rpc::{Channel, ClientLimits, Listen};
use skerry_telemetry::{Readiness, Registry};

use crate::cluster::{Cluster, eventually};
use crate::hub::{Sink, Source, committed, rejected};

#[tokio::test]
async fn a_machine_joins_and_works_over_a_hub() {
    let cluster = Cluster::start().await;
    cluster.config_map("cm", "1").await;
    let dir = tempfile::tempdir().unwrap();
    let (trigger, stop) = drain::channel(Duration::from_secs(5));
    let folder = dir.path().join("cloudhub");
    let config = Config { credentials: [("cloudhub".to_owned(), folder.clone())].into(), ..Config::default() };
    let (registry, readiness) = (Registry::new(), Readiness::new());
    let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let controller = EdgeController::build(&config, listen, cluster.faulty(), &registry, &readiness).await.unwrap();
    let source = SourceConfig::edgecontroller(vec![controller.local_addr().unwrap().to_string()]);
    let hub = skerry_cloudhub::Config {
        name: "hub-0".to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        credentials: folder,
        trust_domain: config.trust_domain.clone(),
        sources: vec![source],
        registry: "edgecontroller".to_owned(),
    };
    let hub = CloudHub::build(hub, &Registry::new(), &skerry_telemetry::Readiness::new()).await.unwrap();
    let address = hub.local_addr().unwrap().to_string();
    let controller = tokio::spawn(controller.run(stop.clone()));
    let hub = tokio::spawn(hub.run(stop));

    // Join: the CA is pinned by the token, no certificate yet.
    let request = TokenRequest { labels: [("site".to_owned(), "lab".to_owned())].into(), ..TokenRequest::default() };
    let (token, _) = tokens::create(cluster.client.clone(), request).await.unwrap();
    let key = NodeKey::generate().unwrap();
    let pinned = pin::client_config(token.ca_hash()).unwrap();
    let stranger = Channel::tcp([address.clone()], "cloudhub", pinned, ClientLimits::node()).unwrap();
    let join = JoinRequest { token: token.proof(), node_name: "edge-1".to_owned(), csr_der: key.csr().unwrap() };
    let answer = IdentityClient::new(stranger).join(join).await.unwrap().into_inner();
    assert_eq!(answer.labels["site"], "lab");
    let certificate = answer.certificate.unwrap();
    let domain = TrustDomain::parse(&certificate.trust_domain).unwrap();
    let credentials = Credentials::from_answer(&certificate.chain_pem, &certificate.ca_pem, &key).unwrap();
    let watch = CredentialWatch::fixed(CredentialOptions::new(domain), credentials).unwrap();
    let channel = Channel::tcp([address], "cloudhub", watch, ClientLimits::node()).unwrap();

    // Up and down as the node.
    let mut down = Source::over(channel.clone(), "edge-1", 7).await;
    let mut up = Sink::over(channel.clone(), "edge-1", 7).await;
    let node = json!({"metadata": {"name": "edge-1", "labels": {"site": "lab"}}});
    assert!(committed(&up.report("", 0, "NodeRegistration", "edge-1", "", node).await));
    down.open(1, "", 0, "Pod", &[]).await;
    down.open(2, "", 0, "ConfigMap", &[]).await;
    down.open(3, "", 0, "Node", &[]).await;
    down.in_sync().await;
    let uid = cluster.pod("web", "edge-1").await;
    down.until("the pod arrives", |d| d.names(1) == ["default/web"]).await;
    down.until("its map arrives", |d| d.names(2) == ["default/cm"]).await;
    down.until("the node arrives", |d| d.names(3) == ["edge-1"]).await;
    assert!(down.body(3, "edge-1")["metadata"]["annotations"]["skerry.io/key"] == key.fingerprint());
    let running_pod = json!({"metadata": {"uid": uid}, "status": {"phase": "Running"}});
    assert!(committed(&up.report("", 0, "PodStatus", "default/web", &uid, running_pod).await));
    assert_eq!(cluster.get("Pod", "default", "web").await.unwrap().data["status"]["phase"], "Running");
    let other = json!({"metadata": {"name": "edge-2"}});
    assert!(rejected(&up.report("", 0, "NodeRegistration", "edge-2", "", other).await));

    // Its lease lives, under its session.
    eventually("the lease carries the session", || async {
        let lease = cluster.get("Lease", "kube-node-lease", "edge-1").await.unwrap();
        lease.metadata.annotations.is_some_and(|a| a.get("skerry.io/session").is_some_and(|s| s == "7"))
            && lease.data["spec"]["renewTime"].is_string()
    })
    .await;

    // Renewal over the connection that it has; then it is thrown out.
    let next = NodeKey::generate().unwrap();
    let renew = RenewRequest { csr_der: next.csr().unwrap() };
    IdentityClient::new(channel.clone()).renew(renew.clone()).await.unwrap();
    let edge = NodeName::parse("edge-1").unwrap();
    assert_eq!(nodes::revoke(cluster.client.clone(), &edge).await.unwrap(), 2);
    eventually("the revoked node is refused", || async {
        IdentityClient::new(channel.clone()).renew(renew.clone()).await.is_err()
    })
    .await;
    drop((down, up));
    trigger.drain().await;
    hub.await.unwrap().unwrap();
    controller.await.unwrap().unwrap();
}
