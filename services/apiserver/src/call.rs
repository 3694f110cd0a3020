//! One request for a resource, as the verbs see it.
//!
//! Built by `http::dispatch` after authentication and authorization. Invariants: the resource exists and
//! serves the subresource; the body is bounded. Limits: those of the parts. Lives as long as the request.

use crate::auth::User;
use crate::http::Form;
use crate::protobuf;
use crate::state::Api;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use skerry_apimachinery::{About, ApiError, Query, Resource, ResourcePath};
use std::sync::{Arc, Mutex, PoisonError};

/// Most warnings of one answer: they are headers.
const MAX_WARNINGS: usize = 64;

pub(crate) struct Call {
    pub(crate) api: Arc<Api>,
    pub(crate) user: User,
    pub(crate) resource: Arc<Resource>,
    pub(crate) path: ResourcePath,
    pub(crate) query: Query,
    pub(crate) form: Form,
    /// `includeObject` of a table.
    pub(crate) include: String,
    pub(crate) content_type: String,
    pub(crate) agent: String,
    pub(crate) body: Bytes,
    pub(crate) now: Timestamp,
    /// What the answer warns of, besides.
    pub(crate) warnings: Mutex<Vec<String>>,
}

impl Call {
    /// The object that the path names.
    pub(crate) fn about(&self) -> About {
        About::new(&self.resource.group, &self.resource.plural, &self.path.name)
    }

    /// Tells the client something without refusing. Beyond [`MAX_WARNINGS`], nothing.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < MAX_WARNINGS {
            warnings.push(text.into());
        }
    }

    pub(crate) fn not_found(&self) -> ApiError {
        ApiError::NotFound(self.about())
    }

    pub(crate) fn bad_request(&self, why: impl Into<String>) -> ApiError {
        ApiError::BadRequest(why.into())
    }

    /// The stored object that the path names.
    pub(crate) fn entry(&self) -> Result<Arc<skerry_apimachinery::Entry>, ApiError> {
        self.api.get(&self.resource, &self.path.namespace, &self.path.name).ok_or_else(|| self.not_found())
    }

    /// The field manager: as given, or the first part of the user agent.
    pub(crate) fn manager(&self) -> String {
        if self.query.field_manager.is_empty() {
            self.agent.split(['/', ' ']).next().unwrap_or("unknown").to_owned()
        } else {
            self.query.field_manager.clone()
        }
    }

    /// The body as JSON or YAML.
    pub(crate) fn decode_body(&self) -> Result<Value, ApiError> {
        decode(&self.body, &self.content_type)
    }
}

/// Decodes a body by its content type.
pub(crate) fn decode(body: &[u8], content_type: &str) -> Result<Value, ApiError> {
    let media = content_type.split(';').next().unwrap_or("").trim();
    if media == protobuf::MEDIA_TYPE {
        return protobuf::decode(body);
    }
    if media.contains("protobuf") || media.contains("cbor") {
        return Err(ApiError::UnsupportedMediaType(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml (not {media})"
        )));
    }
    if media.ends_with("yaml") {
        let text = std::str::from_utf8(body).map_err(|_| ApiError::BadRequest("the body is not UTF-8".into()))?;
        // `y`, `no` and `on` are strings, as in YAML 1.2.
        let options = serde_saphyr::options! { strict_booleans: true };
        return serde_saphyr::from_str_with_options(text, options)
            .map_err(|e| ApiError::BadRequest(format!("error decoding YAML: {e}")));
    }
    serde_json::from_slice(body).map_err(|e| ApiError::BadRequest(format!("error decoding JSON: {e}")))
}
