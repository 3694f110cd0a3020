//! The four kinds of patches: JSON patch, merge patch, strategic merge patch, server-side apply.
//!
//! Called by the patch verb of `apiserver` inside its read-modify-write loop. Invariant: a patch that
//! cannot be applied changes nothing and is a 400, 409 or 422, never a partial result.
//! Limits: [`MAX_OPERATIONS`] of a JSON patch; depth is bounded by the JSON parser (128).
//! Pure: nothing to lose on a crash.

mod apply;
mod keys;
mod strategic;

pub use apply::{Applied, ApplyOptions, apply};
pub use keys::{ListKind, list_kind};
pub use strategic::strategic_merge;

use crate::error::ApiError;
use serde_json::Value;

/// Most operations of one JSON patch, as in Kubernetes.
pub const MAX_OPERATIONS: usize = 10_000;

/// The kinds of patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own merge patch.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    /// From a content type.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" | "application/apply-patch" => {
                Some(Self::Apply)
            }
            _ => None,
        }
    }
}

/// Applies a JSON patch.
pub fn json_patch(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    if patch.as_array().is_some_and(|ops| ops.len() > MAX_OPERATIONS) {
        return Err(ApiError::BadRequest(format!("the patch has more than {MAX_OPERATIONS} operations")));
    }
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|e| ApiError::BadRequest(format!("error decoding patch: {e}")))?;
    let mut out = object.clone();
    match json_patch::patch(&mut out, &patch) {
        Ok(()) => Ok(out),
        Err(error) => Err(ApiError::invalid(
            "",
            "",
            "",
            vec![crate::error::FieldError::invalid(
                error.path.to_string(),
                Value::Null,
                format!("the server rejected our request due to an error in our request: {}", error.kind),
            )],
        )),
    }
}

/// Applies a merge patch.
pub fn merge_patch(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    if !patch.is_object() {
        return Err(ApiError::BadRequest("a merge patch must be an object".into()));
    }
    let mut out = object.clone();
    json_patch::merge(&mut out, patch);
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn json_and_merge() {
        let object = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"x": [1, 2]}});
        let patched = json_patch(&object, &json!([{"op": "add", "path": "/metadata/labels/b", "value": "2"}])).unwrap();
        assert_eq!(patched.pointer("/metadata/labels/b"), Some(&json!("2")));
        assert!(json_patch(&object, &json!([{"op": "test", "path": "/spec/x/0", "value": 9}])).is_err());
        assert!(json_patch(&object, &json!({"op": "nonsense"})).is_err());
        let merged = merge_patch(&object, &json!({"metadata": {"labels": {"a": null}}, "spec": {"x": [3]}})).unwrap();
        assert_eq!(merged, json!({"metadata": {"labels": {}}, "spec": {"x": [3]}}));
        assert!(merge_patch(&object, &json!([])).is_err());
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z$]{0,3}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("(containers|name|ports|\\$patch|[a-c])", inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_patch_panics(object in tree(), patch in tree()) {
            let options = ApplyOptions { manager: "m", subresource: "", force: false, api_version: "v1", time: "", lists: None };
            let _ = json_patch(&object, &patch);
            let _ = merge_patch(&object, &patch);
            let _ = strategic_merge("Pod", &object, &patch);
            let _ = apply("Pod", &object, &patch, &options);
        }
    }
}
