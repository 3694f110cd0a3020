//! What the tests of the data path share: a namespace whose packets to Services are redirected, a table that
//! chooses, and a tunnel to a second proxy of the same process.
//!
//! A namespace is deleted when its test ends, also by a panic.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use skerry_common::NodeName;
use skerry_common::drain::{self, Trigger, Watch};
use skerry_mesh_core::{Header, Protocol, Refusal, Target as TunnelTarget};
use skerry_mesh_proxy::{
    Admit, Admitted, Candidate, Choice, Choose, Destination, Dial, Feedback, Flow, Interception, Limits, Plan, Policy,
    Proxy, Seen, Target, TcpListen, UdpListen, Unserved,
};
use skerry_telemetry::Registry;
use tokio::io::DuplexStream;

/// Longest wait of a test for what must happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Where redirected connections go.
pub(crate) const PORT: u16 = 15_001;
/// A network namespace of this test.
pub(crate) struct Namespace(pub(crate) String);

impl Namespace {
    /// With loopback up.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("mproxy-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let this = Self(name);
        ip(&["-n", &this.0, "link", "set", "lo", "up"]);
        this
    }

    /// Runs a program in it.
    pub(crate) fn run(&self, program: &[&str]) {
        ip(&[&["netns", "exec", &self.0], program].concat());
    }

    /// Runs a test in it: threads of the runtime are in the namespace of the thread that made it.
    pub(crate) fn block_on<F: Future<Output = ()>>(&self, test: impl FnOnce() -> F + Send) {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                setns(std::fs::File::open(format!("/run/netns/{}", self.0)).unwrap(), CloneFlags::CLONE_NEWNET)
                    .unwrap();
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                runtime.unwrap().block_on(test());
            });
            if let Err(panic) = run.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// Runs `ip`.
pub(crate) fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is needed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said}", arguments.join(" "));
}

/// A namespace in which connections to 10.96.0.0/16 and fd96::/64 are redirected to [`PORT`].
pub(crate) fn redirected<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let namespace = Namespace::new();
    for arguments in [
        ["addr", "add", "10.0.0.1/32", "dev", "lo"].as_slice(),
        &["addr", "add", "fd00::1/128", "dev", "lo", "nodad"],
        &["route", "add", "10.96.0.0/16", "dev", "lo", "src", "10.0.0.1"],
        &["-6", "route", "add", "fd96::/64", "dev", "lo", "src", "fd00::1"],
    ] {
        ip(&[&["-n", &namespace.0], arguments].concat());
    }
    let rules = format!(
        "table inet t {{
           chain out {{
             type nat hook output priority -100;
             ip daddr 10.96.0.0/16 meta l4proto {{ tcp, udp }} redirect to :{PORT}
             ip6 daddr fd96::/64 meta l4proto {{ tcp, udp }} redirect to :{PORT}
           }}
         }}"
    );
    namespace.run(&["nft", &rules]);
    namespace.block_on(test);
}

/// The address of Service number `n`.
pub(crate) fn service(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 96, 0, n], 80))
}

/// The same in IPv6.
pub(crate) fn service6(n: u16) -> SocketAddr {
    SocketAddr::from(([0xfd96, 0, 0, 0, 0, 0, 0, n], 80))
}

/// A decision of the test's own.
pub(crate) type Decide = Box<dyn Fn(&Flow, Seen<'_>) -> Option<Choice<u32>> + Send + Sync>;

/// Who serves what. An endpoint's name is its number.
#[derive(Default)]
pub(crate) struct Table {
    plans: Mutex<HashMap<Destination, Plan<u32>>>,
    feedback: Mutex<Vec<(u32, Feedback)>>,
    decide: Option<Decide>,
}

impl Table {
    /// A table that asks the test first.
    pub(crate) fn deciding(decide: Decide) -> Self {
        Self { decide: Some(decide), ..Self::default() }
    }

    /// Sets who serves an address.
    pub(crate) fn serve(&self, address: SocketAddr, policy: Policy, targets: &[Target]) {
        self.plan(Destination::Address(address), plan(policy, targets));
    }

    /// Sets who serves a destination.
    pub(crate) fn plan(&self, destination: Destination, plan: Plan<u32>) {
        self.plans.lock().unwrap().insert(destination, plan);
    }

    /// What was said about an endpoint.
    pub(crate) fn feedback_of(&self, endpoint: u32) -> Vec<Feedback> {
        let all = self.feedback.lock().unwrap();
        all.iter().filter(|(of, _)| *of == endpoint).map(|(_, feedback)| *feedback).collect()
    }

    /// How many flows an endpoint serves.
    pub(crate) fn in_flight(&self, endpoint: u32) -> i64 {
        let count = |feedback: &Feedback| match feedback {
            Feedback::Failed { .. } => 0,
            Feedback::Connected { .. } => 1,
            Feedback::Closed { .. } => -1,
        };
        self.feedback_of(endpoint).iter().map(count).sum()
    }
}

/// A plan with these targets, numbered.
pub(crate) fn plan(policy: Policy, targets: &[Target]) -> Plan<u32> {
    let candidates = targets.iter().zip(0..).map(|(target, endpoint)| Candidate { endpoint, target: target.clone() });
    Plan { candidates: candidates.collect(), policy }
}

impl Choose for Table {
    type Endpoint = u32;

    fn choose(&self, flow: &Flow, seen: Seen<'_>) -> Choice<u32> {
        if let Some(choice) = self.decide.as_ref().and_then(|decide| decide(flow, seen)) {
            return choice;
        }
        match self.plans.lock().unwrap().get(&flow.destination) {
            Some(plan) => Choice::Serve(plan.clone()),
            None => Choice::Refuse(Unserved::NoService),
        }
    }

    fn feedback(&self, endpoint: &u32, feedback: Feedback) {
        self.feedback.lock().unwrap().push((*endpoint, feedback));
    }
}

/// Admits what its map has.
#[derive(Default)]
pub(crate) struct Endpoints(Mutex<HashMap<(Protocol, SocketAddr), Policy>>);

impl Endpoints {
    pub(crate) fn add(&self, protocol: Protocol, target: SocketAddr, policy: Policy) {
        self.0.lock().unwrap().insert((protocol, target), policy);
    }
}

impl Admit for Endpoints {
    fn admit(&self, _peer: &NodeName, header: &Header) -> Result<Admitted, Refusal> {
        let TunnelTarget::Endpoint(target) = header.target else { return Err(Refusal::Forbidden) };
        let policy = self.0.lock().unwrap().get(&(header.protocol, target)).cloned();
        policy.map(|policy| Admitted { target, policy }).ok_or(Refusal::Forbidden)
    }
}

/// A tunnel to a second proxy, node `b`: each stream is a pipe, served as a stream of node `a`. None to node
/// `stuck` ever opens.
pub(crate) struct Tunnel {
    pub(crate) far: Proxy<Table, NoDial>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) stop: Watch,
}

