//! Reviews: a node asks about itself, through every hop, and only while there is a cloud.

use skerry_hub_tests::{Fixture, Raw};
use skerry_proto::review::v1::ReviewRequest;
use skerry_proto::review::v1::reviews_client::ReviewsClient;
use tonic::Code;

fn question(node: &str) -> ReviewRequest {
    ReviewRequest { node: node.into(), verb: "get".into(), subresource: "stats".into(), ..ReviewRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_says_which_node_asks() {
    let fixture = Fixture::start().await.unwrap();
    let hub = fixture.hub("hub-0").await.unwrap();
    let raw = Raw::connect(hub.address, fixture.node("edge-1").unwrap()).await.unwrap();
    let mut client = ReviewsClient::new(raw.connection.channel());
    // The cloud of the fixture answers with what it was asked.
    let answer = client.review(question("edge-2")).await.unwrap().into_inner();
    assert_eq!((answer.user.as_str(), answer.allowed), ("edge-1 get stats", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_services_are_answered_while_the_cloud_is_there() {
    let fixture = Fixture::start().await.unwrap();
    let hub = fixture.hub("hub-0").await.unwrap();
    let edge = fixture.edge("edge-1", hub.address).await.unwrap();
    edge.link(true).await.unwrap();
    let mut client = ReviewsClient::new(edge.channel());
    let answer = client.review(question("")).await.unwrap().into_inner();
    assert_eq!(answer.user, "edge-1 get stats");
    drop(hub);
    edge.link(false).await.unwrap();
    assert_eq!(client.review(question("")).await.unwrap_err().code(), Code::Unavailable);
}
