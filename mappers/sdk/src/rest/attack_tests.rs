//! Attacks on the REST server that the tests of its API do not make, and the controls of all of them: the HTTP
//! library as it comes.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::routing::put;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::handlers::MAX_BODY_BYTES;
use super::tests::{Running, call, raw};
use crate::config::Rest;
use crate::serve::HEADER_TIMEOUT;

const PATH: &str = "/api/v1/device/default/a/n";
const JSON: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn nonsense_writes_nothing() {
    let server = Running::start(Rest::default()).await;
    let huge = format!("\"{}\"", "9".repeat(5_000));
    let bodies = [
        "",
        "null",
        "{}",
        "[1]",
        "tru",
        "NaN",
        "Infinity",
        "-",
        "1e999",
        "1.5",
        "99999999999999999999",
        "\"",
        "\"\\ud800\"",
        "\u{0}",
        "42 43",
        &huge,
    ];
    for body in bodies {
        let (status, words) = call(server.address, "PUT", PATH, JSON, body).await;
        assert!(status == 400 && !words.is_empty(), "{body:.60}: {status} {words}");
    }
    // What is no request, and paths that are not what they seem.
    let requests: [&[u8]; 7] = [
        b"\0\0\0\0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PUT /api/v1/device/default/a/n HTTP/9.9\r\n\r\n",
        b"PUT /api/v1/device/default/a/n HTTP/1.1\r\nhost: m\r\ncontent-length: -1\r\n\r\n1",
        b"PUT /api/v1/device/default/a/n HTTP/1.1\r\nhost: m\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n12",
        b"PUT /api/v1/device/default/a/%ff%fe HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n",
        b"PUT /api/v1/device/default/../a/n HTTP/1.1\r\nhost: m\r\nconnection: close\r\ncontent-length: 1\r\n\r\n1",
    ];
    for request in requests {
        let answer = raw(server.address, request).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{}: {answer}", String::from_utf8_lossy(request));
    }
    assert_eq!(server.number.0.load(Ordering::Relaxed), 0);
    assert_eq!(server.put(PATH, "42").await.0, 200);
    server.end().await;
}

#[tokio::test]
async fn text_of_others_is_text() {
    let server = Running::start(Rest::default()).await;
    for text in [
        "$(id)",
        "`id`;reboot",
        "..%2f..%2fetc%2fpasswd",
        "{{7*7}}",
        "%0d%0aset-cookie:x=1",
        "%1b[31m",
        "'%20or%201=1--",
    ] {
        for path in [format!("/api/v1/device/default/{text}/n"), format!("/api/v1/device/default/a/{text}")] {
            let (status, words) = server.get(&path).await;
            assert!([400, 404].contains(&status), "{path}: {status} {words}");
            // Repeated in one line.
            assert!(!words.contains(['\r', '\n', '\u{1b}']), "{words:?}");
        }
        // A name for a request is given back as it came, and nothing becomes a header of its own.
        let request =
            format!("GET /api/v1/ping HTTP/1.1\r\nhost: m\r\nconnection: close\r\nx-correlation-id: {text}\r\n\r\n");
        let answer = raw(server.address, request.as_bytes()).await;
        assert!(!answer.contains("\r\nset-cookie"), "{answer}");
    }
    server.end().await;
}

/// The library's server as it comes, which counts what it is sent.
async fn plain() -> SocketAddr {
    let router = Router::new()
        .route("/api/v1/device/default/a/n", put(|body: Bytes| async move { body.len().to_string() }))
        .layer(DefaultBodyLimit::disable());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn control_the_library_as_it_comes_takes_long_bodies_and_waits_for_silent_clients() {
    let address = plain().await;
    let (status, taken) = call(address, "PUT", PATH, JSON, &"1".repeat(4 * MAX_BODY_BYTES)).await;
    assert_eq!((status, taken.parse()), (200, Ok(4 * MAX_BODY_BYTES)));
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(b"PUT /").await.unwrap();
    let (begun, mut answer) = (Instant::now(), Vec::new());
    let closed = tokio::time::timeout(HEADER_TIMEOUT + Duration::from_secs(2), silent.read_to_end(&mut answer)).await;
    assert!(closed.is_err(), "closed after {:?}", begun.elapsed());
}
