//! The admission webhook: HTTPS, AdmissionReview of admission.k8s.io/v1, `POST /validate`.
//!
//! The Kubernetes API server calls it before it stores a Device or a DeviceModel. It answers from what the
//! informers know, so it takes no time and needs nobody. Callers are not authenticated, as the API server shows
//! no certificate: an answer tells only how the object that was sent fits the models that are there. Without
//! an answer objects are stored all the same (`failurePolicy: Ignore`): the conditions say then what is wrong.
//! Limits: [`MAX_CONNECTIONS`], [`MAX_BODY`], [`HANDSHAKE`] for a handshake and a request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use serde_json::{Value, json};
use skerry_common::Key;
use skerry_identity::CredentialWatch;
use skerry_k8s_types::{Device, DeviceModel};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::known::{Known, model_key};
use crate::metrics::Metrics;
use crate::validate::{self, Judgement, MAX_DEVICES};

/// Connections at a time: API servers keep one or two each.
const MAX_CONNECTIONS: usize = 64;

/// Largest request: two objects, each of what an API server stores.
const MAX_BODY: usize = 4 << 20;

/// Longest time for a handshake, and for the headers of a request.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Pause after an error of the listener: it is out of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where reviews are posted.
pub(crate) const PATH: &str = "/validate";

/// The webhook, bound, not serving yet.
pub(crate) struct Webhook {
    pub(crate) listener: TcpListener,
    pub(crate) credentials: CredentialWatch,
    pub(crate) known: Arc<Known>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Webhook {
    /// Where it listens.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves until it is dropped.
    pub(crate) async fn run(self) {
        let this = Arc::new(self);
        let mut tasks = JoinSet::new();
        loop {
            while tasks.len() >= MAX_CONNECTIONS {
                drop(tasks.join_next().await);
            }
            let accepted = tokio::select! {
                accepted = this.listener.accept() => accepted,
                Some(_) = tasks.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => drop(tasks.spawn(Arc::clone(&this).connection(stream))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let acceptor = TlsAcceptor::from(self.credentials.server_config());
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
        let service = service_fn(move |request| {
            let this = Arc::clone(&self);
            async move { Ok::<_, Infallible>(this.handle(request).await) }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
        if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "connection ended");
        }
    }

    async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            return plain(StatusCode::NOT_FOUND, "post to /validate");
        }
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "post to /validate");
        }
        let body = tokio::time::timeout(HANDSHAKE, Limited::new(request.into_body(), MAX_BODY).collect()).await;
        let Ok(Ok(body)) = body else { return plain(StatusCode::PAYLOAD_TOO_LARGE, "too large, or too slow") };
        match review(&body.to_bytes(), &self.known) {
            Ok((answer, refused)) => {
                if refused { &self.metrics.denied } else { &self.metrics.admitted }.inc();
                let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
                let json = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Err(reason) => plain(StatusCode::BAD_REQUEST, reason),
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// Answers an AdmissionReview; with whether it refuses.
fn review(body: &[u8], known: &Known) -> Result<(Value, bool), &'static str> {
    let review: Value = serde_json::from_slice(body).map_err(|_| "the body is no JSON")?;
    let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    if text(&review, "/apiVersion") != "admission.k8s.io/v1" || text(&review, "/kind") != "AdmissionReview" {
        return Err("the body is no AdmissionReview of admission.k8s.io/v1");
    }
    let request = review.get("request").ok_or("the review has no request")?;
    let uid = text(request, "/uid");
    if uid.is_empty() {
        return Err("the request has no uid");
    }
    let judged = judge(request, known).unwrap_or_default();
    let refused = !judged.refused.is_empty();
    let mut response = json!({"uid": uid, "allowed": !refused});
    if let Some(response) = response.as_object_mut() {
        if refused {
            let status = json!({"code": 422, "reason": "Invalid", "message": judged.refused.join("; ")});
            response.insert("status".to_owned(), status);
        }
        if !judged.warnings.is_empty() {
            response.insert("warnings".to_owned(), judged.warnings.into());
        }
    }
    Ok((json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}), refused))
}

/// `None` for what is not for us, or is not readable: the schema has judged that already.
fn judge(request: &Value, known: &Known) -> Option<Judgement> {
    let object = |field: &str| request.get(field).filter(|object| !object.is_null());
    let text = |path: &str| request.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let namespace = text("/namespace");
    match text("/kind/kind") {
        "Device" => {
            let new: Device = serde_json::from_value(object("object")?.clone()).ok()?;
            let old: Option<Device> = object("oldObject").and_then(|old| serde_json::from_value(old.clone()).ok());
            let model = known.model(&model_key(&Key::new(namespace, ""), &new));
            Some(validate::device(&new, old.as_ref(), model.as_deref()))
        }
        "DeviceModel" => {
            let typed = |field: &str| -> Option<DeviceModel> { serde_json::from_value(object(field)?.clone()).ok() };
            let (new, old) = (typed("object"), typed("oldObject"));
            let name = text("/name");
            let name = if name.is_empty() { new.as_ref().map_or("", |model| &model.metadata.name) } else { name };
            let (devices, count) = known.devices_of(&Key::new(namespace, name), MAX_DEVICES);
            let named = devices.iter().map(|device| (Key::new(namespace, device.metadata.name.as_str()), &**device));
            Some(validate::model(new.as_ref(), old.as_ref(), named, count))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use skerry_kubesync::{Kind, Observer as _};

    use super::*;

    #[test]
    fn reviews_are_answered() {
        let known = Known::default();
        let model = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
            "metadata": {"name": "m", "namespace": "ns"}, "spec": {"properties": [{"name": "t", "type": "INT"}]}});
        let key = Key::new("ns", "m");
        known.seen(Kind::DeviceModel, &key, Some(&serde_json::from_value(model.clone()).unwrap()));
        let ask = |kind: &str, object: Value, old: Value| {
            let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
                "uid": "7", "kind": {"kind": kind}, "namespace": "ns", "name": "m", "object": object, "oldObject": old}});
            review.to_string()
        };
        let device = |value: &str| {
            json!({"metadata": {"name": "d", "namespace": "ns"}, "spec": {"nodeName": "n", "deviceModelRef": {"name": "m"},
                "properties": [{"name": "t", "desired": {"value": value}}]}})
        };
        let answer = |text: String| review(text.as_bytes(), &known).unwrap().0["response"].clone();
        assert_eq!(answer(ask("Device", device("1"), Value::Null)), json!({"uid": "7", "allowed": true}));
        let refused = answer(ask("Device", device("x"), Value::Null));
        assert_eq!(refused["allowed"], false);
        assert!(refused["status"]["message"].as_str().unwrap().contains("whole number"));
        assert_eq!(answer(ask("Device", Value::Null, device("x")))["allowed"], true, "a deletion");
        assert_eq!(answer(ask("Pod", json!({}), Value::Null))["allowed"], true);
        assert_eq!(answer(ask("Device", json!({"spec": 7}), Value::Null))["allowed"], true);
        let used: Value = {
            let mut used = device("1");
            used["apiVersion"] = "devices.kubeedge.io/v1beta1".into();
            used["kind"] = "Device".into();
            used
        };
        known.seen(Kind::Device, &Key::new("ns", "d"), Some(&serde_json::from_value(used).unwrap()));
        assert_eq!(answer(ask("DeviceModel", Value::Null, model))["warnings"].as_array().unwrap().len(), 1);
        for bad in ["", "[", "{}", r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#] {
            assert!(review(bad.as_bytes(), &known).is_err(), "{bad}");
        }
    }
}
