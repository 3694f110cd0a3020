//! What an API server passes on to the kubelets of its nodes: logs, exec, attach, port-forward, proxy.
//!
//! Called by dispatch after authentication and authorization, for the subresources that "connect". The
//! node's kubelet is dialled where its Node says, as the service `apiserver`, and must prove that it is
//! that node, whatever address the Node claims. Requests and answers are streamed, never collected.
//! Invariants: the user's credential never leaves this server; a stream ends with either side, when the
//! server stops, or at the limits of `skerry_common::relay`. Limits: [`MAX_STREAMS`], those of `dial`.

mod dial;
pub(crate) mod metrics;
mod pods;
mod websocket;

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures::StreamExt as _;
use http::{HeaderMap, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use serde::Deserialize;
use skerry_apimachinery::{ApiError, Resource, ResourcePath};
use skerry_common::relay::{TOTAL, relay};
use skerry_identity::{CredentialFolder, CredentialOptions, CredentialWatch, TrustDomain};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ServerError;
use crate::state::Api;
pub(crate) use dial::Target;

/// Streams through this server at once; more are told to come back (429).
pub(crate) const MAX_STREAMS: usize = 1_000;
/// Bytes of a kubelet's words about what went wrong.
const MAX_ERROR: usize = 2_048;

/// How kubelets are reached. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KubeletConfig {
    /// Folder of the credentials of the service `apiserver`, which edgecontroller keeps fresh.
    pub credentials: PathBuf,
    /// The trust domain of the system.
    pub trust_domain: String,
}

/// The way to the kubelets.
pub(crate) struct Kubelets {
    watch: CredentialWatch,
    places: Arc<Semaphore>,
    open: Gauge,
}

impl Kubelets {
    /// Opens the folder of credentials, which may be empty yet.
    pub(crate) fn open(config: &KubeletConfig, open: Gauge) -> Result<(Self, CredentialFolder), ServerError> {
        let failed = |error: &skerry_identity::IdentityError| {
            ServerError::Config(format!("the credentials for kubelets: {}", skerry_common::chain(error)))
        };
        let domain = TrustDomain::parse(&config.trust_domain).map_err(|e| failed(&e))?;
        let folder =
            CredentialFolder::open(&config.credentials, CredentialOptions::new(domain)).map_err(|e| failed(&e))?;
        let places = Arc::new(Semaphore::new(MAX_STREAMS));
        Ok((Self { watch: folder.watch(), places, open }, folder))
    }

    fn stream(&self) -> Result<OpenStream, ApiError> {
        let full = |_| ApiError::TooManyRequests {
            message: "too many streams, please try again later.".into(),
            retry_after: 1,
        };
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(full)?;
        self.open.inc();
        Ok(OpenStream { gauge: self.open.clone(), _permit: permit })
    }
}

/// One open stream; it ends with this value.
struct OpenStream {
    gauge: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Whether a request for this subresource is one for a kubelet.
pub(crate) fn connects(resource: &Resource, subresource: &str) -> bool {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => matches!(subresource, "log" | "exec" | "attach" | "portforward"),
        ("", "nodes") => subresource == "proxy",
        _ => false,
    }
}

/// Passes the request on to the kubelet that it is for.
pub(crate) async fn serve(api: &Arc<Api>, request: Request, path: &ResourcePath) -> Result<Response, ApiError> {
    let query = request.uri().query().unwrap_or("").to_owned();
    let get = *request.method() == Method::GET;
    match path.subresource.as_str() {
        "log" if get => {
            let pod = pods::Pod::find(api, path)?;
            // Without a node there are no words yet.
            let Some(node) = pod.node() else { return Ok(Response::new(Body::empty())) };
            let location = pod.log(&query)?;
            let target = Target::find(api, &node)?;
            log(api, target, &location, request).await
        }
        "exec" | "attach" | "portforward" if get || *request.method() == Method::POST => {
            let pod = pods::Pod::find(api, path)?;
            let location = match path.subresource.as_str() {
                "exec" => pod.exec(&query)?,
                "attach" => pod.attach(&query)?,
                _ => pod.port_forward(&query),
            };
            let target = Target::find(api, &pod.host()?)?;
            pass_on(api, target, &location, request).await
        }
        "proxy" => {
            let target = Target::find(api, &path.name)?;
            let mut location = format!("/{}", path.subpath);
            if !query.is_empty() {
                location = format!("{location}?{query}");
            }
            pass_on(api, target, &location, request).await
        }
        _ => Err(ApiError::MethodNotAllowed),
    }
}

