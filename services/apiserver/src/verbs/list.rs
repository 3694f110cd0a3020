//! List: a snapshot, whole or in pages.
//!
//! Invariant: all pages are of one version. Limits: `state::MAX_PAGE`; `snapshots`. A page that is gone is a 410.

use crate::call::Call;
use crate::http::{List, Reply};
use crate::snapshots::{Kept, Snapshots};
use crate::state::MAX_PAGE;
use skerry_apimachinery::{ApiError, FieldSelector, Filter, LabelSelector};
use std::sync::Arc;

/// What the request selects.
pub(crate) fn filter(call: &Call) -> Result<Filter, ApiError> {
    let mut filter = Filter {
        namespace: call.path.namespace.clone(),
        labels: LabelSelector::parse(&call.query.label_selector)?,
        fields: FieldSelector::parse(&call.query.field_selector, &call.resource.storage, &call.resource.kind)?,
    };
    if !call.path.name.is_empty() {
        // A watch of one object: `/watch/.../name`.
        filter.fields = FieldSelector::parse(&format!("metadata.name={}", call.path.name), &call.resource.storage, "")?;
    }
    Ok(filter)
}

pub(crate) fn list(call: &Call) -> Result<Reply, ApiError> {
    let filter = filter(call)?;
    let query = &call.query;
    let question =
        format!("{}|{}|{}|{}", call.resource.storage, filter.namespace, query.label_selector, query.field_selector);
    let limit = if query.limit == 0 { usize::MAX } else { query.limit.min(MAX_PAGE) };
    let (kept, offset, token) = if query.continue_token.is_empty() {
        let snapshot = call.api.storage.cache(&call.resource.storage).snapshot(&filter);
        check_version(call, snapshot.version)?;
        if snapshot.entries.len() <= limit {
            return Ok(Reply::List(List {
                entries: snapshot.entries,
                version: snapshot.version,
                next: String::new(),
                remaining: 0,
            }));
        }
        (Kept { entries: Arc::new(snapshot.entries), version: snapshot.version, question }, 0, None)
    } else {
        let (kept, offset) = call.api.snapshots.get(&query.continue_token, &question)?;
        (kept, offset, Some(query.continue_token.as_str()))
    };
    let entries: Vec<_> = kept.entries.iter().skip(offset).take(limit).cloned().collect();
    let end = offset + entries.len();
    let remaining = kept.entries.len().saturating_sub(end);
    let version = kept.version;
    let next = match (remaining, token) {
        (0, token) => {
            if let Some(token) = token {
                call.api.snapshots.done(token);
            }
            String::new()
        }
        (_, Some(token)) => Snapshots::next(token, end),
        (_, None) => call.api.snapshots.keep(kept, end),
    };
    Ok(Reply::List(List { entries, version, next, remaining }))
}

fn check_version(call: &Call, current: u64) -> Result<(), ApiError> {
    let wanted = match call.query.resource_version.as_str() {
        "" | "0" => return Ok(()),
        text => text.parse::<u64>().map_err(|_| call.bad_request(format!("invalid resource version \"{text}\"")))?,
    };
    if wanted > current {
        return Err(ApiError::Timeout(format!("Too large resource version: {wanted}, current: {current}")));
    }
    if call.query.version_match == "Exact" && wanted != current {
        return Err(ApiError::Expired(format!("The resourceVersion for the provided list is too old: {wanted}")));
    }
    Ok(())
}
