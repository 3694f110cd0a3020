//! The CA, join tokens, renewal, revocation (cases 16, 18, 19, 21 in short).

use std::collections::BTreeSet;
use std::time::Duration;

use skerry_common::NodeName;
use skerry_edgecontroller::{CODE_HEADER, ca, nodes, tokens};
use skerry_identity::{NodeKey, Token, TokenRequest, TrustDomain};
use skerry_proto::hub::v1::registry_update;
use skerry_proto::identity::v1::issuer_client::IssuerClient;
use skerry_proto::identity::v1::{Certificate, IssueForJoinRequest, IssueForRenewalRequest};
use tonic::Status;

use crate::cluster::{Cluster, Controller, eventually};
use crate::hub::Registry;

async fn join(controller: &Controller, token: &str, node: &str, key: &NodeKey) -> Result<Certificate, Status> {
    let request = IssueForJoinRequest {
        token: token.to_owned(),
        node_name: node.to_owned(),
        csr_der: key.csr().unwrap(),
        remote: "192.0.2.1:1".to_owned(),
    };
    let answer = IssuerClient::new(controller.channel()).issue_for_join(request).await?;
    Ok(answer.into_inner().certificate.unwrap())
}

async fn renew(controller: &Controller, node: &str, used: &str, key: &NodeKey) -> Result<Certificate, Status> {
    let request = IssueForRenewalRequest {
        node_name: node.to_owned(),
        key_fingerprint: used.to_owned(),
        csr_der: key.csr().unwrap(),
    };
    let answer = IssuerClient::new(controller.channel()).issue_for_renewal(request).await?;
    Ok(answer.into_inner().certificate.unwrap())
}

fn code(result: Result<Certificate, Status>) -> String {
    result.unwrap_err().metadata().get(CODE_HEADER).map_or("none".to_owned(), |c| c.to_str().unwrap().to_owned())
}

async fn token(cluster: &Cluster, request: TokenRequest) -> Token {
    tokens::create(cluster.client.clone(), request).await.unwrap().0
}

