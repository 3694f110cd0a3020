//! Patch of an object or a subresource, of all four kinds; apply also creates.
//!
//! Invariant: the patch is applied to the newest object again when another write was faster.
//! Limits: those of `patch` in apimachinery and of `modify`. See there for crash and cancel.

use super::create::{check_body, store_new};
use super::modify::modify;
use crate::call::{Call, decode};
use crate::http::Reply;
use crate::{custom, view};
use http::StatusCode;
use serde_json::{Value, json};
use skerry_apimachinery::patch::{ApplyOptions, PatchKind, apply, json_patch, merge_patch, strategic_merge};
use skerry_apimachinery::{ApiError, FieldValidation, meta};

/// Applies the body of the call, a patch, to `object` of the given kind.
pub(crate) fn patched(
    call: &Call,
    kind: PatchKind,
    patch: &Value,
    object: &Value,
    object_kind: &str,
) -> Result<Value, ApiError> {
    let resource = &call.resource;
    let result = match kind {
        PatchKind::Json => json_patch(object, patch),
        PatchKind::Merge => merge_patch(object, patch),
        PatchKind::Strategic if resource.custom => Err(ApiError::UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml".into(),
        )),
        PatchKind::Strategic => strategic_merge(object_kind, object, patch),
        PatchKind::Apply => {
            let (manager, time, version) = (call.manager(), meta::time(call.now), resource.api_version());
            let lists = custom::lists(&call.api, resource, patch);
            let options = ApplyOptions {
                manager: &manager,
                subresource: &call.path.subresource,
                force: call.query.force,
                api_version: &version,
                time: &time,
                lists: lists.as_ref(),
            };
            let object_kind = if resource.custom { "" } else { object_kind };
            // Ownership alone is no change of the object: keep the times when nothing else differs.
            apply(object_kind, object, patch, &options).map(|a| if a.changed { a.object } else { object.clone() })
        }
    };
    match result {
        // A JSON patch does not know what it patches.
        Err(ApiError::Invalid { fields, .. }) => {
            Err(ApiError::invalid(&resource.group, &resource.kind, &call.path.name, fields))
        }
        other => other,
    }
}

/// The kind and the body of a patch request.
pub(crate) fn body(call: &Call) -> Result<(PatchKind, Value), ApiError> {
    let kind = PatchKind::from_content_type(&call.content_type).ok_or_else(|| {
        ApiError::UnsupportedMediaType("the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml".into())
    })?;
    let content_type = if kind == PatchKind::Apply { "application/yaml" } else { "application/json" };
    Ok((kind, decode(&call.body, content_type)?))
}

pub(crate) async fn patch(call: &mut Call) -> Result<Reply, ApiError> {
    let (kind, mut patch) = body(call)?;
    if kind == PatchKind::Apply {
        if call.query.field_manager.is_empty() {
            return Err(call.bad_request("fieldManager is required for apply patch"));
        }
        let name = meta::name(&patch).to_owned();
        if name.is_empty() {
            meta::metadata(&mut patch).insert("name".into(), call.path.name.clone().into());
        } else if name != call.path.name {
            return Err(call.bad_request(format!("metadata.name is {name}, the URL says {}", call.path.name)));
        }
        patch = check_body(call, patch)?;
        if call.entry().is_err() {
            if !call.path.subresource.is_empty() {
                return Err(call.not_found());
            }
            let object = patched(call, kind, &patch, &json!({}), &call.resource.kind)?;
            match store_new(call, object).await {
                // Somebody else created it meanwhile: go on with the object that is there.
                Err(ApiError::AlreadyExists(_)) => {}
                other => return Ok(other?.reply(call, StatusCode::CREATED)),
            }
        }
    }
    let mut unknown = Vec::new();
    let outcome = modify(call, &call.path.subresource, |old| {
        let mut shown = old.clone();
        view::from_storage(&call.resource, &mut shown);
        let mut new = patched(call, kind, &patch, &shown, &call.resource.kind)?;
        unknown = custom::shape(&call.api, &call.resource, &mut new)?;
        if call.query.field_validation == FieldValidation::Strict && !unknown.is_empty() {
            let text = unknown.iter().map(|f| format!("unknown field \"{f}\"")).collect::<Vec<_>>().join(", ");
            return Err(ApiError::BadRequest(format!("strict decoding error: {text}")));
        }
        view::to_storage(&call.resource, &mut new);
        if call.resource.custom
            && let (Some(version), Some(map)) = (old.get("apiVersion"), new.as_object_mut())
        {
            map.insert("apiVersion".into(), version.clone());
        }
        Ok(new)
    })
    .await?;
    if call.query.field_validation == FieldValidation::Warn {
        unknown.iter().for_each(|field| call.warn(format!("unknown field \"{field}\"")));
    }
    Ok(outcome.reply(call))
}
