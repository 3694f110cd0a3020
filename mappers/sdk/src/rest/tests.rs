//! The REST API as a client sees it: its paths, who is refused, and its limits.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value as JsonValue, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Bound;
use super::handlers::MAX_BODY_BYTES;
use crate::config::Rest;
use crate::definition::{MethodDefinition, Wishes};
use crate::engine::{Engine, Incoming, Plant};
use crate::metrics::Metrics;
use crate::report::Outbox;
use crate::serve::{HEADER_TIMEOUT, MAX_CONNECTIONS};
use crate::test_driver::Number;
use crate::{DataType, Definition};

pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) number: Number,
    engine: Arc<Engine<Number>>,
    stop: CancellationToken,
}

impl Running {
    pub(super) async fn start(options: Rest) -> Self {
        let number = Number::default();
        let engine = Arc::new(Engine::new(number.clone(), Arc::new(Outbox::default()), Metrics::default()));
        let mut definition = Definition::new("default", "a", json!({}))
            .property("n", DataType::Int, json!({}))
            .property("fixed", DataType::Int, json!({}));
        definition.model = "m".into();
        Arc::make_mut(&mut definition.properties[0]).maximum = "100".into();
        Arc::make_mut(&mut definition.properties[1]).writable = false;
        let properties = vec!["n".to_owned()];
        definition.methods.push(MethodDefinition { name: "set".into(), description: String::new(), properties });
        engine.apply(Incoming { version: "1".into(), definition, desired: Wishes::new(), problem: None });
        let address = SocketAddr::new(options.address, 0);
        let bound = Bound::bind(address, &options).await.unwrap();
        let address = SocketAddr::new([127, 0, 0, 1].into(), bound.address().port());
        let stop = CancellationToken::new();
        tokio::spawn(bound.serve(Arc::clone(&engine) as _, Metrics::default(), stop.clone()));
        // The line opens by itself.
        while call(address, "GET", "/api/v1/device/default/a/n", "", "").await.0 == 503 {
            tokio::task::yield_now().await;
        }
        Self { address, number, engine, stop }
    }

    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        call(self.address, "GET", path, "", "").await
    }

    pub(super) async fn put(&self, path: &str, body: &str) -> (u16, String) {
        call(self.address, "PUT", path, "content-type: application/json\r\n", body).await
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        self.engine.stop().await;
    }
}

pub(super) async fn call(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: mapper\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
    );
    let answer = raw(address, request.as_bytes()).await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// What comes back until the server closes.
