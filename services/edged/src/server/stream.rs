//! exec, attach and port-forward: the runtime gives a URL, and the client's connection goes there.
//!
//! The runtime's streaming server speaks the protocol (SPDY or WebSocket and their sub-protocols), so the
//! upgrade request is passed on with its headers, the answer passed back, and after it bytes both ways.
//! Invariants: only a URL on this machine is dialled; without an upgrade nothing is dialled; credentials
//! of the client are not passed on. Limits: `limits`. The stream runs in the connection's task.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use skerry_common::relay::{End, relay};
use skerry_proto::cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use tokio::net::TcpStream;

use super::answer::{Answer, body};
use super::claim::Turn;
use super::find::{self, Refusal};
use super::limits::{DIAL, LATE, MAX_ERROR, UPGRADE};
use super::route::{ContainerPath, PodPath};
use super::serve::Upgraded;
use super::streams::OpenStream;
use crate::context::Context;

/// Most words of a command, and most ports of one port-forward.
const MAX_WORDS: usize = 1024;

/// What the streams of a command are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Options {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
    command: Vec<String>,
    ports: Vec<i32>,
}

fn bad(text: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, text)
}

impl Options {
    fn parse(query: &str) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let is = value == "1" || value == "true";
            match &*name {
                "input" => options.stdin |= is,
                "output" => options.stdout |= is,
                "error" => options.stderr |= is,
                "tty" => options.tty |= is,
                "command" => options.command.push(value.into_owned()),
                "port" => {
                    for port in value.split(',') {
                        let port: u16 = port.parse().map_err(|_| bad(format!("invalid port number: {port:?}")))?;
                        options.ports.push(i32::from(port));
                    }
                }
                _ => {}
            }
            if options.command.len() > MAX_WORDS || options.ports.len() > MAX_WORDS {
                return Err(bad(format!("more than {MAX_WORDS} words or ports")));
            }
        }
        // A terminal has one output.
        options.stderr &= !options.tty;
        Ok(options)
    }

    fn for_command(query: &str) -> Result<Self, Refusal> {
        let options = Self::parse(query)?;
        if !options.stdin && !options.stdout && !options.stderr {
            return Err(bad("you must specify at least 1 of stdin, stdout, stderr"));
        }
        Ok(options)
    }
}

/// Runs a command in a container.
pub(super) async fn exec(
    context: &Arc<Context>,
    path: &ContainerPath,
    request: Request<Incoming>,
    upgraded: &Upgraded,
) -> Result<Answer, Refusal> {
    let options = Options::for_command(request.uri().query().unwrap_or(""))?;
    if options.command.is_empty() {
        return Err(bad("you must specify a command"));
    }
    let (_, container) = find::container(context, path).await?;
    let open = begin(context, "exec", request.headers())?;
    let Options { stdin, stdout, stderr, tty, command, .. } = options;
    let init = context.cri.main_process(&container.id).await?;
    let turn = context.streams.claims.turn(&container.id, &command, init).await;
    let asked = ExecRequest { container_id: container.id, cmd: command, tty, stdin, stdout, stderr };
    pass_on(&context.cri.exec(asked).await?, request, Stream { open, turn: Some(turn) }, upgraded).await
}

/// Attaches to the main process of a container.
pub(super) async fn attach(
    context: &Arc<Context>,
    path: &ContainerPath,
    request: Request<Incoming>,
    upgraded: &Upgraded,
) -> Result<Answer, Refusal> {
    let options = Options::for_command(request.uri().query().unwrap_or(""))?;
    let (spec, container) = find::container(context, path).await?;
    let open = begin(context, "attach", request.headers())?;
    let asked = AttachRequest {
        container_id: container.id,
        stdin: options.stdin,
        stdout: options.stdout,
        // What the container has decides, not what the client wishes.
        stderr: options.stderr && !spec.tty,
        tty: spec.tty,
    };
    pass_on(&context.cri.attach(asked).await?, request, Stream { open, turn: None }, upgraded).await
}

/// Forwards connections to ports of a pod.
pub(super) async fn port_forward(
    context: &Arc<Context>,
    path: &PodPath,
    request: Request<Incoming>,
    upgraded: &Upgraded,
) -> Result<Answer, Refusal> {
    let options = Options::parse(request.uri().query().unwrap_or(""))?;
    let sandbox = find::sandbox(context, path).await?;
    let open = begin(context, "portforward", request.headers())?;
    let asked = PortForwardRequest { pod_sandbox_id: sandbox, port: options.ports };
    pass_on(&context.cri.port_forward(asked).await?, request, Stream { open, turn: None }, upgraded).await
}

/// What a stream holds while it lasts.
struct Stream {
    open: OpenStream,
    /// Of an exec.
    turn: Option<Turn>,
}

