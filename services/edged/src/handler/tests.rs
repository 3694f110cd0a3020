//! Actions against servers of this process; commands are shown on a real runtime (`tests/cri`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use skerry_common::drain;
use skerry_rpc::{Caller, Listen, Policy, Server};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// Answers with what `reply` says for the n-th request, and keeps the requests.
struct Web {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Web {
    async fn start(tls: Option<TlsAcceptor>, reply: impl Fn(usize) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let web = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let requests = Arc::clone(&web.requests);
        tokio::spawn(async move {
            for n in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                match &tls {
                    None => answer(stream, &requests, &reply(n)).await,
                    Some(tls) => answer(tls.accept(stream).await.unwrap(), &requests, &reply(n)).await,
                }
            }
        });
        web
    }

    fn request(&self, n: usize) -> String {
        self.requests.lock().unwrap()[n].clone()
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, requests: &Mutex<Vec<String>>, reply: &str) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut buffer = [0; 1024];
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => request.extend_from_slice(&buffer[..n]),
            _ => return,
        }
    }
    requests.lock().unwrap().push(String::from_utf8(request).unwrap());
    // The client may go when it has read enough.
    let _ = stream.write_all(reply.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn status(code: u16, body: &str) -> String {
    format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 2\r\n\r\nno")
}

fn container() -> Container {
    serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap()
}

async fn act(probe: Value, purpose: Purpose, within: Duration) -> Outcome {
    let cri = Cri::new(Path::new("/nonexistent.sock"), "n");
    let probe: Probe = serde_json::from_value(probe).unwrap();
    let container = container();
    let target = Target { cri: &cri, container_id: "id", container: &container, pod_ip: "127.0.0.1" };
    run(target, Action::of_probe(&probe).unwrap(), purpose, within).await
}

async fn http(web: &Web, get: Value) -> Outcome {
    let mut get = get;
    get["port"] = web.address.port().into();
    act(json!({ "httpGet": get }), Purpose::Probe, SOON).await
}

#[tokio::test]
async fn a_status_decides_and_the_request_is_the_kubelets() {
    let web = Web::start(None, |n| status([200, 399, 400, 500, 204][n], "body")).await;
    assert_eq!(http(&web, json!({"path": "/healthz?x=1"})).await, Outcome::Success);
    let warning = "Probe terminated redirects, Response body: body";
    assert_eq!(http(&web, json!({})).await, Outcome::Warning(warning.into()));
    for code in [400, 500] {
        let failed = format!("HTTP probe failed with statuscode: {code}");
        assert_eq!(http(&web, json!({})).await, Outcome::Failure(failed));
    }
    let headers = json!([
        {"name": "User-Agent", "value": "me"}, {"name": "Accept", "value": ""}, {"name": "Host", "value": "h"},
        {"name": "X", "value": "1"}, {"name": "X", "value": "2"}, {"name": "Content-Length", "value": "7"}
    ]);
    assert_eq!(http(&web, json!({ "httpHeaders": headers })).await, Outcome::Success);
    let lines = |n| {
        let mut lines: Vec<String> = web.request(n).trim_end().lines().map(str::to_owned).collect();
        lines[1..].sort();
        lines
    };
    let host = format!("host: {}", web.address);
    let agent = "user-agent: kube-probe/1.33";
    assert_eq!(lines(0), ["GET /healthz?x=1 HTTP/1.1", "accept: */*", "connection: close", host.as_str(), agent]);
    assert_eq!(lines(4), ["GET / HTTP/1.1", "connection: close", "host: h", "user-agent: me", "x: 1", "x: 2"]);
}

#[tokio::test]
async fn a_hook_only_delivers() {
    let web = Web::start(None, |_| status(500, "")).await;
    let get = json!({"httpGet": {"port": web.address.port()}});
    assert_eq!(act(get, Purpose::Hook, SOON).await, Outcome::Success);
    assert!(web.request(0).contains("kube-lifecycle/1.33"));
}

#[tokio::test]
async fn redirects_stay_on_the_host() {
    let web = Web::start(None, |n| if n < 2 { redirect("next?a=b") } else { status(200, "") }).await;
    let host = json!({"path": "/dir/x", "httpHeaders": [{"name": "Host", "value": "h"}]});
    assert_eq!(http(&web, host).await, Outcome::Success);
    assert!(web.request(2).starts_with("GET /dir/next?a=b HTTP/1.1\r\n"), "{}", web.request(2));
    assert!(web.request(2).contains("host: h\r\n"), "a relative redirect keeps the host: {}", web.request(2));

    let web = Web::start(None, |_| redirect("http://example.com/")).await;
    let warning = "Probe terminated redirects, Response body: no";
    assert_eq!(http(&web, json!({})).await, Outcome::Warning(warning.into()));

    let web = Web::start(None, |_| redirect("/again")).await;
    let failed = format!("Get \"http://{}/again\": stopped after 10 redirects", web.address);
    assert_eq!(http(&web, json!({})).await, Outcome::Failure(failed));
    assert_eq!(web.requests.lock().unwrap().len(), 10);
}

#[tokio::test]
async fn what_does_not_answer_fails_as_users_know_it() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, get) = (silent.local_addr().unwrap(), json!({"port": silent.local_addr().unwrap().port()}));
    let outcome = act(json!({ "httpGet": get }), Purpose::Probe, Duration::from_millis(50)).await;
    let late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert_eq!(outcome, Outcome::Failure(format!("Get \"http://{address}/\": {late}")));
    drop(silent);
    let refused = format!("dial tcp {address}: connect: connection refused");
    let outcome = act(json!({ "httpGet": get }), Purpose::Probe, SOON).await;
    assert_eq!(outcome, Outcome::Failure(format!("Get \"http://{address}/\": {refused}")));
    let outcome = act(json!({ "tcpSocket": get }), Purpose::Probe, SOON).await;
    assert_eq!(outcome, Outcome::Failure(refused));

    let web = Web::start(None, |n| if n == 0 { String::new() } else { "nonsense\r\n\r\n".into() }).await;
    assert_eq!(http(&web, json!({})).await, Outcome::Failure(format!("Get \"http://{}/\": EOF", web.address)));
    let Outcome::Failure(text) = http(&web, json!({})).await else { unreachable!() };
    assert!(text.contains("malformed HTTP response"), "{text}");
}

