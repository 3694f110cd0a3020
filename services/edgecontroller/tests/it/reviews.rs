//! Reviews against the real API server: whose a token is, and what its owner may do with a node.

use kube::Client;
use serde_json::{Value, json};
use skerry_proto::review::v1::review_request::Who;
use skerry_proto::review::v1::reviews_client::ReviewsClient;
use skerry_proto::review::v1::{ReviewRequest, ReviewResponse, User};
use tonic::{Code, Status};

use crate::cluster::{Cluster, Controller};

async fn ask(controller: &Controller, who: Who, verb: &str, subresource: &str) -> Result<ReviewResponse, Status> {
    let request =
        ReviewRequest { node: "edge-1".into(), who: Some(who), verb: verb.into(), subresource: subresource.into() };
    ReviewsClient::new(controller.channel()).review(request).await.map(tonic::Response::into_inner)
}

async fn token(client: &Client, account: &str) -> String {
    let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}).to_string();
    let request = axum::http::Request::post(path).header("content-type", "application/json").body(body.into_bytes());
    let answer: Value = client.request(request.unwrap()).await.unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_may_do_what_its_owner_was_given_for_this_node() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "scraper"}});
    cluster.create("ServiceAccount", "default", account).await;
    let rules = json!([
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["nodes/proxy"], "resourceNames": ["edge-2"], "verbs": ["get"]},
    ]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "scrape"}, "rules": rules});
    cluster.create("ClusterRole", "", role).await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "scrape"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "scrape"},
        "subjects": [{"kind": "ServiceAccount", "name": "scraper", "namespace": "default"}]});
    cluster.create("ClusterRoleBinding", "", binding).await;

    let token = Who::Token(token(&cluster.client, "scraper").await);
    for (verb, subresource, allowed) in [
        ("get", "metrics", true),
        ("create", "metrics", false),
        ("get", "stats", false),
        // Given for another node.
        ("get", "proxy", false),
    ] {
        let answer = ask(&controller, token.clone(), verb, subresource).await.unwrap();
        let wanted = ReviewResponse { user: "system:serviceaccount:default:scraper".into(), allowed };
        assert_eq!(answer, wanted, "{verb} {subresource}");
    }
    let nobody = ask(&controller, Who::Token("guess".into()), "get", "metrics").await.unwrap();
    assert_eq!(nobody, ReviewResponse::default());

    let user = |groups: &[&str]| {
        let groups = groups.iter().map(|g| (*g).into()).collect();
        Who::User(User { name: "kube-apiserver-kubelet-client".into(), groups })
    };
    assert!(ask(&controller, user(&["system:masters"]), "create", "proxy").await.unwrap().allowed);
    assert!(!ask(&controller, user(&[]), "create", "proxy").await.unwrap().allowed);

    cluster.faults.down.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(ask(&controller, token, "get", "metrics").await.unwrap_err().code(), Code::Unavailable);
    controller.stop().await;
}

#[tokio::test]
async fn questions_that_make_no_sense_do_not_reach_the_api() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let calls = || cluster.faults.calls("POST subjectaccessreviews") + cluster.faults.calls("POST tokenreviews");
    let user = |name: &str, groups: usize| Who::User(User { name: name.into(), groups: vec!["g".into(); groups] });
    for (who, verb, subresource) in [
        (Who::Token(String::new()), "get", "proxy"),
        (Who::Token("x".repeat(8 * 1024 + 1)), "get", "proxy"),
        (user("", 0), "get", "proxy"),
        (user("ann", 65), "get", "proxy"),
        (user("ann", 1), "watch", "proxy"),
        (user("ann", 1), "get", "status"),
    ] {
        let code = ask(&controller, who, verb, subresource).await.unwrap_err().code();
        assert_eq!(code, Code::InvalidArgument, "{verb} {subresource}");
    }
    let nameless = ReviewRequest { who: Some(user("ann", 1)), verb: "get".into(), ..ReviewRequest::default() };
    let refused = ReviewsClient::new(controller.channel()).review(nameless).await.unwrap_err();
    assert_eq!((refused.code(), calls()), (Code::InvalidArgument, 0));
    controller.stop().await;
}