impl Stream {
    async fn run(self, relay: impl Future<Output = End>) {
        let Self { open, turn } = self;
        tokio::pin!(relay);
        let end = match turn {
            None => relay.await,
            Some(turn) => {
                let claim = turn.claim();
                tokio::pin!(claim);
                tokio::select! {
                    end = &mut relay => {
                        // The runtime ends a stream when the process has ended; else it may be starting.
                        if end != End::Server {
                            drop(tokio::time::timeout(LATE, claim).await);
                        }
                        end
                    }
                    claim = &mut claim => {
                        let end = relay.await;
                        drop(claim);
                        end
                    }
                }
            }
        };
        tracing::debug!(?end, "stream ended");
        drop(open);
    }
}

/// Checks that it is an upgrade and that there is room for a stream.
fn begin(context: &Context, kind: &'static str, headers: &HeaderMap) -> Result<OpenStream, Refusal> {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let asks = connection.flat_map(|v| v.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    if !asks || !headers.contains_key(header::UPGRADE) {
        return Err(bad("Upgrade request required"));
    }
    let full = || Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many open streams on this node");
    context.streams.open(kind).ok_or_else(full)
}

/// The address of a URL of the runtime, and the path on it.
fn target(url: &str) -> Result<(SocketAddr, Uri), Refusal> {
    let wrong = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the runtime's streaming address cannot be used");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']');
    let ip = match host {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        other => other.parse().map_err(|_| wrong())?,
    };
    if uri.scheme_str() != Some("http") || !ip.is_loopback() {
        tracing::error!(host, "the runtime streams from an address that is not this machine's");
        return Err(wrong());
    }
    let port = uri.port_u16().ok_or_else(wrong)?;
    Ok((SocketAddr::new(ip, port), uri))
}

/// Passes the upgrade on and leaves the stream to the connection.
async fn pass_on(
    url: &str,
    mut request: Request<Incoming>,
    held: Stream,
    upgraded: &Upgraded,
) -> Result<Answer, Refusal> {
    let (address, uri) = target(url)?;
    let failed =
        |what: &str| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the runtime's streaming server: {what}"));
    let stream = tokio::time::timeout(DIAL, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| failed("no answer"))?.map_err(|e| failed(&e.to_string()))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e.to_string()))?;
    // It ends with the answer, or hands the connection over to the stream.
    tokio::spawn(connection.with_upgrades());
    let passed = passed_on(&request, &uri).map_err(|_| failed("the request cannot be passed on"))?;
    let mut answer = tokio::time::timeout(UPGRADE, sender.send_request(passed))
        .await
        .map_err(|_| failed("no answer to the upgrade"))?
        .map_err(|e| failed(&e.to_string()))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (near, far) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
        upgraded.leave(async move {
            if let (Ok(near), Ok(far)) = tokio::join!(near, far) {
                held.run(relay(TokioIo::new(near), TokioIo::new(far))).await;
            }
        });
        return Ok(answer.map(|_| body(Bytes::new())));
    }
    let (head, rest) = answer.into_parts();
    let rest = Limited::new(rest, MAX_ERROR).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let mut answer = http::Response::from_parts(head, body(rest));
    answer.headers_mut().remove(header::TRANSFER_ENCODING);
    answer.headers_mut().remove(header::CONTENT_LENGTH);
    Ok(answer)
}

/// The request for the runtime: the client's method and headers, without its credentials.
fn passed_on(request: &Request<Incoming>, uri: &Uri) -> Result<Request<Empty<Bytes>>, http::Error> {
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut passed = Request::builder().method(request.method().clone()).uri(path);
    if let Some(headers) = passed.headers_mut() {
        headers.clone_from(request.headers());
        for secret in [header::AUTHORIZATION, header::COOKIE, header::HOST, header::CONTENT_LENGTH] {
            headers.remove(secret);
        }
        if let Some(host) = uri.authority().and_then(|a| a.as_str().parse().ok()) {
            headers.insert(header::HOST, host);
        }
        if *request.method() == Method::POST {
            headers.insert(header::CONTENT_LENGTH, http::HeaderValue::from_static("0"));
        }
    }
    passed.body(Empty::new())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options_of_commands() {
        let parsed = Options::for_command("input=1&output=1&error=1&tty=1&command=sh&command=-c&command=echo%20a+b");
        let Options { stdin, stdout, stderr, tty, command, .. } = parsed.unwrap();
        assert_eq!((stdin, stdout, stderr, tty), (true, true, false, true));
        assert_eq!(command, ["sh", "-c", "echo a b"]);
        assert_eq!(Options::for_command("command=ls").unwrap_err().status, StatusCode::BAD_REQUEST);
        assert_eq!(Options::parse("port=80&port=443,8443").unwrap().ports, [80, 443, 8443]);
        assert!(Options::parse("port=70000").is_err());
        assert!(Options::parse(&"command=a&".repeat(MAX_WORDS + 1)).is_err());
    }

    #[test]
    fn only_this_machine_is_dialled() {
        for good in ["http://127.0.0.1:4000/exec/t", "http://localhost:1/x", "http://[::1]:4000/attach/t"] {
            assert!(target(good).is_ok(), "{good}");
        }
        for wrong in [
            "http://10.0.0.1:4000/exec/t",
            "http://example.org/exec",
            "https://127.0.0.1:4000/exec",
            "http://127.0.0.1/exec",
            "unix:///run/x",
            "/exec/t",
            "",
        ] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }
}
