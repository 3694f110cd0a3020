//! The Kubernetes API as this crate uses it: by kind and key, with a deadline, counted, and with errors
//! sorted by what to do about them.
//!
//! Called by everything in a controller that reads or writes the API, and by the CLI helpers.
//! Limits: [`CALL_DEADLINE`] per call; callers bound how many run at once. Cancelling a call may leave it
//! done or not done at the server, so every caller is written to be repeated.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
    VersionMatch,
};
use kube::{Client, Error};
use serde_json::Value;
use skerry_common::Key;

use crate::kinds::{DEVICES, Kind, api_resource};
use crate::metrics::{ApiLabel, Metrics};

/// A call that takes longer is given up and tried again later: the API server's own limit is 60 s, and a
/// report that waits blocks those behind it.
const CALL_DEADLINE: Duration = Duration::from_secs(15);

/// What a call of the API came to, sorted by what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The object does not exist; the API said so, naming it.
    #[error("not found")]
    NotFound,
    /// Something of the name exists already.
    #[error("it exists already")]
    AlreadyExists,
    /// The precondition (resource version or uid) does not hold: read again.
    #[error("it was changed by somebody else: {0}")]
    Conflict(String),
    /// The API will never take this.
    #[error("refused by the API server ({code}): {message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// Its words.
        message: String,
    },
    /// The patch type is not known to this server.
    #[error("the API server does not know this patch type")]
    UnsupportedPatch,
    /// Not now: the API server is unreachable, overloaded, or its answer cannot be read. Try again.
    #[error("the API server cannot serve now: {message}")]
    Unavailable {
        /// What happened.
        message: String,
        /// When the server said when to come back.
        after: Option<Duration>,
    },
}

impl ApiError {
    /// Whether trying again can help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Conflict(_))
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct KubeApi {
    client: Client,
    manager: &'static str,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for KubeApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KubeApi")
    }
}

/// A resource outside [`Kind`] that this crate writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// core/v1 Event.
    Event,
    /// Lease of a node.
    Lease,
    /// What a device reported.
    DeviceStatus,
    /// ValidatingWebhookConfiguration.
    WebhookConfiguration,
    /// TokenReview and SubjectAccessReview: asked, not stored.
    Review,
}

/// Any resource that this crate touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// One that nodes can subscribe to.
    Kind(Kind),
    /// Another.
    Other(Other),
}

impl From<Kind> for Resource {
    fn from(kind: Kind) -> Self {
        Self::Kind(kind)
    }
}

impl From<Other> for Resource {
    fn from(other: Other) -> Self {
        Self::Other(other)
    }
}

impl Resource {
    fn api_resource(self) -> Option<ApiResource> {
        match self {
            Self::Kind(kind) => kind.resource(),
            Self::Other(Other::Event) => Some(api_resource("", "Event", "events")),
            Self::Other(Other::Lease) => Some(api_resource("coordination.k8s.io", "Lease", "leases")),
            Self::Other(Other::DeviceStatus) => Some(api_resource(DEVICES, "DeviceStatus", "devicestatuses")),
            Self::Other(Other::WebhookConfiguration) => Some(api_resource(
                "admissionregistration.k8s.io",
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
            )),
            Self::Other(Other::Review) => None,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Kind(kind) => kind.as_str(),
            Self::Other(Other::Event) => "Event",
            Self::Other(Other::Lease) => "Lease",
            Self::Other(Other::DeviceStatus) => "DeviceStatus",
            Self::Other(Other::WebhookConfiguration) => "ValidatingWebhookConfiguration",
            Self::Other(Other::Review) => "Review",
        }
    }

    fn is_namespaced(self) -> bool {
        match self {
            Self::Kind(kind) => kind.is_namespaced(),
            Self::Other(_) => true,
        }
    }
}

impl KubeApi {
    /// `manager` is shown to the API server as the field manager, and in Events.
    pub fn new(client: Client, manager: &'static str, metrics: Arc<Metrics>) -> Self {
        Self { client, manager, metrics }
    }

    /// For the helpers of the command line, whose calls nobody scrapes.
    pub fn detached(client: Client, manager: &'static str) -> Self {
        Self::new(client, manager, Arc::new(Metrics::default()))
    }