impl Dial for Tunnel {
    type Stream = DuplexStream;

    async fn open(&self, node: &NodeName) -> io::Result<DuplexStream> {
        if node.as_str() == "stuck" {
            std::future::pending::<()>().await;
        }
        if node.as_str() != "b" {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        let (near, end) = tokio::io::duplex(64 * 1024);
        let (far, endpoints, stop) = (self.far.clone(), self.endpoints.clone(), self.stop.clone());
        tokio::spawn(async move { far.receive(&*endpoints, &NodeName::parse("a").unwrap(), end, stop).await });
        Ok(near)
    }
}

/// No way to other nodes.
pub(crate) struct NoDial;

impl Dial for NoDial {
    type Stream = DuplexStream;

    async fn open(&self, _node: &NodeName) -> io::Result<DuplexStream> {
        Err(io::ErrorKind::HostUnreachable.into())
    }
}

/// A proxy that serves redirected connections of this namespace, with a second one behind its tunnel.
pub(crate) struct System {
    pub(crate) table: Arc<Table>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) proxy: Proxy<Table, Tunnel>,
    pub(crate) registry: Registry,
    pub(crate) far_registry: Registry,
    pub(crate) trigger: Trigger,
    pub(crate) stop: Watch,
}

impl System {
    pub(crate) fn start() -> Self {
        Self::with(Table::default(), Limits::default(), Duration::from_secs(5))
    }

    pub(crate) fn with(table: Table, limits: Limits, drain: Duration) -> Self {
        let (trigger, stop) = drain::channel(drain);
        let (table, endpoints) = (Arc::new(table), Arc::new(Endpoints::default()));
        let (registry, far_registry) = (Registry::new(), Registry::new());
        let far = Proxy::new(Arc::new(Table::default()), Arc::new(NoDial), limits.clone(), &far_registry);
        let tunnel = Tunnel { far, endpoints: endpoints.clone(), stop: stop.clone() };
        let proxy = Proxy::new(table.clone(), Arc::new(tunnel), limits, &registry);
        let (served, all) = (&proxy, &stop);
        for any in [SocketAddr::from(([0, 0, 0, 0], PORT)), SocketAddr::from(([0_u16; 8], PORT))] {
            let listen = TcpListen::bind(any, Interception::Redirect).unwrap();
            let (proxy, stop) = (served.clone(), all.clone());
            tokio::spawn(async move { proxy.serve_tcp(listen, stop).await });
            let listen = UdpListen::bind(any, Interception::Redirect).unwrap();
            let (proxy, stop) = (served.clone(), all.clone());
            tokio::spawn(async move { proxy.serve_udp(listen, stop).await });
        }
        Self { table, endpoints, proxy, registry, far_registry, trigger, stop }
    }

    /// The value of a metric of the near proxy.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        value(&self.registry, name)
    }
}

/// The value of a metric, 0 where it was never counted. `name` may have labels.
pub(crate) fn value(registry: &Registry, name: &str) -> u64 {
    let text = registry.encode();
    let line =
        text.lines().find_map(|line| line.strip_prefix("skerry_mesh_proxy_")?.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// A TCP endpoint at node `b`.
pub(crate) fn at_b(address: SocketAddr) -> Target {
    at("b", Header::new(Protocol::Tcp, TunnelTarget::Endpoint(address)))
}

/// What a header says at a node.
pub(crate) fn at(node: &str, header: Header) -> Target {
    Target::Node { node: NodeName::parse(node).unwrap(), header }
}

/// Waits until something is so; panics when it does not come.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}
