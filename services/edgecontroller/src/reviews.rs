//! `Reviews`: whether somebody may use the API of a node, as the Kubernetes API says.
//!
//! Called by cloudhub, which vouches for the node's name. A token is first asked about with a TokenReview;
//! then a SubjectAccessReview is made for `nodes/<subresource>` with the name of the node that asks, so a
//! node that was stolen learns what others may do with it and nothing else. Nothing is kept here: nodes
//! keep the answers. Limits: [`MAX_TOKEN`], [`MAX_GROUPS`], [`PER_SECOND`]; the deadline of the API's calls.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skerry_common::NodeName;
use skerry_proto::review::v1::review_request::Who;
use skerry_proto::review::v1::reviews_server::Reviews;
use skerry_proto::review::v1::{ReviewRequest, ReviewResponse};
use tonic::{Request, Response, Status};

use skerry_kubesync::{ApiError, HUB_SERVICE, KubeApi, RateLimit};

/// What a kubelet's API can be asked to do.
const VERBS: [&str; 5] = ["get", "create", "update", "patch", "delete"];
/// What of it, as the kubelet divides it.
const SUBRESOURCES: [&str; 4] = ["proxy", "stats", "metrics", "log"];
/// Longest token; those of Kubernetes have about 1 KB.
const MAX_TOKEN: usize = 8 * 1024;
/// Most groups of one user.
const MAX_GROUPS: usize = 64;
/// Reviews a second over all nodes, each one or two calls of the API.
const PER_SECOND: u32 = 50;
const BURST: u32 = 100;
/// Who would wait longer is refused for now.
const MAX_WAIT: Duration = Duration::from_secs(3);

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct ReviewService {
    api: KubeApi,
    rate: Arc<RateLimit>,
}

impl ReviewService {
    pub(crate) fn new(api: KubeApi) -> Self {
        Self { api, rate: Arc::new(RateLimit::new(PER_SECOND, BURST)) }
    }

    async fn post(&self, path: &str, review: Value) -> Result<Value, Status> {
        let answer = self.api.review(path, review).await;
        let mut answer = answer.map_err(|error| match error {
            ApiError::Unavailable { .. } => Status::unavailable("the Kubernetes API cannot serve now"),
            other => {
                tracing::error!(error = skerry_common::chain(&other), "the Kubernetes API refused a review");
                Status::internal("the Kubernetes API refused the review")
            }
        })?;
        Ok(answer.pointer_mut("/status").map(Value::take).unwrap_or_default())
    }

    /// The owner of a token; `None`: it is nobody's.
    async fn owner(&self, token: &str) -> Result<Option<Asker>, Status> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let mut status = self.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await?;
        if status.get("authenticated") != Some(&Value::Bool(true)) {
            return Ok(None);
        }
        let mut part = |name: &str| status.pointer_mut(&format!("/user/{name}")).map(Value::take).unwrap_or_default();
        let name = part("username").as_str().unwrap_or_default().to_owned();
        let owner = Asker { name, groups: part("groups"), uid: part("uid"), extra: part("extra") };
        Ok(Some(owner).filter(|owner| !owner.name.is_empty()))
    }
}

/// Somebody, as an access review describes him.
struct Asker {
    name: String,
    groups: Value,
    uid: Value,
    extra: Value,
}

#[tonic::async_trait]
impl Reviews for ReviewService {
    async fn review(&self, request: Request<ReviewRequest>) -> Result<Response<ReviewResponse>, Status> {
        skerry_rpc::require_service(&request, &[HUB_SERVICE])?;
        let ReviewRequest { node, who, verb, subresource } = request.into_inner();
        let wrong = Status::invalid_argument;
        let node = NodeName::parse(&node).map_err(|_| wrong("the node has no name"))?;
        if !VERBS.contains(&verb.as_str()) || !SUBRESOURCES.contains(&subresource.as_str()) {
            return Err(wrong("no such verb or subresource of a node"));
        }
        match &who {
            Some(Who::Token(token)) if !token.is_empty() && token.len() <= MAX_TOKEN => {}
            Some(Who::User(user)) if !user.name.is_empty() && user.groups.len() <= MAX_GROUPS => {}
            _ => return Err(wrong("it must be about a token or a user")),
        }
        let turn = tokio::time::timeout(MAX_WAIT, self.rate.acquire()).await;
        turn.map_err(|_| Status::resource_exhausted("too many reviews at once; try again later"))?;
        let asker = match who {
            Some(Who::Token(token)) => self.owner(&token).await?,
            Some(Who::User(user)) => {
                Some(Asker { name: user.name, groups: json!(user.groups), uid: Value::Null, extra: Value::Null })
            }
            None => None,
        };
        let Some(Asker { name, groups, uid, extra }) = asker else {
            return Ok(Response::new(ReviewResponse::default()));
        };
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": name, "groups": groups, "uid": uid, "extra": extra,
                "resourceAttributes": {
                    "group": "", "version": "v1", "resource": "nodes", "subresource": subresource, "verb": verb,
                    "name": node.as_str(),
                },
            },
        });
        let status = self.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review).await?;
        let allowed =
            status.get("allowed") == Some(&Value::Bool(true)) && status.get("denied") != Some(&Value::Bool(true));
        Ok(Response::new(ReviewResponse { user: name, allowed }))
    }
}
