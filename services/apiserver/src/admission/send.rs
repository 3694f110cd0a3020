//! One question to one webhook, over TLS.
//!
//! Where it is: a URL, or a Service, whose endpoints are dialled directly, because the address of a Service
//! means nothing to this process. Invariants: TLS with the authorities of `caBundle` and the name of the URL
//! or of the Service; redirects are not followed. Limits: [`MAX_ANSWER`]; the caller has the clock.

use crate::state::Api;
use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use skerry_apimachinery::json::{int_at, list_at, str_at};
use skerry_apimachinery::{Filter, LabelSelector};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;
const HTTPS: u16 = 443;

/// Where a webhook is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Url { host: String, port: u16, path: String },
    Service { namespace: String, name: String, port: i64, path: String },
}

impl Endpoint {
    /// From a webhook's `clientConfig`.
    pub(super) fn parse(webhook: &Value) -> Result<Self, String> {
        let (url, service) = (str_at(webhook, "/clientConfig/url"), webhook.pointer("/clientConfig/service"));
        match (url, service.filter(|service| !service.is_null())) {
            ("", None) => Err("exactly one of url or service is required".into()),
            ("", Some(service)) => {
                let (namespace, name) = (str_at(service, "/namespace"), str_at(service, "/name"));
                if namespace.is_empty() || name.is_empty() {
                    return Err("service name and namespace are required".into());
                }
                let path = Some(str_at(service, "/path")).filter(|path| path.starts_with('/')).unwrap_or("/");
                let port = int_at(service, "/port").unwrap_or(i64::from(HTTPS));
                Ok(Self::Service { namespace: namespace.into(), name: name.into(), port, path: path.into() })
            }
            (_, Some(_)) => Err("exactly one of url or service is required".into()),
            (url, None) => {
                let uri: Uri = url.parse().map_err(|_| "url must be a valid URL".to_owned())?;
                if uri.scheme_str() != Some("https") {
                    return Err("'https' is the only allowed URL scheme".into());
                }
                if uri.query().is_some() || url.contains(['#', '@']) {
                    return Err("queries, fragments and user information are not permitted in the URL".into());
                }
                let host = uri.host().filter(|host| !host.is_empty()).ok_or("host must be specified")?;
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok(Self::Url { host, port: uri.port_u16().unwrap_or(HTTPS), path: uri.path().to_owned() })
            }
        }
    }

    /// Address, name to verify, path.
    fn resolve(self, api: &Api) -> Result<((String, u16), String, String), String> {
        match self {
            Self::Url { host, port, path } => Ok(((host.clone(), port), host, path)),
            Self::Service { namespace, name, port, path } => {
                let address = endpoint_of(api, &namespace, &name, port)?;
                Ok((address, format!("{name}.{namespace}.svc"), path))
            }
        }
    }
}

/// The first ready endpoint of a Service's port.
fn endpoint_of(api: &Api, namespace: &str, name: &str, port: i64) -> Result<(String, u16), String> {
    let service = api.storage.get("/services", namespace, name);
    let service = service.ok_or_else(|| format!("service \"{name}\" not found"))?.value();
    let ports = list_at(&service, "/spec/ports");
    let wanted = ports.iter().find(|p| int_at(p, "/port") == Some(port));
    let wanted = str_at(wanted.ok_or_else(|| format!("service \"{name}\" has no port {port}"))?, "/name");
    let label = format!("kubernetes.io/service-name={name}");
    let filter = Filter {
        namespace: namespace.to_owned(),
        labels: LabelSelector::parse(&label).map_err(|error| error.to_string())?,
        ..Filter::default()
    };
    for slice in api.storage.cache("discovery.k8s.io/endpointslices").snapshot(&filter).entries {
        let slice = slice.value();
        let port = list_at(&slice, "/ports").iter().find(|port| str_at(port, "/name") == wanted);
        let port = port.and_then(|port| int_at(port, "/port")).and_then(|port| u16::try_from(port).ok());
        let mut ready = list_at(&slice, "/endpoints")
            .iter()
            .filter(|e| e.pointer("/conditions/ready") != Some(&Value::Bool(false)));
        let address = ready.find_map(|e| list_at(e, "/addresses").first().and_then(Value::as_str));
        if let (Some(port), Some(address)) = (port, address) {
            return Ok((address.to_owned(), port));
        }
    }
    Err(format!("no endpoints available for service \"{name}\""))
}