    /// Who writes.
    pub fn manager(&self) -> &'static str {
        self.manager
    }

    /// The client itself, for the watchers.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    fn api(&self, resource: Resource, namespace: &str) -> Result<Api<DynamicObject>, ApiError> {
        let of = resource
            .api_resource()
            .ok_or_else(|| ApiError::Refused { code: 0, message: "not an object of the API".to_owned() })?;
        // Without a namespace: in all of them.
        Ok(if resource.is_namespaced() && !namespace.is_empty() {
            Api::namespaced_with(self.client.clone(), namespace, &of)
        } else {
            Api::all_with(self.client.clone(), &of)
        })
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        resource: Resource,
        name: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, ApiError> {
        let (result, code) = match tokio::time::timeout(CALL_DEADLINE, call).await {
            Ok(Ok(value)) => (Ok(value), 200),
            Ok(Err(error)) => {
                let code = if let Error::Api(status) = &error { status.code } else { 0 };
                (Err(sort(error, name)), code)
            }
            Err(_) => {
                let message = format!("no answer within {} s", CALL_DEADLINE.as_secs());
                (Err(ApiError::Unavailable { message, after: None }), 0)
            }
        };
        self.metrics.api_requests.get_or_create(&ApiLabel { verb, resource: resource.label(), code }).inc();
        result
    }

    /// The object; `None` only when the API server said by name that it does not exist.
    pub async fn get(&self, of: impl Into<Resource>, key: &Key) -> Result<Option<DynamicObject>, ApiError> {
        let of = of.into();
        let api = self.api(of, &key.namespace)?;
        match self.call("get", of, &key.name, api.get(&key.name)).await {
            Ok(object) => Ok(Some(object)),
            Err(ApiError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of a kind in a namespace, by pages.
    pub async fn list(&self, of: impl Into<Resource>, namespace: &str) -> Result<Vec<DynamicObject>, ApiError> {
        let of = of.into();
        let api = self.api(of, namespace)?;
        let mut params = ListParams::default().limit(500);
        let mut all = Vec::new();
        loop {
            let page = self.call("list", of, "", api.list(&params)).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(all),
            }
        }
    }

    /// Whether there is no object of the kind at all, asked in two ways that an API server answers from
    /// different places: a page as it comes, and one at exactly that version, which is read from the storage.
    /// `false` also when the two answers are not of one moment: ask again.
    pub async fn is_empty(&self, kind: Kind) -> Result<bool, ApiError> {
        let of = Resource::Kind(kind);
        let resource = of.api_resource();
        let resource =
            resource.ok_or_else(|| ApiError::Refused { code: 0, message: "not an object of the API".to_owned() })?;
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let page = ListParams::default().limit(1);
        let first = self.call("list", of, "", api.list(&page)).await?;
        let Some(version) = first.metadata.resource_version.filter(|version| !version.is_empty()) else {
            return Ok(first.items.is_empty());
        };
        let page = page.at(&version).matching(VersionMatch::Exact);
        match self.call("list", of, "", api.list(&page)).await {
            Ok(exact) => Ok(first.items.is_empty() && exact.items.is_empty()),
            Err(ApiError::Refused { code: 410, .. }) => Ok(false),
            // A server that cannot be asked so.
            Err(ApiError::Refused { code: 400, .. }) => Ok(first.items.is_empty()),
            Err(error) => Err(error),
        }
    }

    /// Creates the object that the JSON describes.
    pub async fn create(
        &self,
        of: impl Into<Resource>,
        namespace: &str,
        object: Value,
    ) -> Result<DynamicObject, ApiError> {
        let of = of.into();
        let api = self.api(of, namespace)?;
        let object = parse(object)?;
        let params = PostParams { field_manager: Some(self.manager.to_owned()), ..PostParams::default() };
        let name = object.metadata.name.clone().unwrap_or_default();
        self.call("create", of, &name, api.create(&params, &object)).await
    }

    /// Replaces the object; the JSON carries the resource version that it was read with.
    pub async fn replace(
        &self,
        of: impl Into<Resource>,
        key: &Key,
        object: &DynamicObject,
    ) -> Result<DynamicObject, ApiError> {
        let of = of.into();
        let api = self.api(of, &key.namespace)?;
        let params = PostParams { field_manager: Some(self.manager.to_owned()), ..PostParams::default() };
        self.call("update", of, &key.name, api.replace(&key.name, &params, object)).await
    }

    /// JSON merge patch.
    pub async fn merge(&self, of: impl Into<Resource>, key: &Key, patch: &Value) -> Result<DynamicObject, ApiError> {
        let of = of.into();
        let api = self.api(of, &key.namespace)?;
        let params = PatchParams { field_manager: Some(self.manager.to_owned()), ..PatchParams::default() };
        self.call("patch", of, &key.name, api.patch(&key.name, &params, &Patch::Merge(patch))).await
    }

    /// Strategic merge patch of the status subresource: conditions of others stay.
    pub async fn patch_status(
        &self,
        of: impl Into<Resource>,
        key: &Key,
        strategic: &Value,
    ) -> Result<DynamicObject, ApiError> {
        let of = of.into();
        let api = self.api(of, &key.namespace)?;
        let params = PatchParams { field_manager: Some(self.manager.to_owned()), ..PatchParams::default() };
        self.call("patch_status", of, &key.name, api.patch_status(&key.name, &params, &Patch::Strategic(strategic)))
            .await
    }

    /// JSON merge patch of the status subresource.
    pub async fn merge_status(
        &self,
        of: impl Into<Resource>,
        key: &Key,
        patch: &Value,
    ) -> Result<DynamicObject, ApiError> {
        let of = of.into();
        let api = self.api(of, &key.namespace)?;
        let params = PatchParams { field_manager: Some(self.manager.to_owned()), ..PatchParams::default() };
        self.call("patch_status", of, &key.name, api.patch_status(&key.name, &params, &Patch::Merge(patch))).await
    }

    /// Deletes the object with this uid (empty: any).
    pub async fn delete(
        &self,
        of: impl Into<Resource>,
        key: &Key,
        uid: &str,
        grace_seconds: Option<u32>,
    ) -> Result<(), ApiError> {
        let of = of.into();
        let api = self.api(of, &key.namespace)?;
        let preconditions =
            (!uid.is_empty()).then(|| Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() });
        let params = DeleteParams { grace_period_seconds: grace_seconds, preconditions, ..DeleteParams::default() };
        self.call("delete", of, &key.name, api.delete(&key.name, &params)).await.map(drop)
    }

    /// Asks a review and returns it with its answer.
    pub async fn review(&self, path: &str, review: Value) -> Result<Value, ApiError> {
        self.post(path, review, Other::Review.into(), "").await
    }

    /// Requests a token of a service account.
    pub async fn request_token(&self, account: &Key, request: Value) -> Result<Value, ApiError> {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", account.namespace, account.name);
        self.post(&path, request, Kind::ServiceAccountToken.into(), &account.name).await
    }

    async fn post(&self, path: &str, body: Value, of: Resource, name: &str) -> Result<Value, ApiError> {
        let body = serde_json::to_vec(&body)
            .map_err(|e| ApiError::Refused { code: 0, message: format!("cannot encode the request: {e}") })?;
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|e| ApiError::Refused { code: 0, message: e.to_string() })?;
        self.call("create", of, name, self.client.request::<Value>(request)).await
    }
}

