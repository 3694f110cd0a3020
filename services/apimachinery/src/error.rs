//! The one error of the API: what went wrong, as a Kubernetes `metav1.Status`.
//!
//! Every handler of `apiserver` (and later `metaserver`) returns `Result<_, ApiError>`; the HTTP layer
//! turns it into a response with [`ApiError::code`] and [`ApiError::status`].
//! Invariant: reason and code are the pair that Kubernetes uses, because client-go and kube-rs decide by them.
//! Limits: none; messages repeat names from the request, which are bounded by the request size.
//! Nothing here does IO, so there is nothing to lose on a crash.

use serde_json::{Value, json};

/// Why one field was refused (the `reason` of a `StatusCause`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldProblem {
    /// The field must be set.
    Required,
    /// The value has the wrong form.
    Invalid,
    /// The value is not one of the allowed ones.
    NotSupported,
    /// The field may not be set or changed.
    Forbidden,
    /// The value appears twice.
    Duplicate,
    /// A referenced thing does not exist.
    NotFound,
}

impl FieldProblem {
    fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotFound => "FieldValueNotFound",
        }
    }
    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::NotFound => "Not found",
        }
    }
}

/// One refused field, in Kubernetes' wording.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// Path such as `spec.containers[0].image`.
    pub field: String,
    /// What is wrong.
    pub problem: FieldProblem,
    /// The refused value, when it helps.
    pub value: Option<Value>,
    /// What is expected.
    pub detail: String,
}

impl FieldError {
    /// `field: Required value: detail`
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), problem: FieldProblem::Required, value: None, detail: detail.into() }
    }
    /// `field: Invalid value: value: detail`
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), problem: FieldProblem::Invalid, value: Some(value.into()), detail: detail.into() }
    }
    /// `field: Forbidden: detail`
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), problem: FieldProblem::Forbidden, value: None, detail: detail.into() }
    }
    /// `field: Duplicate value: value`
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { field: field.into(), problem: FieldProblem::Duplicate, value: Some(value.into()), detail: String::new() }
    }
    /// `field: Not found: value`
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { field: field.into(), problem: FieldProblem::NotFound, value: Some(value.into()), detail: String::new() }
    }
    /// `field: Unsupported value: value: supported values: ...`
    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, allowed: &[&str]) -> Self {
        let list = allowed.iter().map(|a| format!("\"{a}\"")).collect::<Vec<_>>().join(", ");
        Self {
            field: field.into(),
            problem: FieldProblem::NotSupported,
            value: Some(value.into()),
            detail: format!("supported values: {list}"),
        }
    }
    fn body(&self) -> String {
        let mut text = self.problem.text().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(&value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
    fn cause(&self) -> Value {
        json!({"reason": self.problem.reason(), "message": self.body(), "field": self.field})
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// What a status is about; empty strings are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// API group, empty for core.
    pub group: String,
    /// Plural resource (or the kind, for `Invalid`).
    pub resource: String,
    /// Object name.
    pub name: String,
}

impl About {
    /// About an object.
    pub fn new(group: &str, resource: &str, name: &str) -> Self {
        Self { group: group.to_owned(), resource: resource.to_owned(), name: name.to_owned() }
    }
    /// `deployments.apps` or `pods`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.resource.clone() } else { format!("{}.{}", self.resource, self.group) }
    }
}

/// Everything an API request can fail with.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    /// The request itself is malformed (400). The caller must change it.
    #[error("{0}")]
    BadRequest(String),
    /// An admission webhook refused the object. Fix the object as the message says.
    #[error("{message}")]
    Denied {
        /// HTTP status that the webhook chose, at least 400.
        code: u16,
        /// Which webhook, and why.
        message: String,
    },
    /// No or wrong credentials (401).
    #[error("{0}")]
    Unauthorized(String),
    /// The caller may not do this (403). Grant it with RBAC, or fix the object that admission refused.
    #[error("{}{} is forbidden: {message}", about.qualified(), quoted(&about.name))]
    Forbidden {
        /// The object or resource.
        about: About,
        /// Why.
        message: String,
    },
    /// The object does not exist (404).
    #[error("{} \"{}\" not found", .0.qualified(), .0.name)]
    NotFound(About),
    /// No such path or resource (404).
    #[error("the server could not find the requested resource")]
    NoSuchPath,
    /// The verb is not served for this resource (405).
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// None of the accepted media types can be produced (406).
    #[error("only the following media types are accepted: application/json")]
    NotAcceptable,
    /// An object with the name exists (409).
    #[error("{} \"{}\" already exists", .0.qualified(), .0.name)]
    AlreadyExists(About),
    /// A precondition on uid or resourceVersion failed (409). Read again and repeat.
    #[error("Operation cannot be fulfilled on {} \"{}\": {message}", about.qualified(), about.name)]
    Conflict {
        /// The object.
        about: About,
        /// Which precondition failed.
        message: String,
    },
    /// Server-side apply meets fields of another manager (409). Repeat with force, or leave the field out.
    #[error("Apply failed with {} conflict{}: {}", .0.len(), if .0.len() == 1 { "" } else { "s" }, apply_text(.0))]
    ApplyConflict(Vec<(String, String)>),
    /// The resourceVersion or continue token is too old (410). List again.
    #[error("{0}")]
    Expired(String),
    /// The body is larger than the limit in bytes (413).
    #[error("Request entity too large: limit is {0}")]
    TooLarge(usize),
    /// The body or patch has a media type that is not served here (415).
    #[error("{0}")]
    UnsupportedMediaType(String),
    /// The object was understood and is not valid (422).
    #[error("{} \"{}\" is invalid: {}", about.resource, about.name, fields_text(fields))]
    Invalid {
        /// Kind (in `resource`), group and name.
        about: About,
        /// Every refused field.
        fields: Vec<FieldError>,
    },
    /// A limit of this server is reached (429). Repeat after the seconds given.
    #[error("{message}")]
    TooManyRequests {
        /// Which limit.
        message: String,
        /// When to repeat, in seconds.
        retry_after: u64,
    },
    /// The server failed (500). The log has the cause.
    #[error("Internal error occurred: {0}")]
    Internal(String),
    /// The server is stopping or cannot write (503).
    #[error("{0}")]
    Unavailable(String),
    /// The request cannot be served in its time (504).
    #[error("{0}")]
    Timeout(String),
}

