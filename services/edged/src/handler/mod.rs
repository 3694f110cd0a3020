//! Runs one action against a container: exec, HTTP(S), TCP, gRPC, sleep.
//!
//! Called by probes and by lifecycle hooks. An action is bounded in time by its caller's timeout and in
//! size by [`MAX_OUTPUT`]; dropping the future of [`run`] ends it and leaves no task behind. Outcomes and
//! their words are the kubelet's. Nothing is retried here, nothing is remembered.

mod exec;
mod grpc;
mod http;
mod tcp;
mod tls;
mod url;

use std::io;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nix::errno::Errno;

use crate::runtime::Cri;

/// Bytes of a command's output or of a response's body that are looked at, as in the kubelet.
const MAX_OUTPUT: usize = 10 << 10;

/// Who asks: it shows in the `User-Agent`, and a hook does not judge a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Probe,
    Hook,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Action<'a> {
    Exec(&'a ExecAction),
    HttpGet(&'a HTTPGetAction),
    TcpSocket(&'a TCPSocketAction),
    Grpc(&'a GRPCAction),
    Sleep(Duration),
}

impl<'a> Action<'a> {
    /// `None`: the probe names no action.
    pub(crate) fn of_probe(probe: &'a Probe) -> Option<Self> {
        let exec = probe.exec.as_ref().map(Self::Exec);
        let http = || probe.http_get.as_ref().map(Self::HttpGet);
        let tcp = || probe.tcp_socket.as_ref().map(Self::TcpSocket);
        exec.or_else(http).or_else(tcp).or_else(|| probe.grpc.as_ref().map(Self::Grpc))
    }

    /// `None`: the hook names no action.
    pub(crate) fn of_hook(hook: &'a LifecycleHandler) -> Option<Self> {
        let exec = hook.exec.as_ref().map(Self::Exec);
        let http = || hook.http_get.as_ref().map(Self::HttpGet);
        let tcp = || hook.tcp_socket.as_ref().map(Self::TcpSocket);
        let seconds = |s: i64| Duration::from_secs(u64::try_from(s).unwrap_or(0));
        let sleep = || hook.sleep.as_ref().map(|s| Self::Sleep(seconds(s.seconds)));
        exec.or_else(http).or_else(tcp).or_else(sleep)
    }
}

/// The container that is acted on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) cri: &'a Cri,
    /// The runtime's id.
    pub(crate) container_id: &'a str,
    pub(crate) container: &'a Container,
    /// The pod's primary address, or the node's for a pod on the host's network; empty: not known yet.
    pub(crate) pod_ip: &'a str,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// A success that somebody should look at; of a hook: it was delivered, but not over TLS.
    Warning(String),
    /// The container says no, or nothing.
    Failure(String),
    /// The action could not be done, which says nothing about the container.
    Unknown(String),
}

/// Performs the action. `within` is rounded up to whole seconds for commands; a command that runs longer
/// is killed by the runtime.
pub(crate) async fn run(target: Target<'_>, action: Action<'_>, purpose: Purpose, within: Duration) -> Outcome {
    match action {
        Action::Exec(exec) => exec::run(target, exec, purpose, within).await,
        Action::Sleep(time) => {
            tokio::time::sleep(time).await;
            Outcome::Success
        }
        Action::HttpGet(get) => match address(target, get.host.as_deref(), &get.port) {
            Ok((host, port)) => http::get(get, &host, port, purpose, within).await,
            Err(error) => Outcome::Unknown(error),
        },
        Action::TcpSocket(tcp) => match address(target, tcp.host.as_deref(), &tcp.port) {
            Ok((host, port)) => tcp::connect(&host, port, within).await,
            Err(error) => Outcome::Unknown(error),
        },
        Action::Grpc(grpc) => match address(target, None, &IntOrString::Int(grpc.port)) {
            Ok((host, port)) => grpc::check(&host, port, grpc.service.as_deref().unwrap_or_default(), within).await,
            Err(error) => Outcome::Unknown(error),
        },
    }
}

fn address(target: Target<'_>, host: Option<&str>, port: &IntOrString) -> Result<(String, u16), String> {
    let host = host.filter(|h| !h.is_empty()).unwrap_or(target.pod_ip);
    if host.is_empty() {
        // An empty host would be this machine.
        return Err("the pod has no address yet".into());
    }
    Ok((host.trim_matches(['[', ']']).to_owned(), self::port(port, target.container)?))
}

/// A number, the name of one of the container's ports, or a number written as a text.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            match named {
                Some(found) => found.container_port,
                None => {
                    name.parse().map_err(|_| format!("port {name:?} is neither a number nor the name of a port"))?
                }
            }
        }
    };
    u16::try_from(number).ok().filter(|p| *p > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// `host:port`, with the brackets that an IPv6 address needs.
fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What the kernel said, as users know it from the kubelet: `connection refused`.
fn io_text(error: &io::Error) -> String {
    let Some(code) = error.raw_os_error() else { return error.to_string() };
    let text = Errno::from_raw(code).desc();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// As Go prints a duration of whole seconds or less.
fn seconds(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{}s", time.as_secs()) } else { format!("{}ms", time.as_millis()) }
}

/// At most [`MAX_OUTPUT`] bytes, as text.
fn bounded(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..MAX_OUTPUT).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests;
