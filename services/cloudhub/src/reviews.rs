//! `Reviews` as nodes see it: passed on to edgecontroller, with the name in the caller's certificate.
//!
//! A node asks about itself only, whatever it writes. Limits: [`AT_ONCE`] questions of all nodes together,
//! further ones are refused at once; [`WITHIN`].

use std::sync::Arc;
use std::time::Duration;

use skerry_proto::review::v1 as pb;
use skerry_proto::review::v1::reviews_client::ReviewsClient;
use skerry_proto::review::v1::reviews_server::Reviews;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

/// Each costs one or two calls of the Kubernetes API; nodes keep the answers for minutes.
const AT_ONCE: usize = 64;
/// edgecontroller and the API behind it.
const WITHIN: Duration = Duration::from_secs(10);

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct NodeReviews {
    controller: skerry_rpc::Channel,
    places: Arc<Semaphore>,
}

impl NodeReviews {
    pub(crate) fn new(controller: skerry_rpc::Channel) -> Self {
        Self { controller, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

#[tonic::async_trait]
impl Reviews for NodeReviews {
    async fn review(&self, request: Request<pb::ReviewRequest>) -> Result<Response<pb::ReviewResponse>, Status> {
        let node = skerry_rpc::require_node(&request)?.to_string();
        let busy = |_| Status::resource_exhausted("too many reviews at once; try again later");
        let _place = self.places.try_acquire().map_err(busy)?;
        let asked = pb::ReviewRequest { node, ..request.into_inner() };
        let mut client = ReviewsClient::new(self.controller.clone());
        let answer = client.review(skerry_rpc::deadline(asked, WITHIN)).await.map_err(|status| {
            tracing::debug!(code = ?status.code(), message = status.message(), "a review failed");
            match status.code() {
                tonic::Code::InvalidArgument => status,
                _ => Status::unavailable("reviews cannot be made now; try again later"),
            }
        })?;
        Ok(Response::new(answer.into_inner()))
    }
}
