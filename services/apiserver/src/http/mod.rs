//! From a request to an answer: who, what, may they, do it.
//!
//! One fallback handler serves every path, on the connection's task or (in-process) on the caller's.
//! Invariants: nothing but health and version is served without an identity; authorization comes before
//! the body is read; every answer that is not a success is a `metav1.Status`.
//! Limits: `state` constants (body size, requests under way). Stateless; a dropped connection cancels the
//! handler, and a write that was already handed over still happens.

mod negotiate;
mod reply;

pub(crate) use negotiate::Form;
pub(crate) use reply::{List, Reply, json_response, metadata_only};

use crate::auth::{Attributes, User, authenticate};
use crate::call::Call;
use crate::metrics::RequestLabels;
use crate::state::{Api, MAX_BODY, REQUEST_TIME};
use crate::{discovery, kubelet, reviews, subresources, verbs};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reply::{error_response, reply_response};
use skerry_apimachinery::{About, ApiError, ApiPath, Query, ResourcePath, parse_path};
use std::sync::Arc;

/// Groups of one impersonated identity.
const MAX_IMPERSONATED_GROUPS: usize = 64;

/// The router over all paths; callers are identified by the request (extension or token).
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(handle).with_state(api)
}

async fn handle(State(api): State<Arc<Api>>, request: Request) -> Response {
    let method = request.method().clone();
    let mut verb = "other";
    let mut response = match answer(&api, request, &mut verb).await {
        Ok(response) => response,
        Err(error) => {
            if matches!(error, ApiError::Internal(_)) {
                tracing::error!(%error, %method, "request failed");
            }
            error_response(&error)
        }
    };
    let code = response.status().as_u16();
    api.metrics.requests.get_or_create(&RequestLabels { verb, code }).inc();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

async fn answer(api: &Arc<Api>, request: Request, verb: &mut &'static str) -> Result<Response, ApiError> {
    let path = parse_path(request.uri().path()).ok_or(ApiError::NoSuchPath)?;
    let now = jiff::Timestamp::now();
    if let ApiPath::Other(segments) = &path
        && let Some(response) = discovery::public(api, segments)
    {
        return Ok(response);
    }
    let user = authenticate(request.extensions(), request.headers(), &api.tokens, &api.storage, now);
    let user = match user {
        Ok(Some(user)) => user,
        other => {
            api.metrics.unauthenticated.inc();
            return Err(other.err().unwrap_or_else(|| ApiError::Unauthorized("Unauthorized".into())));
        }
    };
    let user = impersonated(api, user, request.headers())?;
    match path {
        ApiPath::Other(segments) => {
            *verb = "get";
            let attributes = Attributes {
                verb: request.method().as_str().to_ascii_lowercase(),
                path: Some(request.uri().path().to_owned()),
                ..Attributes::default()
            };
            authorize(api, &user, &attributes)?;
            let form = negotiate::form(request.headers()).unwrap_or(Form::Json);
            discovery::serve(api, &segments, form, request.headers())
        }
        ApiPath::Resource(path) => resource(api, request, path, user, now, verb).await,
    }
}

/// The identity that `Impersonate-*` headers ask for, if the caller may act as it.
fn impersonated(api: &Api, user: User, headers: &HeaderMap) -> Result<User, ApiError> {
    let all = |name: &str| headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).take(MAX_IMPERSONATED_GROUPS);
    let Some(name) = all("impersonate-user").next() else {
        if all("impersonate-group").next().is_some() || all("impersonate-uid").next().is_some() {
            return Err(ApiError::BadRequest("requested to impersonate without impersonating a user".into()));
        }
        return Ok(user);
    };
    let groups: Vec<&str> = all("impersonate-group").collect();
    let may = |resource: &str, namespace: &str, name: &str| {
        let wanted = Attributes {
            verb: "impersonate".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        authorize(api, &user, &wanted)
    };
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let mut implied = Vec::new();
    match account {
        Some((namespace, account)) => {
            may("serviceaccounts", namespace, account)?;
            implied = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        }
        None => may("users", "", name)?,
    }
    for group in &groups {
        may("groups", "", group)?;
    }
    let groups: Vec<&str> = if groups.is_empty() { implied.iter().map(String::as_str).collect() } else { groups };
    Ok(User::new(name, &groups))
}

fn verb_of(method: &Method, path: &ResourcePath, query: &Query) -> Result<&'static str, ApiError> {
    let collection = path.name.is_empty();
    Ok(match *method {
        Method::GET | Method::HEAD if query.watch || path.watch_prefix => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => return Err(ApiError::MethodNotAllowed),
    })
}