#[tokio::test]
async fn replicas_that_start_at_once_end_with_one_ca() {
    for _ in 0..5 {
        let cluster = Cluster::start().await;
        let domain = TrustDomain::parse("skerry.local").unwrap();
        let races = (0..5).map(|_| ca(cluster.faulty(), &domain));
        let prints: BTreeSet<String> =
            futures::future::join_all(races).await.into_iter().map(|ca| ca.unwrap().spki_hash().to_owned()).collect();
        assert_eq!(prints.len(), 1);
        let bundle = cluster.get("ConfigMap", "skerry-system", "skerry-ca-bundle").await.unwrap();
        assert!(bundle.data["data"]["ca.crt"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    }
}

#[tokio::test]
async fn exactly_as_many_machines_join_as_the_token_allows() {
    let cluster = Cluster::start().await;
    let replicas = [cluster.controller().await, cluster.controller().await, cluster.controller().await];
    let token = token(&cluster, TokenRequest { uses: 4, ..TokenRequest::default() }).await;
    let keys: Vec<NodeKey> = (0..12).map(|_| NodeKey::generate().unwrap()).collect();
    let proof = token.proof();
    let names: Vec<String> = (0..12).map(|i| format!("edge-{i}")).collect();
    let joins = keys.iter().zip(&names).enumerate().map(|(i, (key, name))| join(&replicas[i % 3], &proof, name, key));
    let results = futures::future::join_all(joins).await;
    let joined: Vec<usize> = results.iter().enumerate().filter(|(_, r)| r.is_ok()).map(|(i, _)| i).collect();
    assert_eq!(joined.len(), 4, "{results:?}");
    for result in results.into_iter().filter(Result::is_err) {
        assert_eq!(code(result), "token_used_up");
    }
    // Those who failed left nothing behind: their names are free.
    let leases = cluster.list("Lease", "kube-node-lease").await;
    assert_eq!(leases.len(), 4);
    // A machine whose answer was lost asks again, without a second use.
    assert!(join(&replicas[0], &proof, &names[joined[0]], &keys[joined[0]]).await.is_ok());
    // The same name with another key does not.
    let other = NodeKey::generate().unwrap();
    assert!(join(&replicas[0], &proof, &names[joined[0]], &other).await.is_err());
    for replica in replicas {
        replica.stop().await;
    }
}

#[tokio::test]
async fn refusals_have_codes_and_leave_nothing_behind() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let key = NodeKey::generate().unwrap();
    let good = token(&cluster, TokenRequest { uses: 10, ..TokenRequest::default() }).await;
    let short = token(&cluster, TokenRequest { lifetime: Duration::from_secs(0), ..TokenRequest::default() }).await;
    let named =
        token(&cluster, TokenRequest { node: Some(NodeName::parse("edge-9").unwrap()), ..TokenRequest::default() })
            .await;
    let revoked = token(&cluster, TokenRequest::default()).await;
    assert!(tokens::revoke(cluster.client.clone(), revoked.id()).await.unwrap());
    assert!(!tokens::revoke(cluster.client.clone(), "0000000000").await.unwrap());
    let wrong = format!("{}.{}", good.id(), "A".repeat(43));
    let unknown = format!("0123456789.{}", "A".repeat(43));
    for (proof, node, expected) in [
        (wrong, "edge-1", "token_unknown"),
        (unknown, "edge-1", "token_unknown"),
        ("nonsense".to_owned(), "edge-1", "token_unknown"),
        (short.proof(), "edge-1", "token_expired"),
        (named.proof(), "edge-1", "token_other_node"),
        (revoked.proof(), "edge-1", "token_revoked"),
        (good.proof(), "Edge_1", "node_name_invalid"),
        (good.proof(), "../x", "node_name_invalid"),
    ] {
        assert_eq!(code(join(&controller, &proof, node, &key).await), expected, "{node}");
    }
    assert!(cluster.list("Lease", "kube-node-lease").await.is_empty());
    // A node of the cluster that is not ours.
    let node = serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cloud-1"}});
    cluster.create("Node", "", node).await;
    assert_eq!(code(join(&controller, &good.proof(), "cloud-1", &key).await), "node_name_taken");
    let left: Vec<u32> = tokens::list(cluster.client.clone())
        .await
        .unwrap()
        .into_iter()
        .filter(|r| r.id == good.id())
        .map(|r| r.uses_left)
        .collect();
    assert_eq!(left, [10]);
    controller.stop().await;
}

#[tokio::test]
async fn renewal_is_for_the_same_node_and_a_revoked_one_is_thrown_out() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let mut registry = Registry::connect(&controller, "hub-1").await;
    let token = token(&cluster, TokenRequest { uses: 3, ..TokenRequest::default() }).await;
    let (first, second, stranger) =
        (NodeKey::generate().unwrap(), NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    join(&controller, &token.proof(), "edge-1", &first).await.unwrap();
    join(&controller, &token.proof(), "edge-2", &stranger).await.unwrap();
    // The answer of a renewal may be lost: the old key may ask again.
    for _ in 0..2 {
        renew(&controller, "edge-1", &first.fingerprint(), &second).await.unwrap();
    }
    assert_eq!(code(renew(&controller, "edge-1", &stranger.fingerprint(), &second).await), "key_unknown");

    let edge = NodeName::parse("edge-1").unwrap();
    assert_eq!(nodes::revoke(cluster.client.clone(), &edge).await.unwrap(), 2);
    let told = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Some(registry_update::Message::Revocations(list)) =
                registry.rx.message().await.unwrap().unwrap().message
                && list.key_fingerprints.len() == 2
            {
                return list.key_fingerprints.into_iter().collect::<BTreeSet<_>>();
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(told, [first.fingerprint(), second.fingerprint()].into());
    eventually("renewals are refused", || async {
        renew(&controller, "edge-1", &second.fingerprint(), &second).await.is_err()
    })
    .await;
    assert_eq!(code(join(&controller, &token.proof(), "edge-1", &first).await), "key_revoked");
    assert!(renew(&controller, "edge-2", &stranger.fingerprint(), &stranger).await.is_ok());
    controller.stop().await;
}