pub(super) async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that refuses may close before everything is sent.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn json_of(body: &str) -> JsonValue {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

#[tokio::test]
async fn paths_and_json_are_those_of_kubeedge_and_put_writes() {
    let server = Running::start(Rest::default()).await;
    let (status, body) = server.get("/api/v1/ping").await;
    let ping = json_of(&body);
    assert_eq!((status, ping["apiVersion"].as_str(), ping["statusCode"].as_u64()), (200, Some("v1"), Some(200)));
    assert!(ping["Message"].as_str().unwrap().contains("running normally") && ping["timeStamp"].is_string());

    let (status, body) = server.put("/api/v1/device/default/a/n", "42").await;
    assert_eq!((status, server.number.0.load(Ordering::Relaxed)), (200, 42), "{body}");
    assert_eq!(server.put("/api/v1/device/default/a/n", "\"43\"").await.0, 200);
    let data = json_of(&server.get("/api/v1/device/default/a/n").await.1)["Data"].clone();
    let expected = json!({"DeviceName": "a", "PropertyName": "n", "Namespace": "default", "Value": "43",
        "Type": "INT", "TimeStamp": data["TimeStamp"]});
    assert_eq!(data, expected);
    assert!(data["TimeStamp"].as_i64().unwrap() > 1_600_000_000_000);

    let methods = json_of(&server.get("/api/v1/devicemethod/default/a").await.1)["Data"]["Methods"].clone();
    assert_eq!(methods[0]["Parameters"], json!([{"PropertyName": "n", "ValueType": "INT"}]));
    let model = json_of(&server.get("/api/v1/meta/model/default/a").await.1)["Data"].clone();
    assert_eq!((model["name"].as_str(), model["properties"][1]["accessMode"].as_str()), (Some("m"), Some("ReadOnly")));
    assert_eq!(server.get("/api/v1/database/default/a").await.0, 503);

    let request = b"GET /api/v1/ping HTTP/1.1\r\nhost: m\r\nconnection: close\r\nx-correlation-id: 17\r\n\r\n";
    assert!(raw(server.address, request).await.contains("x-correlation-id: 17"));
    server.end().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_words() {
    let server = Running::start(Rest::default()).await;
    let put = [
        ("/api/v1/device/default/a/n", "101", 400, "above the maximum"),
        ("/api/v1/device/default/a/n", "\"warm\"", 400, "not a whole number"),
        ("/api/v1/device/default/a/n", "null", 400, "must be a JSON"),
        ("/api/v1/device/default/a/n", "{}", 400, "must be a JSON"),
        ("/api/v1/device/default/a/n", "[", 400, ""),
        ("/api/v1/device/default/a/n", "13", 500, "not thirteen"),
        ("/api/v1/device/default/a/fixed", "1", 405, "read-only"),
        ("/api/v1/device/default/a/none", "1", 404, "no property"),
        ("/api/v1/device/default/none/n", "1", 404, "no device default/none"),
        ("/api/v1/device/..%2f/a/n", "1", 404, "no device"),
    ];
    for (path, body, status, words) in put {
        let answer = server.put(path, body).await;
        assert!(answer.0 == status && answer.1.contains(words), "{path} {body}: {answer:?}");
    }
    assert_eq!(server.number.0.load(Ordering::Relaxed), 0);
    // Without a content type a web page could send it.
    assert_eq!(call(server.address, "PUT", "/api/v1/device/default/a/n", "", "1").await.0, 415);
    // KubeEdge's way of writing is off.
    let (status, words) = server.get("/api/v1/devicemethod/default/a/set/n/5").await;
    assert!(status == 405 && words.contains("PUT"), "{status} {words}");
    for path in ["/", "/api/v1", "/api/v1/device/default/a", "/metrics"] {
        assert_eq!(server.get(path).await.0, 404, "{path}");
    }
    server.end().await;
}

#[tokio::test]
async fn get_writes_where_it_is_switched_on_and_only_by_a_method() {
    let server = Running::start(Rest { write_by_get: true, ..Rest::default() }).await;
    assert_eq!(server.get("/api/v1/devicemethod/default/a/set/n/5").await.0, 200);
    assert_eq!(server.number.0.load(Ordering::Relaxed), 5);
    assert_eq!(server.get("/api/v1/devicemethod/default/a/set/fixed/5").await.0, 404);
    assert_eq!(server.get("/api/v1/devicemethod/default/a/other/n/5").await.0, 404);
    server.end().await;
}

#[tokio::test]
async fn beyond_this_machine_nobody_writes_without_a_certificate() {
    let everywhere = Rest { address: [0, 0, 0, 0].into(), write_by_get: true, ..Rest::default() };
    let server = Running::start(everywhere.clone()).await;
    assert_eq!(server.get("/api/v1/device/default/a/n").await.0, 200);
    assert_eq!(server.put("/api/v1/device/default/a/n", "1").await.0, 403);
    assert_eq!(server.get("/api/v1/devicemethod/default/a/set/n/5").await.0, 403);
    assert_eq!(server.number.0.load(Ordering::Relaxed), 0);
    server.end().await;
    let server = Running::start(Rest { anonymous_writes: true, ..everywhere }).await;
    assert_eq!(server.put("/api/v1/device/default/a/n", "1").await.0, 200);
    server.end().await;
}

#[tokio::test]
async fn bodies_headers_and_requests_have_limits() {
    let server = Running::start(Rest::default()).await;
    let path = "/api/v1/device/default/a/n";
    let long = format!("\"{}\"", "1".repeat(MAX_BODY_BYTES));
    assert_eq!(server.put(path, &long).await.0, 413);
    // Without a length, and without an end.
    let mut chunks = format!(
        "PUT {path} HTTP/1.1\r\nhost: m\r\nconnection: close\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for _ in 0..=MAX_BODY_BYTES / 4096 {
        chunks.extend_from_slice(b"1000\r\n");
        chunks.extend_from_slice(&[b'1'; 4096]);
        chunks.extend_from_slice(b"\r\n");
    }
    let answer = raw(server.address, &chunks).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let many = format!("GET /api/v1/ping HTTP/1.1\r\nhost: m\r\nx: {}\r\n\r\n", "x".repeat(32 * 1024));
    let answer = raw(server.address, many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    // Nesting without an end is not a value.
    assert_eq!(server.put(path, &"[".repeat(100_000)).await.0, 400);
    // A length that never comes: closed when its time is over, with others served meanwhile.
    let begun = Instant::now();
    let slow = format!(
        "PUT {path} HTTP/1.1\r\nhost: m\r\ncontent-type: application/json\r\ncontent-length: 4294967296\r\n\r\n"
    );
    let slow = raw(server.address, slow.as_bytes());
    let (answer, ping) = tokio::join!(slow, server.get("/api/v1/ping"));
    assert!(ping.0 == 200 && answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(begun.elapsed() < super::handlers::REQUEST_TIMEOUT + Duration::from_secs(5));
    server.end().await;
}

#[tokio::test]
async fn silent_clients_lose_their_place() {
    let server = Running::start(Rest::default()).await;
    let held = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..MAX_CONNECTIONS {
        let stream = TcpStream::connect(server.address).await.unwrap();
        held.lock().unwrap().push(stream);
    }
    let begun = Instant::now();
    // All places are taken by clients that say nothing, until their time is over.
    loop {
        let answer = raw(server.address, b"GET /api/v1/ping HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n").await;
        if answer.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(begun.elapsed() < HEADER_TIMEOUT * 2, "the places are still taken");
        tokio::task::yield_now().await;
    }
    assert!(begun.elapsed() > HEADER_TIMEOUT / 2, "the limit of connections did not hold");
    server.end().await;
}

pub(super) fn certificate(
    folder: &Path,
    name: &str,
    signer: Option<&rcgen::Issuer<'_, rcgen::KeyPair>>,
) -> rcgen::KeyPair {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    if signer.is_none() {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    let certificate = match signer {
        Some(signer) => params.signed_by(&key, signer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    key
}

/// Asks over TLS, as the client with this certificate of the folder. Answers what came and the server's certificate.
pub(super) async fn ping(folder: &Path, address: SocketAddr, who: Option<&str>) -> Option<(String, Vec<u8>)> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

    let path = |name: &str| folder.join(name);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(path("ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let config = match who {
        Some(who) => {
            let chain = vec![CertificateDer::from_pem_file(path(&format!("{who}.crt"))).unwrap()];
            let key = PrivateKeyDer::from_pem_file(path(&format!("{who}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.ok()?;
    stream.write_all(b"GET /api/v1/ping HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n").await.ok()?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    Some((String::from_utf8(answer).ok()?, shown))
}

#[tokio::test]
async fn with_a_ca_clients_need_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let ca_key = certificate(folder.path(), "ca", None);
    let ca_pem = std::fs::read_to_string(path("ca.crt")).unwrap();
    let ca = rcgen::Issuer::from_ca_cert_pem(&ca_pem, ca_key).unwrap();
    certificate(folder.path(), "server", Some(&ca));
    certificate(folder.path(), "client", Some(&ca));
    certificate(folder.path(), "stranger", None);
    std::fs::copy(path("ca.crt"), path("clients.crt")).unwrap();
    let options = Rest {
        cert_file: Some(path("server.crt")),
        key_file: Some(path("server.key")),
        ca_file: Some(path("clients.crt")),
        ..Rest::default()
    };
    let bound = Bound::bind(([127, 0, 0, 1], 0).into(), &options).await.unwrap();
    let address = bound.address();
    let engine = Arc::new(Engine::new(Number::default(), Arc::new(Outbox::default()), Metrics::default()));
    let stop = CancellationToken::new();
    tokio::spawn(bound.serve(engine as _, Metrics::default(), stop.clone()));

    let ask = async |who: Option<&str>| ping(folder.path(), address, who).await.map(|(answer, _)| answer);
    assert!(ask(Some("client")).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(ask(None).await, None);
    assert_eq!(ask(Some("stranger")).await, None);
    // Not without TLS.
    assert!(!raw(address, b"GET /api/v1/ping HTTP/1.1\r\nhost: m\r\n\r\n").await.contains("200"));

    // Renewed while it runs: another certificate of the server, another CA of clients.
    let before = ping(folder.path(), address, Some("client")).await.unwrap().1;
    certificate(folder.path(), "server", Some(&ca));
    let after = ping(folder.path(), address, Some("client")).await.unwrap().1;
    assert_ne!(before, after);
    // What cannot be read changes nothing.
    std::fs::write(path("server.key"), "no key").unwrap();
    assert_eq!(ping(folder.path(), address, Some("client")).await.unwrap().1, after);
    certificate(folder.path(), "server", Some(&ca));
    let other_key = certificate(folder.path(), "other", None);
    let other_pem = std::fs::read_to_string(path("other.crt")).unwrap();
    let other = rcgen::Issuer::from_ca_cert_pem(&other_pem, other_key).unwrap();
    certificate(folder.path(), "new-client", Some(&other));
    std::fs::write(path("clients.crt"), &other_pem).unwrap();
    assert_eq!(ask(Some("client")).await, None);
    assert!(ask(Some("new-client")).await.unwrap().starts_with("HTTP/1.1 200"));
    stop.cancel();
}
