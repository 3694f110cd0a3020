//! An HTTP GET: a connection of its own, redirects on the same host, a look at the status.
//!
//! HTTP/1.1 only, nothing is kept alive. The connection is driven within the caller's future, so no task is
//! left when that is dropped. Limits: [`MAX_REQUESTS`] requests in a chain of redirects, [`MAX_HEAD`] bytes
//! of a response's head, [`super::MAX_OUTPUT`] of its body; the whole takes no longer than the timeout.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, LOCATION, TRAILER, TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::url::{Scheme, Url};
use super::{MAX_OUTPUT, Outcome, Purpose, bounded, io_text, tcp, tls};

/// Go's client, and so the kubelet, gives up after as many.
const MAX_REQUESTS: usize = 10;
/// Far more than servers send.
const MAX_HEAD: usize = 64 << 10;
/// The version of Kubernetes whose behaviour this is.
const PROBE_AGENT: HeaderValue = HeaderValue::from_static("kube-probe/1.33");
const HOOK_AGENT: HeaderValue = HeaderValue::from_static("kube-lifecycle/1.33");

struct Reply {
    status: StatusCode,
    location: Option<String>,
    body: Vec<u8>,
}

pub(super) async fn get(get: &HTTPGetAction, host: &str, port: u16, purpose: Purpose, within: Duration) -> Outcome {
    let scheme = get.scheme.as_deref().unwrap_or_default();
    let Some(scheme) = Scheme::parse(scheme) else {
        return Outcome::Unknown(format!("unsupported protocol scheme {scheme:?}"));
    };
    let request = Url::new(scheme, host, port, get.path.as_deref().unwrap_or_default())
        .and_then(|url| Ok((url, headers(get, purpose)?)));
    let (url, headers) = match request {
        Ok(request) => request,
        Err(error) => return Outcome::Unknown(error),
    };
    let deliver = async {
        let first = follow(url.clone(), headers.clone()).await;
        match first {
            Err(text) if purpose == Purpose::Hook && text.ends_with(tls::GAVE_HTTP) => {
                plainly(&url, headers).await.unwrap_or(Outcome::Failure(text))
            }
            Ok(reply) => judge(&reply, purpose),
            Err(text) => Outcome::Failure(text),
        }
    };
    match timeout(within, deliver).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

/// A hook over HTTPS that met a server without TLS is asked for without it, as hooks were in former versions.
async fn plainly(url: &Url, mut headers: HeaderMap) -> Option<Outcome> {
    headers.remove(AUTHORIZATION);
    follow(Url { scheme: Scheme::Http, ..url.clone() }, headers).await.ok()?;
    Some(Outcome::Warning(format!(
        "request to HTTPS lifecycle hook {} got HTTP response, retry with HTTP succeeded",
        url.authority
    )))
}

fn judge(reply: &Reply, purpose: Purpose) -> Outcome {
    match reply.status.as_u16() {
        // For a hook it is enough that it was delivered.
        _ if purpose == Purpose::Hook => Outcome::Success,
        200..=299 => Outcome::Success,
        300..=399 => Outcome::Warning(format!("Probe terminated redirects, Response body: {}", bounded(&reply.body))),
        code => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
    }
}

/// Those of the spec, and what the kubelet adds. An empty value of `User-Agent` or `Accept` removes it.
fn headers(get: &HTTPGetAction, purpose: Purpose) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for header in get.http_headers.iter().flatten() {
        let bad = || format!("invalid header field {:?}", header.name);
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| bad())?;
        let value = HeaderValue::from_bytes(header.value.trim().as_bytes()).map_err(|_| bad())?;
        headers.append(name, value);
    }
    // These belong to the connection, which is ours.
    for ours in [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER] {
        headers.remove(ours);
    }
    let agent = if purpose == Purpose::Probe { PROBE_AGENT } else { HOOK_AGENT };
    for (name, default) in [(USER_AGENT, agent), (ACCEPT, HeaderValue::from_static("*/*"))] {
        match headers.get(&name) {
            None => drop(headers.insert(name, default)),
            Some(value) if value.is_empty() => drop(headers.remove(name)),
            Some(_) => {}
        }
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// The last reply of a chain of redirects. One that leads to another host is not followed.
async fn follow(first: Url, mut headers: HeaderMap) -> Result<Reply, String> {
    let host = first.host.clone();
    let mut url = first;
    let mut requests = 0;
    loop {
        requests += 1;
        let reply = fetch(&url, &headers).await.map_err(|text| format!("Get \"{url}\": {text}"))?;
        let Some(location) = reply.location.as_deref() else { return Ok(reply) };
        let Some(next) = url.join(location) else {
            return Err(format!("Get {location:?}: failed to parse Location header"));
        };
        if next.host != host {
            return Ok(reply);
        }
        if requests >= MAX_REQUESTS {
            return Err(format!("Get \"{next}\": stopped after {MAX_REQUESTS} redirects"));
        }
        // A host of the spec's own goes on only while the redirects do not name one.
        if next.authority != url.authority {
            headers.remove(HOST);
        }
        url = next;
    }
}

async fn fetch(url: &Url, headers: &HeaderMap) -> Result<Reply, String> {
    let stream = tcp::dial(&url.host, url.port).await?;
    match url.scheme {
        Scheme::Http => exchange(stream, url, headers).await,
        Scheme::Https => exchange(tls::connect(stream, &url.host).await?, url, headers).await,
    }
}

async fn exchange<S>(stream: S, url: &Url, headers: &HeaderMap) -> Result<Reply, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = url.path.clone().into();
    *request.headers_mut() = headers.clone();
    if !headers.contains_key(HOST) {
        let authority = HeaderValue::from_str(&url.authority).map_err(|_| "invalid host".to_owned())?;
        request.headers_mut().insert(HOST, authority);
    }
    let talk = async {
        let response = sender.send_request(request).await.map_err(|e| text(&e))?;
        let (head, mut body) = response.into_parts();
        let mut reply = Reply { status: head.status, location: None, body: Vec::new() };
        if matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            reply.location = head.headers.get(LOCATION).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        }
        while reply.body.len() < MAX_OUTPUT {
            let Some(frame) = body.frame().await else { break };
            if let Ok(data) = frame.map_err(|e| text(&e))?.into_data() {
                let room = MAX_OUTPUT.saturating_sub(reply.body.len());
                reply.body.extend_from_slice(data.get(..room).unwrap_or(&data));
            }
        }
        Ok(reply)
    };
    tokio::pin!(talk);
    tokio::select! {
        biased;
        done = &mut talk => done,
        // What it has read until its end is still there to be taken.
        _ = connection => talk.await,
    }
}

fn text(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        return "EOF".into();
    }
    if error.is_parse() {
        return format!("net/http: HTTP/1.x transport connection broken: malformed HTTP response: {error}");
    }
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        if let Some(io) = next.downcast_ref::<std::io::Error>() {
            return io_text(io);
        }
        cause = next.source();
    }
    error.to_string()
}
