//! The admin server: `/livez`, `/readyz`, `/metrics`, `/version` and `/log-level` over HTTP/1.
//!
//! It belongs on loopback or a pod's own address and asks for no credential, so it shows nothing
//! that is secret; the only thing it changes is the log level.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, put};
use tokio::net::TcpListener;

use crate::{Readiness, Registry, TelemetryError, VERSION};

/// A log filter is a line of text.
const MAX_BODY_BYTES: usize = 4096;

/// An admin server that is bound but does not serve yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    state: Shared,
}

#[derive(Debug, Clone)]
struct Shared {
    registry: Registry,
    readiness: Readiness,
}

#[derive(serde::Deserialize)]
struct Verbosity {
    verbose: Option<String>,
}

impl Admin {
    /// Binds the address; port 0 takes any free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, registry: Registry, readiness: Readiness) -> Result<Self, TelemetryError> {
        let bind = |source| TelemetryError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self { listener, address, state: Shared { registry, readiness } })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` resolves.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        axum::serve(self.listener, router(self.state)).with_graceful_shutdown(stop).await
    }
}

fn router(state: Shared) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/version", get(|| async { axum::Json(serde_json::json!({ "version": VERSION })) }))
        .route("/log-level", put(log_level))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(state)
}

async fn readyz(State(state): State<Shared>, Query(query): Query<Verbosity>) -> impl IntoResponse {
    let pending = state.readiness.pending();
    let status = if pending.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = match (pending.is_empty(), query.verbose) {
        (true, _) => "ok".to_owned(),
        (false, None) => "not ready".to_owned(),
        (false, Some(_)) => pending.iter().map(|name| format!("[-] {name}\n")).collect(),
    };
    (status, text)
}

async fn metrics(State(state): State<Shared>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], state.registry.encode())
}

async fn log_level(filter: String) -> impl IntoResponse {
    match crate::logs::set_filter(filter.trim()) {
        Ok(()) => {
            tracing::info!(filter = filter.trim(), "log filter changed");
            (StatusCode::OK, "ok".to_owned())
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_tells_what_is_pending_and_what_was_counted() {
        let (registry, readiness) = (Registry::new(), Readiness::new());
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        registry.sub("test", |r| r.register("things", "Things", counter.clone()));
        counter.inc();
        let task = readiness.task("store");
        let admin = Admin::bind(([127, 0, 0, 1], 0).into(), registry, readiness).await.unwrap();
        let address = admin.address();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(admin.serve(async move { drop(stopped.await) }));

        assert!(fetch(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let pending = fetch(address, "/readyz?verbose").await;
        assert!(pending.starts_with("HTTP/1.1 503") && pending.contains("[-] store"), "{pending}");
        task.ready();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/metrics").await.contains("skerry_test_things_total 1"));
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }
}