#[tokio::test]
async fn a_large_body_is_not_read_and_a_large_head_refused() {
    let web = Web::start(None, |n| match n {
        // More follows than is announced to come soon.
        0 => format!("HTTP/1.1 302 X\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(500_000)),
        _ => format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(2 * 65_536)),
    })
    .await;
    let Outcome::Warning(text) = http(&web, json!({})).await else { unreachable!() };
    assert_eq!(text.len(), "Probe terminated redirects, Response body: ".len() + MAX_OUTPUT);
    assert!(matches!(http(&web, json!({})).await, Outcome::Failure(_)));
}

#[tokio::test]
async fn https_takes_any_certificate() {
    let made = rcgen::generate_simple_self_signed(vec!["nobody.invalid".into()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let config =
            config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key.clone_key()).unwrap();
        let web = Web::start(Some(TlsAcceptor::from(Arc::new(config))), |_| status(200, "")).await;
        assert_eq!(http(&web, json!({"scheme": "HTTPS"})).await, Outcome::Success);
    }
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(status(400, "").as_bytes()).await.unwrap();
    });
    let get = json!({"httpGet": {"scheme": "HTTPS", "port": address.port()}});
    let text = format!("Get \"https://{address}/\": http: server gave HTTP response to HTTPS client");
    assert_eq!(act(get, Purpose::Probe, SOON).await, Outcome::Failure(text));
}