fn quoted(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" \"{name}\"") }
}

fn apply_text(conflicts: &[(String, String)]) -> String {
    let one = |(manager, path): &(String, String)| format!("conflict with \"{manager}\": {path}");
    match conflicts {
        [single] => one(single),
        many => many.iter().map(|c| format!("\n- {}", one(c))).collect(),
    }
}

fn fields_text(fields: &[FieldError]) -> String {
    match fields {
        [single] => single.to_string(),
        many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

impl ApiError {
    /// A refused object.
    pub fn invalid(group: &str, kind: &str, name: &str, fields: Vec<FieldError>) -> Self {
        Self::Invalid { about: About::new(group, kind, name), fields }
    }
    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Denied { code, .. } => *code,
            Self::Unauthorized(_) => 401,
            Self::Forbidden { .. } => 403,
            Self::NotFound(_) | Self::NoSuchPath => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists(_) | Self::Conflict { .. } | Self::ApplyConflict(_) => 409,
            Self::Expired(_) => 410,
            Self::TooLarge(_) => 413,
            Self::UnsupportedMediaType(_) => 415,
            Self::Invalid { .. } => 422,
            Self::TooManyRequests { .. } => 429,
            Self::Internal(_) => 500,
            Self::Unavailable(_) => 503,
            Self::Timeout(_) => 504,
        }
    }
    /// The `reason` of the Status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "BadRequest",
            Self::Denied { code: 403, .. } => "Forbidden",
            Self::Denied { code: 409, .. } => "Conflict",
            Self::Denied { code: 422, .. } => "Invalid",
            Self::Denied { .. } => "BadRequest",
            Self::Unauthorized(_) => "Unauthorized",
            Self::Forbidden { .. } => "Forbidden",
            Self::NotFound(_) | Self::NoSuchPath => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::AlreadyExists(_) => "AlreadyExists",
            Self::Conflict { .. } | Self::ApplyConflict(_) => "Conflict",
            Self::Expired(_) => "Expired",
            Self::TooLarge(_) => "RequestEntityTooLarge",
            Self::UnsupportedMediaType(_) => "UnsupportedMediaType",
            Self::Invalid { .. } => "Invalid",
            Self::TooManyRequests { .. } => "TooManyRequests",
            Self::Internal(_) => "InternalError",
            Self::Unavailable(_) => "ServiceUnavailable",
            Self::Timeout(_) => "Timeout",
        }
    }
    /// Seconds after which the caller may repeat, if the answer says so.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooManyRequests { retry_after, .. } => Some(*retry_after),
            Self::Unavailable(_) => Some(1),
            _ => None,
        }
    }
    /// The `metav1.Status` object.
    pub fn status(&self) -> Value {
        let mut details = serde_json::Map::new();
        let about = match self {
            Self::Forbidden { about, .. } | Self::Conflict { about, .. } | Self::Invalid { about, .. } => Some(about),
            Self::NotFound(about) | Self::AlreadyExists(about) => Some(about),
            _ => None,
        };
        if let Some(about) = about {
            for (key, text) in [("name", &about.name), ("group", &about.group), ("kind", &about.resource)] {
                if !text.is_empty() {
                    details.insert(key.into(), text.as_str().into());
                }
            }
        }
        match self {
            Self::Invalid { fields, .. } => {
                details.insert("causes".into(), fields.iter().map(FieldError::cause).collect());
            }
            Self::ApplyConflict(conflicts) => {
                let causes = conflicts.iter().map(|(manager, path)| {
                    json!({"reason": "FieldManagerConflict", "message": format!("conflict with \"{manager}\""), "field": path})
                });
                details.insert("causes".into(), causes.collect());
            }
            _ => {}
        }
        if let Some(seconds) = self.retry_after() {
            details.insert("retryAfterSeconds".into(), seconds.into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": self.reason(), "code": self.code(),
        });
        if !details.is_empty()
            && let Some(map) = status.as_object_mut()
        {
            map.insert("details".into(), Value::Object(details));
        }
        status
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn wording_is_that_of_kubernetes() {
        let about = About::new("apps", "deployments", "web");
        assert_eq!(ApiError::NotFound(about.clone()).to_string(), "deployments.apps \"web\" not found");
        assert_eq!(ApiError::AlreadyExists(about.clone()).code(), 409);
        let forbidden =
            ApiError::Forbidden { about: About::new("", "pods", ""), message: "User \"a\" cannot list".into() };
        assert_eq!(forbidden.to_string(), "pods is forbidden: User \"a\" cannot list");
        let invalid = ApiError::invalid("", "Pod", "p", vec![FieldError::required("spec.containers", "")]);
        assert_eq!(invalid.to_string(), "Pod \"p\" is invalid: spec.containers: Required value");
        assert_eq!(invalid.status()["details"]["causes"][0]["field"], "spec.containers");
        let unsupported = FieldError::not_supported("spec.restartPolicy", "X", &["Always", "Never"]);
        assert_eq!(
            unsupported.to_string(),
            "spec.restartPolicy: Unsupported value: \"X\": supported values: \"Always\", \"Never\""
        );
    }
}
