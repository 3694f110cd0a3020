//! The HTTP client of all sinks that speak HTTP: connections kept, TLS, answers bounded.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use skerry_mapper_sdk::chain;

use super::Trouble;
use crate::tls::Tls;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was not used for so long is closed; a sink that gets values more seldom dials again.
const IDLE: Duration = Duration::from_secs(90);
/// Longest answer that is read, so that the connection can be kept: what we need of it is its first line.
const MAX_ANSWER: usize = 64 * 1024;

/// See the module documentation.
pub(super) struct Client {
    tls: Tls,
    secure: bool,
    pool: Option<Pool<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

impl Client {
    /// Connections of one sink; with TLS only if it is `secure`.
    pub(super) fn new(tls: &Tls, secure: bool) -> Self {
        Self { tls: tls.clone(), secure, pool: None }
    }

    /// Sends a request and reads its answer within a time. An answer that is not a success is trouble.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>, timeout: Duration) -> Result<Bytes, Trouble> {
        let pool = self.pool()?;
        let exchange = async {
            let answer = pool.request(request).await.map_err(|error| Trouble::Away(chain(&error)))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            if let Some(trouble) = judge(head.status) {
                return Err(trouble);
            }
            Ok(body.map(|body| body.to_bytes()).unwrap_or_default())
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::Away(format!("no answer within {timeout:?}"))),
        }
    }

    fn pool(&mut self) -> Result<Pool<HttpsConnector<HttpConnector>, Full<Bytes>>, Trouble> {
        if let Some(pool) = &self.pool {
            return Ok(pool.clone());
        }
        let config = if self.secure {
            let config = self.tls.config().map_err(Trouble::Away)?;
            rustls::ClientConfig::clone(&config)
        } else {
            let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let builder = builder.map_err(|error| Trouble::Away(error.to_string()))?;
            builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
        };
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector);
        Ok(self.pool.insert(pool).clone())
    }
}

/// A request with a body and no header but these.
pub(super) fn post(
    url: &str,
    content_type: &str,
    authorization: Option<&header::HeaderValue>,
    body: impl Into<Bytes>,
) -> Result<Request<Full<Bytes>>, Trouble> {
    let mut request = Request::post(url).header(header::CONTENT_TYPE, content_type);
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    request.body(Full::new(body.into())).map_err(|error| Trouble::Refused(error.to_string()))
}

/// A header that is not shown when a request is.
pub(super) fn secret(value: &str) -> Option<header::HeaderValue> {
    let mut value = header::HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What an answer means for the values that were sent. Credentials that are refused may be mended, and so may a
/// server that is overloaded; a request that is wrong stays wrong. The body of an answer may have values in it, so
/// it is not told.
fn judge(status: StatusCode) -> Option<Trouble> {
    if status.is_success() {
        return None;
    }
    let words = format!("the answer was {status}");
    let later = matches!(status.as_u16(), 401 | 403 | 407 | 408 | 425 | 429 | 500..=599);
    Some(if later { Trouble::Away(words) } else { Trouble::Refused(words) })
}
