//! The verbs on resources: get, list, watch, create, update, patch, delete, deletecollection.
//!
//! Called by `http::dispatch` on the request's task. Invariants: a write is answered only when it is
//! durable; optimistic concurrency is checked by the writer, not here; dry runs change nothing.
//! Limits: `state` constants. A cancelled request may still be written: the client must read to know.

mod create;
mod delete;
mod list;
mod modify;
mod patch;
mod update;
mod watch;

pub(crate) use create::create;
pub(crate) use delete::{Removal, definition_storage, delete, delete_collection, remove};
pub(crate) use list::list;
pub(crate) use modify::{Outcome, modify, modify_other};
pub(crate) use patch::{body as patch_body, patch, patched};
pub(crate) use update::update;
pub(crate) use watch::watch;

use crate::call::Call;
use crate::http::Reply;
use http::StatusCode;
use skerry_apimachinery::ApiError;

/// Reads one object.
pub(crate) fn get(call: &Call) -> Result<Reply, ApiError> {
    Ok(Reply::Entry(StatusCode::OK, call.entry()?))
}