/// A log, as it comes; over a WebSocket in frames.
async fn log(api: &Arc<Api>, target: Target, location: &str, request: Request) -> Result<Response, ApiError> {
    let framed = websocket::negotiate(request.headers())?;
    let open = api.kubelets()?.stream()?;
    let asked = to_kubelet(Method::GET, location, &HeaderMap::new(), Body::empty())?;
    let answer = dial::send(api, &target, asked).await?;
    if !answer.status().is_success() {
        return Err(refused(answer).await);
    }
    if let Some(protocol) = framed {
        return Ok(websocket::serve(api, protocol, request, answer.into_body(), open));
    }
    let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
    let mut response = Response::new(streamed(api, answer.into_body(), open));
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Ok(response)
}

/// Passes a request on with its body, and the answer back; an upgrade becomes a stream.
async fn pass_on(api: &Arc<Api>, target: Target, location: &str, mut request: Request) -> Result<Response, ApiError> {
    let open = api.kubelets()?.stream()?;
    let upgrade = request.headers().contains_key(header::UPGRADE);
    let near = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let mut answer = dial::send(api, &target, to_kubelet(head.method, location, &head.headers, body)?).await?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    if let Some(near) = near
        && answer.status() == StatusCode::SWITCHING_PROTOCOLS
    {
        let far = hyper::upgrade::on(&mut answer);
        let stopping = api.stopping.clone();
        // Ends with either side, and with the server.
        tokio::spawn(async move {
            let stream = async {
                if let (Ok(near), Ok(far)) = tokio::join!(near, far) {
                    relay(TokioIo::new(near), TokioIo::new(far)).await;
                }
            };
            tokio::select! {
                () = stream => {}
                () = stopping.cancelled() => {}
            }
            drop(open);
        });
        return Ok(response);
    }
    for hop in [header::TRANSFER_ENCODING, header::CONNECTION, header::CONTENT_LENGTH] {
        response.headers_mut().remove(hop);
    }
    *response.body_mut() = streamed(api, answer.into_body(), open);
    Ok(response)
}

/// The body of a kubelet's answer, until the server stops.
fn streamed(api: &Api, body: Incoming, open: OpenStream) -> Body {
    let stopping = api.stopping.clone();
    let end = async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = tokio::time::sleep(TOTAL) => {}
        }
    };
    let chunks = body.into_data_stream().take_until(Box::pin(end));
    Body::from_stream(chunks.inspect(move |_| {
        let _ = &open;
    }))
}

/// A request for a kubelet: without the user's credentials and what names this server.
fn to_kubelet(
    method: Method,
    location: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<http::Request<Body>, ApiError> {
    let uri: Uri = location.parse().map_err(|_| ApiError::BadRequest("the path cannot be passed on".into()))?;
    let mut request = http::Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    for (name, value) in headers {
        let secret = *name == header::AUTHORIZATION || *name == header::COOKIE || *name == header::HOST;
        if !secret && !name.as_str().starts_with("impersonate-") {
            request.headers_mut().append(name, value.clone());
        }
    }
    if is_bearer_protocol(headers) {
        return Err(ApiError::BadRequest("a token in the WebSocket protocol is not supported".into()));
    }
    Ok(request)
}

/// A token that hides among the names of protocols would leave this server.
fn is_bearer_protocol(headers: &HeaderMap) -> bool {
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    protocols.into_iter().any(|v| v.contains("base64url.bearer.authorization"))
}

/// A kubelet's refusal in the API's words.
async fn refused(answer: http::Response<Incoming>) -> ApiError {
    let status = answer.status();
    let text = Limited::new(answer.into_body(), MAX_ERROR).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    match status {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY => {
            ApiError::BadRequest(text)
        }
        StatusCode::TOO_MANY_REQUESTS => ApiError::TooManyRequests { message: text, retry_after: 1 },
        _ => ApiError::Internal(text),
    }
}
