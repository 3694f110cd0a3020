//! A server of the tests: a real one, on loopback, with a cluster of a few Services.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skerry_common::{Key, NodeName, drain, kinds};
use skerry_mesh_core::names::Domain;
use skerry_mesh_core::{Filter, Table, TableBuilder};
use skerry_mesh_dns::{ClusterZone, Config, Dns, DnsHandle};
use skerry_telemetry::Registry;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) zone: Arc<ClusterZone>,
    pub(crate) handle: DnsHandle,
    registry: Registry,
    _trigger: drain::Trigger,
}

/// A server with these upstream servers and the cluster of [`table`].
pub(crate) fn start(upstream: &[SocketAddr]) -> Server {
    start_with(Config { upstream: upstream.to_vec(), ..Config::default() }, Some(table()))
}

/// A server with this configuration, on a port of its own when it names none.
pub(crate) fn start_with(config: Config, table: Option<Arc<Table>>) -> Server {
    let no_address = config.listen == Config::default().listen;
    let listen = if no_address { vec![(Ipv4Addr::LOCALHOST, 0).into()] } else { config.listen };
    let servers = listen.iter().map(SocketAddr::ip).collect();
    let zone = Arc::new(ClusterZone::new(Domain::new(&config.domain, servers).unwrap()));
    if let Some(table) = table {
        zone.publish(table);
    }
    // Nothing of this machine: the servers of a test are its own.
    let resolv_conf = if config.resolv_conf == Config::default().resolv_conf {
        "/nonexistent/resolv.conf".into()
    } else {
        config.resolv_conf
    };
    let config = Config { listen, resolv_conf, ..config };
    let registry = Registry::new();
    let dns = Dns::build(&config, zone.clone(), &registry).unwrap();
    let address = dns.addresses()[0];
    let handle = dns.handle();
    let (trigger, watch) = drain::channel(Duration::from_secs(1));
    tokio::spawn(dns.run(watch));
    Server { address, zone, handle, registry, _trigger: trigger }
}

impl Server {
    /// A counter or gauge, by its name without prefix.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let text = self.registry.encode();
        let counter = [format!("skerry_dns_{name}_total "), format!("skerry_dns_{name} ")];
        let value = text.lines().find_map(|line| counter.iter().find_map(|name| line.strip_prefix(&**name)));
        value.unwrap_or_else(|| panic!("no metric {name} in\n{text}")).parse().unwrap()
    }

    /// Waits until a metric has a value.
    pub(crate) async fn until(&self, name: &str, reached: impl Fn(u64) -> bool) {
        let start = Instant::now();
        while !reached(self.count(name)) {
            assert!(start.elapsed() < PATIENCE, "{name} is {}", self.count(name));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// An address of loopback that no other process uses: tests have a process each.
pub(crate) fn loopback(last: u8, port: u16) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    (Ipv4Addr::new(127, 100 + high % 100, low, last), port).into()
}

/// Builds tables.
pub(crate) struct Cluster(pub(crate) TableBuilder);

impl Cluster {
    pub(crate) fn new() -> Self {
        Self(TableBuilder::new(NodeName::parse("edge-1").unwrap(), Filter::default()))
    }

    pub(crate) fn service(&mut self, name: &str, spec: &str) -> &mut Self {
        let body = format!(r#"{{"metadata":{{"namespace":"shop","name":"{name}","uid":"u"}},"spec":{spec}}}"#);
        self.0.upsert(kinds::SERVICE, &Key::new("shop", name), body.as_bytes()).unwrap();
        self
    }

    /// Endpoints `10.1.0.1`, `10.1.0.2` and so on.
    pub(crate) fn endpoints(&mut self, service: &str, count: usize) -> &mut Self {
        let endpoint = |at: usize| format!(r#"{{"addresses":["10.1.{}.{}"]}}"#, at / 250, at % 250 + 1);
        let endpoints: Vec<_> = (0..count).map(endpoint).collect();
        let body = format!(
            r#"{{"metadata":{{"namespace":"shop","name":"{service}-1",
            "labels":{{"kubernetes.io/service-name":"{service}"}}}},"addressType":"IPv4",
            "ports":[{{"name":"http","port":8080}}],"endpoints":[{}]}}"#,
            endpoints.join(",")
        );
        let key = Key::new("shop", format!("{service}-1"));
        self.0.upsert(kinds::ENDPOINT_SLICE, &key, body.as_bytes()).unwrap();
        self
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.0.snapshot()
    }
}

/// The cluster of most tests.
pub(crate) fn table() -> Arc<Table> {
    let mut cluster = Cluster::new();
    cluster
        .service("orders", r#"{"clusterIP":"10.96.0.7","ports":[{"name":"http","port":8080}]}"#)
        .service("db", r#"{"clusterIP":"None","ports":[{"name":"http","port":8080}]}"#)
        .endpoints("db", 3)
        .service("many", r#"{"clusterIP":"None","ports":[{"name":"http","port":8080}]}"#)
        .endpoints("many", 100)
        .service("partner", r#"{"type":"ExternalName","externalName":"www.example.com"}"#)
        .service("inside", r#"{"type":"ExternalName","externalName":"orders.shop.svc.cluster.local"}"#)
        .service("missing", r#"{"type":"ExternalName","externalName":"nothing.shop.svc.cluster.local"}"#)
        .service("ring", r#"{"type":"ExternalName","externalName":"ring.shop.svc.cluster.local"}"#);
    cluster.table()
}