/// Sends the review and answers what came back.
pub(super) async fn send(api: &Api, webhook: &Value, review: &Value) -> Result<Value, String> {
    let (address, name, path) = Endpoint::parse(webhook)?.resolve(api)?;
    let about = format!("Post \"https://{}:{}{path}\"", address.0, address.1);
    let failed = |why: String| format!("{about}: {why}");
    let tls = client(webhook).map_err(failed)?;
    let server = ServerName::try_from(name.clone()).map_err(|error| failed(error.to_string()))?;
    let stream =
        TcpStream::connect((address.0.as_str(), address.1)).await.map_err(|error| failed(error.to_string()))?;
    let _ = stream.set_nodelay(true);
    let stream = TlsConnector::from(Arc::new(tls)).connect(server, stream).await;
    let stream = stream.map_err(|error| failed(skerry_common::chain(&error)))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.to_string()))?;
    // It ends with its one answer.
    let connection = tokio::spawn(connection);
    let body = serde_json::to_vec(review).map_err(|error| failed(error.to_string()))?;
    let request = Request::post(path)
        .header(header::HOST, name)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| failed(error.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("the server answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body =
            body.map_err(|error| format!("the answer cannot be read or is longer than {MAX_ANSWER} bytes: {error}"))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| format!("the answer is no JSON: {error}"))
    };
    let answer = answer.await.map_err(failed);
    connection.abort();
    answer
}

/// TLS that trusts the authorities of the webhook, and no others.
fn client(webhook: &Value) -> Result<ClientConfig, String> {
    let bundle = str_at(webhook, "/clientConfig/caBundle");
    if bundle.is_empty() {
        return Err("caBundle is empty, and this API server trusts no other authorities".into());
    }
    let pem = base64::prelude::BASE64_STANDARD.decode(bundle).map_err(|error| format!("caBundle: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("caBundle: {error}"))?;
        roots.add(certificate).map_err(|error| format!("caBundle: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn where_a_webhook_may_be() {
        let url = |url: &str| Endpoint::parse(&json!({"clientConfig": {"url": url}}));
        assert_eq!(
            url("https://127.0.0.1:9443/validate"),
            Ok(Endpoint::Url { host: "127.0.0.1".into(), port: 9443, path: "/validate".into() })
        );
        assert_eq!(url("https://[::1]"), Ok(Endpoint::Url { host: "::1".into(), port: 443, path: "/".into() }));
        for wrong in
            ["", "http://a/b", "https://u@a/", "https://a/?x=1", "https://a/#x", "nonsense", "file:///etc/passwd"]
        {
            assert!(url(wrong).is_err(), "{wrong}");
        }
        let service = json!({"clientConfig": {"service": {"namespace": "n", "name": "s", "path": "/v"}}});
        let expected = Endpoint::Service { namespace: "n".into(), name: "s".into(), port: 443, path: "/v".into() };
        assert_eq!(Endpoint::parse(&service), Ok(expected));
        assert!(Endpoint::parse(&json!({"clientConfig": {"service": {"name": "s"}}})).is_err());
        assert!(
            Endpoint::parse(&json!({"clientConfig": {"url": "https://a", "service": {"namespace": "n", "name": "s"}}}))
                .is_err()
        );
    }

    #[test]
    fn a_webhook_without_authorities_is_not_trusted() {
        for bundle in [json!(null), json!("!"), json!("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==")] {
            let result = client(&json!({"clientConfig": {"caBundle": bundle}}));
            assert!(bundle == "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==" || result.is_err(), "{bundle}");
        }
    }
}