async fn resource(
    api: &Arc<Api>,
    request: Request,
    path: ResourcePath,
    user: User,
    now: jiff::Timestamp,
    verb: &mut &'static str,
) -> Result<Response, ApiError> {
    let raw_query = request.uri().query().unwrap_or("").to_owned();
    let query = Query::parse(&raw_query)?;
    *verb = verb_of(request.method(), &path, &query)?;
    let attributes = Attributes {
        verb: (*verb).to_owned(),
        group: path.group.clone(),
        resource: path.resource.clone(),
        subresource: path.subresource.clone(),
        // Rules for a namespace itself are looked up in that namespace, as in Kubernetes.
        namespace: if path.resource == "namespaces" { path.name.clone() } else { path.namespace.clone() },
        name: path.name.clone(),
        path: None,
    };
    authorize(api, &user, &attributes)?;
    let resource = api.registry().get(&path.group, &path.version, &path.resource).ok_or(ApiError::NoSuchPath)?;
    if !path.subresource.is_empty() && !resource.has(&path.subresource) {
        return Err(ApiError::NoSuchPath);
    }
    if resource.namespaced && path.namespace.is_empty() && (!path.name.is_empty() || *verb == "create") {
        return Err(ApiError::BadRequest(
            "an empty namespace may not be set when a resource name is provided or during creation".into(),
        ));
    }
    if !resource.namespaced && !path.namespace.is_empty() {
        return Err(ApiError::NoSuchPath);
    }
    if kubelet::connects(&resource, &path.subresource) {
        return kubelet::serve(api, request, &path).await;
    }
    if resource.computed {
        return match *verb {
            "get" | "list" => kubelet::metrics::serve(api, &resource, &path, &query, now).await,
            _ => Err(ApiError::MethodNotAllowed),
        };
    }
    let permit = if *verb == "watch" {
        None
    } else {
        let busy = || ApiError::TooManyRequests {
            message: "too many requests, please try again later.".into(),
            retry_after: 1,
        };
        Some(api.requests.clone().try_acquire_owned().map_err(|_| busy())?)
    };
    let form = negotiate::form(request.headers())?;
    let (head, body) = request.into_parts();
    let text = |name: header::HeaderName| header_text(&head.headers, name);
    let warnings = Some(resource.deprecation.clone()).into_iter().filter(|text| !text.is_empty()).collect();
    let mut call = Call {
        api: api.clone(),
        user,
        resource,
        path,
        query,
        form,
        include: include_object(&raw_query),
        content_type: text(header::CONTENT_TYPE),
        agent: text(header::USER_AGENT),
        body: bytes::Bytes::new(),
        now,
        warnings: std::sync::Mutex::new(warnings),
    };
    let work = async {
        call.body = read_body(body).await?;
        run(&mut call, verb).await
    };
    let reply = tokio::time::timeout(REQUEST_TIME, work)
        .await
        .map_err(|_| ApiError::Timeout(format!("the request took more than {} s", REQUEST_TIME.as_secs())))??;
    drop(permit);
    Ok(reply_response(&call, reply))
}

async fn run(call: &mut Call, verb: &str) -> Result<Reply, ApiError> {
    if call.resource.review {
        return if verb == "create" { reviews::review(call).await } else { Err(ApiError::MethodNotAllowed) };
    }
    if !matches!(call.path.subresource.as_str(), "" | "status" | "finalize" | "ephemeralcontainers" | "resize") {
        return subresources::serve(call, verb).await;
    }
    match verb {
        "get" => verbs::get(call),
        "list" => verbs::list(call),
        "watch" => verbs::watch(call),
        "create" => verbs::create(call).await,
        "update" if !call.path.name.is_empty() => verbs::update(call).await,
        "patch" if !call.path.name.is_empty() => verbs::patch(call).await,
        "delete" if call.path.subresource.is_empty() => verbs::delete(call).await,
        "deletecollection" => verbs::delete_collection(call).await,
        _ => Err(ApiError::MethodNotAllowed),
    }
}

fn authorize(api: &Api, user: &User, wanted: &Attributes) -> Result<(), ApiError> {
    if api.rbac.allows(user, wanted, &api.storage) {
        return Ok(());
    }
    api.metrics.denied.inc();
    let message = match &wanted.path {
        Some(path) => {
            return Err(ApiError::Forbidden {
                about: About::default(),
                message: format!("User \"{}\" cannot {} path \"{path}\"", user.name, wanted.verb),
            });
        }
        None => {
            let resource = if wanted.subresource.is_empty() {
                wanted.resource.clone()
            } else {
                format!("{}/{}", wanted.resource, wanted.subresource)
            };
            let scope = if wanted.namespace.is_empty() || wanted.resource == "namespaces" {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace \"{}\"", wanted.namespace)
            };
            format!(
                "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {scope}",
                user.name, wanted.verb, wanted.group
            )
        }
    };
    Err(ApiError::Forbidden { about: About::new(&wanted.group, &wanted.resource, &wanted.name), message })
}

async fn read_body(body: Body) -> Result<bytes::Bytes, ApiError> {
    axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| {
        let too_long = std::error::Error::source(&error).is_some_and(|s| s.is::<http_body_util::LengthLimitError>());
        if too_long {
            ApiError::TooLarge(MAX_BODY)
        } else {
            ApiError::BadRequest("the body of the request could not be read".into())
        }
    })
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned()
}

fn include_object(query: &str) -> String {
    query.split('&').find_map(|pair| pair.strip_prefix("includeObject=")).unwrap_or("Metadata").to_owned()
}

/// An empty success.
pub(crate) fn created(value: serde_json::Value) -> Reply {
    Reply::Value(StatusCode::CREATED, value)
}
