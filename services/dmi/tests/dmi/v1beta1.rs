//! KubeEdge's interface, byte by byte.

use crate::node::Node;

#[tokio::test]
async fn placeholder() {
    let _ = Node::start().await;
}
