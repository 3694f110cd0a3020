//! Update (PUT) of an object or a subresource.
//!
//! Invariant: without a resourceVersion in the body the newest object is replaced; with one it must match.
//! Limits: those of `modify`. See there for crash and cancel.

use super::create::{check_body, store_new};
use super::modify::{Outcome, modify};
use crate::call::Call;
use crate::http::Reply;
use crate::view;
use http::StatusCode;
use skerry_apimachinery::ApiError;
use skerry_apimachinery::meta;

impl Outcome {
    pub(crate) fn reply(self, call: &Call) -> Reply {
        match self {
            Self::Stored(entry) | Self::Removed(entry) => Reply::Entry(StatusCode::OK, entry),
            Self::Dry(mut value) => {
                view::from_storage(&call.resource, &mut value);
                Reply::Value(StatusCode::OK, value)
            }
        }
    }
}

pub(crate) async fn update(call: &mut Call) -> Result<Reply, ApiError> {
    let object = call.decode_body()?;
    let mut object = check_body(call, object)?;
    let name = meta::name(&object);
    if name.is_empty() {
        meta::metadata(&mut object).insert("name".into(), call.path.name.clone().into());
    } else if name != call.path.name {
        return Err(call.bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.path.name
        )));
    }
    let missing = call.entry().is_err();
    if missing && call.resource.create_on_update && call.path.subresource.is_empty() {
        let stored = store_new(call, object).await?;
        return Ok(stored.reply(call, StatusCode::CREATED));
    }
    view::to_storage(&call.resource, &mut object);
    let outcome = modify(call, &call.path.subresource, |_| Ok(object.clone())).await?;
    Ok(outcome.reply(call))
}
