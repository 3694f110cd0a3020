//! `Reviews` for the services of the node: questions that go on to the hub while there is one.
//!
//! Nothing is kept here: an answer is the cloud's of this moment, and without a session there is none.
//! Limits: the deadline [`WITHIN`] and the open calls of the node's connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skerry_proto::review::v1 as pb;
use skerry_proto::review::v1::reviews_client::ReviewsClient;
use skerry_proto::review::v1::reviews_server::Reviews;
use skerry_rpc::Channel;
use tonic::{Request, Response, Status};

/// The hub and what is behind it.
const WITHIN: Duration = Duration::from_secs(10);

/// The connection of the present session, if there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cloud(Arc<Mutex<Option<Channel>>>);

impl Cloud {
    pub(crate) fn set(&self, channel: Option<Channel>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = channel;
    }

    fn channel(&self) -> Result<Channel, Status> {
        let channel = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        channel.ok_or_else(|| Status::unavailable("the cloud is not connected"))
    }
}

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct LocalReviews(pub(crate) Cloud);

#[tonic::async_trait]
impl Reviews for LocalReviews {
    async fn review(&self, request: Request<pb::ReviewRequest>) -> Result<Response<pb::ReviewResponse>, Status> {
        let channel = self.0.channel()?;
        let request = skerry_rpc::deadline(request.into_inner(), WITHIN);
        let answer = ReviewsClient::new(channel).review(request).await?;
        Ok(Response::new(answer.into_inner()))
    }
}