#[tokio::test]
async fn a_hook_over_https_falls_back_to_http() {
    let header = json!([{"name": "Authorization", "value": "secret"}, {"name": "X", "value": "1"}]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut hello, _) = listener.accept().await.unwrap();
        hello.write_all(status(400, "not TLS").as_bytes()).await.unwrap();
        let (mut plain, _) = listener.accept().await.unwrap();
        let requests = Mutex::default();
        answer(&mut plain, &requests, &status(500, "")).await;
        // Somebody who speaks something else is not asked again.
        let (mut other, _) = listener.accept().await.unwrap();
        other.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        requests.into_inner().unwrap().pop().unwrap()
    });
    let get = json!({"httpGet": {"scheme": "HTTPS", "port": address.port(), "path": "/h", "httpHeaders": header}});
    let told = format!("request to HTTPS lifecycle hook {address} got HTTP response, retry with HTTP succeeded");
    assert_eq!(act(get.clone(), Purpose::Hook, SOON).await, Outcome::Warning(told));
    let Outcome::Failure(text) = act(get, Purpose::Hook, SOON).await else { unreachable!() };
    assert!(text.starts_with(&format!("Get \"https://{address}/h\": tls: ")), "{text}");
    let request = asked.await.unwrap();
    assert!(request.starts_with("GET /h HTTP/1.1\r\n") && request.contains("x: 1\r\n"), "{request}");
    assert!(!request.to_lowercase().contains("authorization"), "{request}");
}

#[tokio::test]
async fn grpc_asks_for_the_health_of_a_service() {
    let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let policy = Policy::new().allow("grpc.health.v1.Health", &[Caller::Anonymous]);
    let bound = Server::bind(skerry_rpc::ServerConfig::new("test", listen, policy)).await.unwrap();
    let port = bound.local_addr().unwrap().port();
    let health = bound.health();
    let (_trigger, watch) = drain::channel(Duration::from_secs(1));
    tokio::spawn(bound.serve(tonic::service::Routes::default(), watch));
    let check = |service: &str| act(json!({"grpc": {"port": port, "service": service}}), Purpose::Probe, SOON);
    assert_eq!(check("").await, Outcome::Success);
    health.set_all(false).await;
    let unhealthy = "service unhealthy (responded with \"NOT_SERVING\")";
    assert_eq!(check("").await, Outcome::Failure(unhealthy.into()));
    let Outcome::Failure(text) = check("no.such.Service").await else { unreachable!() };
    assert!(text.starts_with("error: health rpc probe failed: rpc error: code = NotFound desc = "), "{text}");

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let probe = json!({"grpc": {"port": port}});
    let late = "timeout: health rpc did not complete within 100ms";
    let outcome = act(probe.clone(), Purpose::Probe, Duration::from_millis(100)).await;
    assert_eq!(outcome, Outcome::Failure(late.into()));
    drop(silent);
    let refused = format!("error: failed to connect service at \"127.0.0.1:{port}\": connection refused");
    assert_eq!(act(probe, Purpose::Probe, SOON).await, Outcome::Failure(refused));
}

#[tokio::test]
async fn what_cannot_be_asked_says_nothing_about_the_container() {
    for (probe, part) in [
        (json!({"httpGet": {"port": "db"}}), "port \"db\" is neither a number nor the name of a port"),
        (json!({"tcpSocket": {"port": 0}}), "invalid port number: 0"),
        (json!({"tcpSocket": {"port": "70000"}}), "invalid port number: 70000"),
        (json!({"httpGet": {"port": 1, "scheme": "gopher"}}), "unsupported protocol scheme \"gopher\""),
        (
            json!({"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": ""}]}}),
            "invalid header field \"a b\"",
        ),
        (json!({"exec": {"command": ["true"]}}), "rpc error: code = Unavailable desc = "),
    ] {
        let Outcome::Unknown(text) = act(probe.clone(), Purpose::Probe, SOON).await else { unreachable!("{probe}") };
        assert!(text.starts_with(part), "{text}");
    }
}

#[test]
fn addresses_and_ports_are_found() {
    let cri = Cri::new(Path::new("/nonexistent.sock"), "n");
    let container = container();
    let find = |pod_ip, host, port: &str| {
        let target = Target { cri: &cri, container_id: "id", container: &container, pod_ip };
        address(target, host, &IntOrString::String(port.into())).map(|(host, port)| host_port(&host, port))
    };
    assert_eq!(find("10.0.0.1", None, "web").unwrap(), "10.0.0.1:8080");
    assert_eq!(find("10.0.0.1", Some(""), "81").unwrap(), "10.0.0.1:81");
    assert_eq!(find("fd00::1", None, "web").unwrap(), "[fd00::1]:8080");
    assert_eq!(find("10.0.0.1", Some("[::1]"), "web").unwrap(), "[::1]:8080");
    assert!(find("", None, "web").is_err(), "never this machine by accident");
}
