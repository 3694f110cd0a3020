//! Create: defaults, admission, validation, and the write.
//!
//! Also used by apply and by PUT on kinds that allow it. Invariants: identity fields come from the server;
//! nothing is created in a namespace that is missing or terminating. Limits: [`NAME_TRIES`].

use crate::admission::{self, Event};
use crate::auth::escalation;
use crate::call::Call;
use crate::http::Reply;
use crate::kinds;
use crate::state::{CRD, write_error};
use crate::storage::{Expect, Op, WriteError};
use crate::{custom, view};
use http::StatusCode;
use serde_json::Value;
use skerry_apimachinery::json::{as_map, str_at};
use skerry_apimachinery::meta;
use skerry_apimachinery::{About, ApiError, Entry, FieldValidation};
use std::sync::Arc;

/// Generated names that are tried before giving up.
const NAME_TRIES: usize = 8;

/// A stored object, or what would be stored in a dry run.
pub(crate) enum Stored {
    Entry(Arc<Entry>),
    Dry(Value),
}

impl Stored {
    pub(crate) fn reply(self, call: &Call, status: StatusCode) -> Reply {
        match self {
            Self::Entry(entry) => Reply::Entry(status, entry),
            Self::Dry(mut value) => {
                view::from_storage(&call.resource, &mut value);
                Reply::Value(status, value)
            }
        }
    }
}

pub(crate) async fn create(call: &mut Call) -> Result<Reply, ApiError> {
    if !call.path.name.is_empty() {
        return Err(ApiError::MethodNotAllowed);
    }
    let object = call.decode_body()?;
    let object = check_body(call, object)?;
    if !meta::resource_version(&object).is_empty() {
        return Err(call.bad_request("resourceVersion should not be set on objects to be created"));
    }
    let stored = store_new(call, object).await?;
    Ok(stored.reply(call, StatusCode::CREATED))
}

/// Checks kind, version, namespace and field types of a body; drops unknown fields as asked.
pub(crate) fn check_body(call: &mut Call, mut object: Value) -> Result<Value, ApiError> {
    let resource = call.resource.clone();
    if !object.is_object() {
        return Err(call.bad_request("the body must be an object"));
    }
    let (kind, version) = (str_at(&object, "/kind").to_owned(), str_at(&object, "/apiVersion").to_owned());
    if !kind.is_empty() && kind != resource.kind {
        return Err(call.bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {}: the kind does not match the resource",
            resource.kind
        )));
    }
    if !version.is_empty() && version != resource.api_version() {
        return Err(call.bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            resource.api_version()
        )));
    }
    let map = as_map(&mut object);
    map.insert("kind".into(), resource.kind.clone().into());
    map.insert("apiVersion".into(), resource.api_version().into());
    let namespace = meta::namespace(&object).to_owned();
    if resource.namespaced {
        if !namespace.is_empty() && namespace != call.path.namespace {
            return Err(call.bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request: {namespace} and {}", call.path.namespace
            )));
        }
        meta::metadata(&mut object).insert("namespace".into(), call.path.namespace.clone().into());
    } else {
        meta::metadata(&mut object).remove("namespace");
    }
    let metadata = meta::metadata(&mut object);
    metadata.retain(|_, value| !value.is_null() && !value.as_object().is_some_and(serde_json::Map::is_empty));
    let unknown = custom::shape(&call.api, &resource, &mut object)?;
    if !unknown.is_empty() {
        let text = unknown.iter().map(|field| format!("unknown field \"{field}\"")).collect::<Vec<_>>();
        match call.query.field_validation {
            FieldValidation::Strict => {
                return Err(call.bad_request(format!(
                    "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
                    resource.kind,
                    resource.version,
                    resource.kind,
                    text.join(", ")
                )));
            }
            FieldValidation::Warn => text.into_iter().for_each(|text| call.warn(text)),
            FieldValidation::Ignore => {}
        }
    }
    Ok(object)
}

