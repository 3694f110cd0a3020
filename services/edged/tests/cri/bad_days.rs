//! Faults of what edged stands on: the network plugin, the runtime's answers, too many pods at once.
//!
//! [`Liar`] stands between edged and the real containerd and passes everything on; told to, it asks about
//! another container than edged did, or answers itself that a container cannot be stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use skerry_common::kinds;
use tokio::net::{UnixListener, UnixStream};

use crate::left::Places;
use crate::node::{Node, wait, wait_within};
use crate::{shell, sleeper};

/// Pods of the short form; `SKERRY_ROUNDS` multiplies them, up to [`MOST_PODS`].
const PODS: usize = 20;
const MOST_PODS: usize = 200;
/// For all pods together.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn a_network_plugin_that_fails_is_said_and_the_pod_runs_when_it_works_again() {
    let mut node = Node::start().await;
    let places = Places::of(&mut node.containerd);
    // The plugin cannot write down which addresses it gave.
    let leases = node.containerd.dir().join("state/cni/leases");
    let away = leases.with_extension("away");
    let _ = fs::rename(&leases, &away);
    fs::write(&leases, "").unwrap();
    node.put_pod("p", "uid-1", sleeper());
    node.put_pod("gone", "uid-2", sleeper());
    let said = "Failed to create pod sandbox: failed to setup network for sandbox";
    node.until_event("uid-1", "FailedCreatePodSandBox", said).await;
    node.until_event("uid-2", "FailedCreatePodSandBox", said).await;
    let status = node.status("uid-1");
    assert_eq!(status["phase"], "Pending", "{status:#}");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating", "{status:#}");
    // What the plugin may have given is given back before the pod is gone.
    node.delete_gracefully("gone", 1);
    node.until_event("uid-2", "FailedKillPod", "failed to destroy network for sandbox").await;
    fs::remove_file(&leases).unwrap();
    let _ = fs::rename(&away, &leases);
    node.until_running("uid-1").await;
    node.until_deleted("uid-2").await;
    node.delete_gracefully("p", 1);
    node.until_deleted("uid-1").await;
    wait("nothing to be left", || places.left("uid-").is_empty(), || format!("{:#?}", places.left("uid-"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_hook_failed_ends_though_the_runtime_did_not_stop_it_at_once() {
    let mut node = Node::without_agent(|_| {}).await;
    let liar = Liar::start(&node.containerd.socket(), node.containerd.dir());
    node.runtime_endpoint = Some(liar.socket.clone());
    node.start_agent().await;
    liar.refuses.store(2, Ordering::Relaxed);
    let mut container = shell("trap 'exit 0' TERM; while true; do sleep 0.1 & wait $!; done");
    container["lifecycle"] = json!({"postStart": {"exec": {"command": ["/bin/false"]}}});
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [container]});
    node.put_pod("p", "uid-1", spec);
    node.until("uid-1", "its end", |s| s["phase"] == "Succeeded" || s["phase"] == "Failed").await;
    assert_eq!(liar.refuses.load(Ordering::Relaxed), 0);
    node.until_event("uid-1", "FailedKillPod", "error killing pod: failed to kill container: not now").await;
    let running = || node.ctr(&["tasks", "ls"]).contains("RUNNING");
    wait("nothing to run", || !running(), || node.ctr(&["tasks", "ls"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_another_container_decides_nothing() {
    let mut node = Node::without_agent(|_| {}).await;
    let liar = Liar::start(&node.containerd.socket(), node.containerd.dir());
    node.runtime_endpoint = Some(liar.socket.clone());
    node.start_agent().await;
    node.put_pod("honest", "uid-1", sleeper());
    node.put_pod("job", "uid-2", json!({"restartPolicy": "Never", "containers": [shell("exit 3")]}));
    let first = node.until_running("uid-1").await;
    let ended = node.until("uid-2", "the end", |s| s["phase"] == "Failed").await;
    let id = |s: &Value| s["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned();
    let bare = |s: &Value| id(s).rsplit('/').next().unwrap().to_owned();
    // A new agent knows nothing yet, and hears of the running container that it has failed.
    node.kill_agent().await;
    *liar.lie.lock().unwrap() = Some((bare(&first), bare(&ended)));
    let reports = node.hub.received(kinds::POD_STATUS).len();
    node.start_agent().await;
    wait("refused answers", || node.metric("skerry_edged_runtime_errors_total") > 2, String::new).await;
    let told = node.hub.received(kinds::POD_STATUS);
    assert!(told.iter().skip(reports).all(|r| r.uid != "uid-1"), "nothing is said of what was not seen");
    assert_eq!(node.ctr(&["tasks", "ls"]).matches("RUNNING").count(), 2, "{}", node.ctr(&["tasks", "ls"]));
    *liar.lie.lock().unwrap() = None;
    let again = || node.hub.received(kinds::POD_STATUS).iter().skip(reports).any(|r| r.uid == "uid-1");
    wait("its status", again, String::new).await;
    let status = node.until_running("uid-1").await;
    assert_eq!((id(&status), &status["containerStatuses"][0]["restartCount"]), (id(&first), &json!(0)));
}

fn pods() -> usize {
    let rounds = std::env::var("SKERRY_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(1);
    (PODS * rounds).min(MOST_PODS)
}

/// For the others there is no place on the node.
fn fits() -> usize {
    pods() - pods() / 10
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_come_all_at_once_run_or_are_refused_and_leave_nothing() {
    let mut node = Node::start_with(|config| config.max_pods = u32::try_from(fits()).unwrap()).await;
    let (pods, fits) = (pods(), fits());
    let places = Places::of(&mut node.containerd);
    let uid = |i: usize| format!("uid-many-{i}");
    for i in 0..pods {
        node.put_pod(&format!("p{i}"), &uid(i), sleeper());
    }
    let count = |wanted: &dyn Fn(&Value) -> bool| (0..pods).filter(|i| wanted(&node.status(&uid(*i)))).count();
    let running = || count(&|s| s["phase"] == "Running");
    let refused = || count(&|s| s["phase"] == "Failed" && s["reason"] == "OutOfpods");
    let state = || format!("{} run, {} refused, of {pods}", running(), refused());
    wait_within(PATIENCE, "all pods", || running() == fits && refused() == pods - fits, state).await;
    assert!((0..pods).all(|i| node.status(&uid(i))["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0) == 0));
    for i in 0..pods {
        node.delete_gracefully(&format!("p{i}"), 1);
    }
    let deleted = || node.hub.received(kinds::POD_DELETION).len();
    wait_within(PATIENCE, "their end", || deleted() == pods, || deleted().to_string()).await;
    wait("nothing to be left", || places.left("uid-").is_empty(), || format!("{:#?}", places.left("uid-"))).await;
}

/// See the module documentation. Ends with its test.
struct Liar {
    socket: PathBuf,
    /// Who is asked about the first container asks about the second.
    lie: Arc<Mutex<Option<(String, String)>>>,
    /// Stops of containers that are refused.
    refuses: Arc<AtomicUsize>,
}

impl Liar {
    fn start(runtime: &Path, dir: &Path) -> Self {
        let liar = Self { socket: dir.join("liar.sock"), lie: Arc::default(), refuses: Arc::default() };
        let listener = UnixListener::bind(&liar.socket).unwrap();
        let (lie, refuses, runtime) = (Arc::clone(&liar.lie), Arc::clone(&liar.refuses), runtime.to_owned());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let towards = UnixStream::connect(&runtime).await.unwrap();
                tokio::spawn(pass_on(stream, towards, Arc::clone(&lie), Arc::clone(&refuses)));
            }
        });
        liar
    }
}

async fn pass_on(
    from: UnixStream,
    towards: UnixStream,
    lie: Arc<Mutex<Option<(String, String)>>>,
    refuses: Arc<AtomicUsize>,
) {
    let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(towards));
    let (sender, connection) = client.await.unwrap();
    tokio::spawn(connection);
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut sender, lie, refuses) = (sender.clone(), Arc::clone(&lie), Arc::clone(&refuses));
        async move {
            let (head, body) = request.into_parts();
            let mut body = body.collect().await?.to_bytes();
            if head.uri.path().ends_with("/ContainerStatus")
                && let Some((about, instead)) = &*lie.lock().unwrap()
            {
                body = replaced(&body, about, instead);
            }
            let one_less = |left: usize| left.checked_sub(1);
            if head.uri.path().ends_with("/StopContainer")
                && refuses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
            {
                let no = Response::builder().header("content-type", "application/grpc");
                let no = no.header("grpc-status", "13").header("grpc-message", "not now");
                return Ok(no.body(Either::Left(Empty::new())).unwrap());
            }
            let uri = format!("http://localhost{}", head.uri.path());
            let mut request = Request::post(uri).body(Full::new(body)).unwrap();
            request.headers_mut().extend(head.headers);
            request.headers_mut().remove("content-length");
            let response: Response<Incoming> = sender.send_request(request).await?;
            Ok::<_, hyper::Error>(response.map(Either::Right))
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _: Result<(), hyper::Error> = server.serve_connection(TokioIo::new(from), service).await;
}

/// The request about another container: ids have the same length, so the frame stays as it is.
fn replaced(body: &Bytes, about: &str, instead: &str) -> Bytes {
    assert_eq!(about.len(), instead.len());
    let at = body.windows(about.len()).position(|part| part == about.as_bytes());
    let Some(at) = at else { return body.clone() };
    [&body[..at], instead.as_bytes(), &body[at + about.len()..]].concat().into()
}