fn parse(object: Value) -> Result<DynamicObject, ApiError> {
    serde_json::from_value(object).map_err(|e| ApiError::Refused { code: 0, message: format!("not an object: {e}") })
}

/// Sorts an error. `name` is the object that was asked for.
fn sort(error: Error, name: &str) -> ApiError {
    let status = match error {
        Error::Api(status) => status,
        other => {
            let message = skerry_common::chain(&other);
            return ApiError::Unavailable { message, after: None };
        }
    };
    let message = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
    match (status.code, status.reason.as_str()) {
        // A 404 counts only when it is about this object: a proxy's page or a missing API is no proof.
        (404, "NotFound") if names(&status, name) => ApiError::NotFound,
        (404, _) => ApiError::Unavailable { message: format!("unexpected 404: {message}"), after: None },
        (409, "AlreadyExists") => ApiError::AlreadyExists,
        (409, _) => ApiError::Conflict(message),
        (415, _) => ApiError::UnsupportedPatch,
        // 401 is our own credential, not the caller's fault; 408, 429 and 5xx pass.
        (401 | 408 | 429, _) | (500.., _) | (0, _) => {
            let after = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0);
            ApiError::Unavailable { message, after: after.map(|s| Duration::from_secs(u64::from(s))) }
        }
        (code, _) => ApiError::Refused { code, message },
    }
}

fn names(status: &kube::core::Status, name: &str) -> bool {
    let details = status.details.as_ref().is_some_and(|details| details.name == name);
    details || (!name.is_empty() && status.message.contains(&format!("\"{name}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn status(code: u16, reason: &str, message: &str) -> Error {
        let mut status = Status::failure(message, reason);
        status.code = code;
        Error::Api(status.boxed())
    }

    #[test]
    fn only_a_404_that_names_the_object_is_a_proof() {
        assert!(matches!(sort(status(404, "NotFound", "pods \"a\" not found"), "a"), ApiError::NotFound));
        for (reason, message) in [
            ("NotFound", "the server could not find the requested resource"),
            ("NotFound", "pods \"b\" not found"),
            ("", "404 page not found"),
            ("Unknown", "pods \"a\" not found"),
        ] {
            let error = sort(status(404, reason, message), "a");
            assert!(error.is_transient(), "{message}: {error}");
        }
    }

    #[test]
    fn errors_are_sorted_by_what_to_do() {
        assert!(matches!(sort(status(409, "AlreadyExists", ""), "a"), ApiError::AlreadyExists));
        assert!(matches!(sort(status(409, "Conflict", ""), "a"), ApiError::Conflict(_)));
        assert!(matches!(sort(status(415, "UnsupportedMediaType", ""), "a"), ApiError::UnsupportedPatch));
        for code in [401, 408, 429, 500, 503, 504] {
            assert!(sort(status(code, "", ""), "a").is_transient(), "{code}");
        }
        for code in [400, 403, 413, 422] {
            assert!(matches!(sort(status(code, "", "no"), "a"), ApiError::Refused { .. }), "{code}");
        }
    }
}