/// Stores a new object. `object` has passed [`check_body`].
pub(crate) async fn store_new(call: &Call, mut object: Value) -> Result<Stored, ApiError> {
    let resource = &call.resource;
    view::to_storage(resource, &mut object);
    check_namespace(call, &object)?;
    escalation::check(&call.api.rbac, &call.api.storage, &call.user, resource, &object)?;
    let base = str_at(&object, "/metadata/generateName").to_owned();
    let generate = meta::name(&object).is_empty() && !base.is_empty();
    meta::stamp_new(&mut object, &uuid::Uuid::new_v4().to_string(), call.now, resource.generation);
    kinds::defaults(&resource.storage, &mut object);
    custom::fill(&call.api, resource, &mut object);
    kinds::prepare_new(resource, &mut object, call.now);
    if &*resource.storage == "/pods" {
        kinds::pod::admit(&call.api, &mut object).await?;
    }
    for attempt in 0..NAME_TRIES {
        if generate {
            let name = meta::generate_name(&base, |n| usize::from(rand::random::<u16>()) % n.max(1));
            meta::metadata(&mut object).insert("name".into(), name.into());
        }
        let mut errors = Vec::new();
        meta::validate(&object, resource.name_rule, resource.namespaced, &mut errors);
        kinds::validate(&resource.storage, &object, None, &mut errors);
        custom::validate(&call.api, resource, &object, None, &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid(&resource.group, &resource.kind, meta::name(&object), errors));
        }
        match write_new(call, &object).await {
            Err(ApiError::AlreadyExists(_)) if generate && attempt + 1 < NAME_TRIES => {}
            other => return other,
        }
    }
    Err(ApiError::Internal("no free generated name was found".into()))
}

async fn write_new(call: &Call, object: &Value) -> Result<Stored, ApiError> {
    let (api, resource, name) = (&call.api, &call.resource, meta::name(object).to_owned());
    let mut object = object.clone();
    let event = Event { resource, subresource: "", operation: "CREATE", object: Some(&object), old: None };
    admission::validate(call, event).await?;
    if call.query.dry_run {
        if api.get(resource, meta::namespace(&object), &name).is_some() {
            return Err(write_error(WriteError::Exists, resource, &name));
        }
        return Ok(Stored::Dry(object));
    }
    let is_service = &*resource.storage == "/services";
    let taken = if is_service {
        if api.get(resource, meta::namespace(&object), &name).is_some() {
            return Err(write_error(WriteError::Exists, resource, &name));
        }
        let filled = api.addresses.fill(&mut object, None);
        Some(filled.map_err(|error| ApiError::invalid("", "Service", &name, vec![error]))?)
    } else {
        None
    };
    let mut ops = vec![Op { storage: resource.storage.clone(), value: object, expect: Expect::Absent, delete: false }];
    if &*resource.storage == "/namespaces" {
        ops.extend(kinds::namespace::companions(&name, api.pki.ca_pem(), call.now));
    }
    let result = api.storage.write(ops).await;
    if let (Err(_), Some(taken)) = (&result, taken) {
        api.addresses.give_back(taken);
    }
    let entry = result.map_err(|e| write_error(e, resource, &name))?.into_iter().next();
    let entry = entry.ok_or_else(|| ApiError::Internal("the write gave no object".into()))?;
    if &*resource.storage == CRD {
        api.reload_registry();
    }
    Ok(Stored::Entry(entry))
}

fn check_namespace(call: &Call, object: &Value) -> Result<(), ApiError> {
    if !call.resource.namespaced {
        return Ok(());
    }
    let name = call.path.namespace.as_str();
    let Some(namespace) = call.api.storage.get("/namespaces", "", name) else {
        return Err(ApiError::NotFound(About::new("", "namespaces", name)));
    };
    if meta::is_deleting(&namespace.value()) {
        return Err(ApiError::Forbidden {
            about: About::new(&call.resource.group, &call.resource.plural, meta::name(object)),
            message: format!("unable to create new content in namespace {name} because it is being terminated"),
        });
    }
    Ok(())
}
