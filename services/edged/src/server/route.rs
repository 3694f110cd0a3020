//! What a request is for. Pure.
//!
//! Called for every request before anything else: the subresource of `nodes` that a path belongs to is
//! what the caller must be allowed. Names become arguments of lookups, never of paths; a path with a
//! segment that no name can be is not found.

use http::Method;

/// A pod, by name and perhaps uid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodPath {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Option<String>,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerPath {
    pub(super) pod: PodPath,
    pub(super) container: String,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Healthz,
    Pods,
    RunningPods,
    ContainerLogs(ContainerPath),
    Exec(ContainerPath),
    Attach(ContainerPath),
    Run(ContainerPath),
    Summary,
    /// Of the agent itself.
    Metrics,
    ResourceMetrics,
    ContainerMetrics,
    ProbeMetrics,
    Configz,
    PortForward(PodPath),
}

/// Why there is no such route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoute {
    NotFound,
    /// The path exists, with this method.
    Method(&'static str),
}

/// The route of a path.
pub(super) fn route(method: &Method, path: &str) -> Result<Route, NoRoute> {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    if !segments.iter().all(|s| is_plain(s)) {
        return Err(NoRoute::NotFound);
    }
    let owned = |text: &str| text.to_owned();
    let pod = |namespace: &str, name: &str, uid: Option<&str>| PodPath {
        namespace: owned(namespace),
        name: owned(name),
        uid: uid.map(owned),
    };
    let container = |pod, name: &str| ContainerPath { pod, container: owned(name) };
    let found = match segments.as_slice() {
        ["healthz"] => Route::Healthz,
        ["pods"] => Route::Pods,
        ["runningpods"] => Route::RunningPods,
        ["containerLogs", ns, name, c] => Route::ContainerLogs(container(pod(ns, name, None), c)),
        ["exec", ns, name, c] => Route::Exec(container(pod(ns, name, None), c)),
        ["exec", ns, name, uid, c] => Route::Exec(container(pod(ns, name, Some(uid)), c)),
        ["attach", ns, name, c] => Route::Attach(container(pod(ns, name, None), c)),
        ["attach", ns, name, uid, c] => Route::Attach(container(pod(ns, name, Some(uid)), c)),
        ["run", ns, name, c] => Route::Run(container(pod(ns, name, None), c)),
        ["run", ns, name, uid, c] => Route::Run(container(pod(ns, name, Some(uid)), c)),
        ["stats", "summary"] => Route::Summary,
        ["metrics"] => Route::Metrics,
        ["metrics", "resource"] => Route::ResourceMetrics,
        ["metrics", "cadvisor"] => Route::ContainerMetrics,
        ["metrics", "probes"] => Route::ProbeMetrics,
        ["configz"] => Route::Configz,
        ["portForward", ns, name] => Route::PortForward(pod(ns, name, None)),
        ["portForward", ns, name, uid] => Route::PortForward(pod(ns, name, Some(uid))),
        _ => return Err(NoRoute::NotFound),
    };
    let allowed = match found {
        Route::Exec(_) | Route::Attach(_) | Route::PortForward(_) => "GET, POST",
        Route::Run(_) => "POST",
        _ => "GET",
    };
    let fits = allowed.split(", ").any(|name| name == method.as_str());
    if fits { Ok(found) } else { Err(NoRoute::Method(allowed)) }
}

/// Letters, digits, `-`, `.` and `_`: every name and every path of the API.
fn is_plain(segment: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    segment.len() <= 253 && segment != "." && segment != ".." && segment.bytes().all(plain)
}

/// What the caller must be allowed on the node: verb and subresource, as the kubelet has them.
pub(super) fn access(method: &Method, path: &str) -> (&'static str, &'static str) {
    let verb = match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let subresource = match path.split('/').find(|s| !s.is_empty()) {
        Some("stats") => "stats",
        Some("metrics") => "metrics",
        Some("logs") => "log",
        _ => "proxy",
    };
    (verb, subresource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let pod = |uid: Option<&str>| PodPath { namespace: "a".into(), name: "p".into(), uid: uid.map(Into::into) };
        let c = |uid| ContainerPath { pod: pod(uid), container: "c".into() };
        for (method, path, wanted) in [
            (Method::GET, "/pods", Ok(Route::Pods)),
            (Method::GET, "/pods/", Ok(Route::Pods)),
            (Method::GET, "/runningpods/", Ok(Route::RunningPods)),
            (Method::GET, "/containerLogs/a/p/c", Ok(Route::ContainerLogs(c(None)))),
            (Method::POST, "/containerLogs/a/p/c", Err(NoRoute::Method("GET"))),
            (Method::POST, "/exec/a/p/c", Ok(Route::Exec(c(None)))),
            (Method::GET, "/exec/a/p/u-1/c", Ok(Route::Exec(c(Some("u-1"))))),
            (Method::GET, "/attach/a/p/c", Ok(Route::Attach(c(None)))),
            (Method::POST, "/portForward/a/p", Ok(Route::PortForward(pod(None)))),
            (Method::POST, "/run/a/p/c", Ok(Route::Run(c(None)))),
            (Method::GET, "/run/a/p/c", Err(NoRoute::Method("POST"))),
            (Method::GET, "/stats/summary", Ok(Route::Summary)),
            (Method::GET, "/metrics/resource", Ok(Route::ResourceMetrics)),
            (Method::GET, "/stats", Err(NoRoute::NotFound)),
            (Method::DELETE, "/exec/a/p/c", Err(NoRoute::Method("GET, POST"))),
            (Method::GET, "/exec/a/p", Err(NoRoute::NotFound)),
            (Method::GET, "/containerLogs/a/../c", Err(NoRoute::NotFound)),
            (Method::GET, "/containerLogs/a/%2e%2e/c", Err(NoRoute::NotFound)),
            (Method::GET, "/", Err(NoRoute::NotFound)),
        ] {
            assert_eq!(route(&method, path), wanted, "{method} {path}");
        }
    }

    #[test]
    fn what_must_be_allowed() {
        for (method, path, wanted) in [
            (Method::GET, "/stats/summary", ("get", "stats")),
            (Method::GET, "/metrics", ("get", "metrics")),
            (Method::GET, "/metrics/cadvisor", ("get", "metrics")),
            (Method::GET, "/logs/", ("get", "log")),
            (Method::GET, "/pods", ("get", "proxy")),
            (Method::GET, "/statsx", ("get", "proxy")),
            (Method::POST, "/exec/a/b/c", ("create", "proxy")),
            (Method::DELETE, "/x", ("delete", "proxy")),
        ] {
            assert_eq!(access(&method, path), wanted, "{path}");
        }
    }
}
