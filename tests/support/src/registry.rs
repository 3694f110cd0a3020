//! A registry of images on the loopback, for tests of pulls: plain HTTP, optional credentials, and
//! what goes wrong with real ones — layers that are corrupt or that stop arriving.
//!
//! It serves images that the private runtime can build; containerd speaks plain HTTP to registries on
//! the loopback by itself. Dropping the value ends it.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use skerry_edged::private_runtime::{FileContent, Image, ImageFile};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const TAR_BLOCK: usize = 512;

/// How layers are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// As they are.
    Whole,
    /// With one byte changed.
    Corrupt,
    /// Half of them, and then nothing, without an end.
    Stalled,
}

#[derive(Debug, Default)]
struct State {
    /// Blobs and manifests by digest.
    blobs: HashMap<String, Bytes>,
    layers: HashMap<String, Layers>,
    /// Digests of manifests by repository and tag.
    tags: BTreeMap<(String, String), String>,
    /// What `Authorization` must hold.
    authorization: Option<String>,
}

type Body = BoxBody<Bytes, Infallible>;

/// See the module documentation.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

impl Registry {
    /// Listens on the loopback.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("registry")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { address, state, _tasks: tasks })
    }

    /// Refuses whoever does not send this; the value of the header, `Basic …`.
    pub fn require(&self, authorization: &str) {
        self.locked().authorization = Some(authorization.to_owned());
    }

    /// Offers busybox with a layer that no other image has, and returns the name of the image.
    ///
    /// # Errors
    /// When the image cannot be built.
    pub fn offer(&self, path: &str, tag: &str, layers: Layers) -> anyhow::Result<String> {
        let name = format!("{}/{path}:{tag}", self.address);
        let mut image = Image::busybox(&name);
        let unique = FileContent::Bytes(name.clone().into_bytes());
        image.files.push(ImageFile { path: "unique".into(), mode: 0o644, content: unique });
        let mut files = files_of(&image.archive()?);
        let index: serde_json::Value = json_of(&files, "index.json")?;
        let digest = index.pointer("/manifests/0/digest").and_then(|d| d.as_str()).context("index")?.to_owned();
        let manifest: serde_json::Value = json_of(&files, &format!("blobs/{}", digest.replace(':', "/")))?;
        let layer = manifest.pointer("/layers/0/digest").and_then(|d| d.as_str()).context("layer")?.to_owned();
        let mut state = self.locked();
        for (name, content) in files.drain() {
            if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                state.blobs.insert(format!("sha256:{hex}"), content);
            }
        }
        state.layers.insert(layer, layers);
        state.tags.insert((path.to_owned(), tag.to_owned()), digest);
        Ok(name)
    }

    /// Serves all layers whole from now on.
    pub fn mend(&self) {
        self.locked().layers.clear();
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn json_of(files: &HashMap<String, Bytes>, name: &str) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::from_slice(files.get(name).context("archive")?)?)
}

/// The plain files of an archive.
fn files_of(tar: &[u8]) -> HashMap<String, Bytes> {
    let mut files = HashMap::new();
    let mut rest = tar;
    while let Some((header, tail)) = rest.split_at_checked(TAR_BLOCK) {
        let text = |from: usize, to: usize| {
            let field = header.get(from..to).unwrap_or_default();
            String::from_utf8_lossy(field).trim_end_matches(['\0', ' ']).to_owned()
        };
        let Ok(size) = usize::from_str_radix(&text(124, 136), 8) else { break };
        let Some(content) = tail.get(..size) else { break };
        files.insert(text(0, 100), Bytes::copy_from_slice(content));
        rest = tail.get(size.next_multiple_of(TAR_BLOCK)..).unwrap_or_default();
    }
    files
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let answer = answer(&state.lock().unwrap_or_else(PoisonError::into_inner), &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        connections.spawn(async move {
            // A client that goes away is what some tests are about.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(state: &State, request: &Request<Incoming>) -> Response<Body> {
    let given = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok());
    if state.authorization.is_some() && given != state.authorization.as_deref() {
        let mut response = empty(StatusCode::UNAUTHORIZED);
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, hyper::header::HeaderValue::from_static("Basic realm=\"test\""));
        return response;
    }
    let path = request.uri().path().trim_start_matches("/v2/").to_owned();
    let found = path.rsplit_once("/manifests/").map(|(repository, name)| {
        let by_tag = state.tags.get(&(repository.to_owned(), name.to_owned()));
        (MANIFEST, by_tag.cloned().unwrap_or_else(|| name.to_owned()))
    });
    let found = found
        .or_else(|| path.rsplit_once("/blobs/").map(|(_, digest)| ("application/octet-stream", digest.to_owned())));
    let Some((kind, digest)) = found else { return empty(StatusCode::OK) };
    let Some(content) = state.blobs.get(&digest) else { return empty(StatusCode::NOT_FOUND) };
    let layers = state.layers.get(&digest).copied().unwrap_or(Layers::Whole);
    let body = if *request.method() == Method::HEAD { empty_body() } else { body(content, layers) };
    let response = Response::builder()
        .header(CONTENT_TYPE, kind)
        .header(CONTENT_LENGTH, content.len())
        .header("Docker-Content-Digest", digest);
    response.body(body).unwrap_or_else(|_| empty(StatusCode::INTERNAL_SERVER_ERROR))
}

fn body(content: &Bytes, layers: Layers) -> Body {
    match layers {
        Layers::Whole => Full::new(content.clone()).boxed(),
        Layers::Corrupt => {
            let mut bytes = content.to_vec();
            if let Some(byte) = bytes.last_mut() {
                *byte ^= 1;
            }
            Full::new(bytes.into()).boxed()
        }
        Layers::Stalled => {
            let half = Frame::data(content.slice(..content.len() / 2));
            let stream = futures::stream::once(async move { Ok(half) }).chain(futures::stream::pending());
            BodyExt::boxed(StreamBody::new(stream))
        }
    }
}

fn empty_body() -> Body {
    Full::new(Bytes::new()).boxed()
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty_body());
    *response.status_mut() = status;
    response
}
