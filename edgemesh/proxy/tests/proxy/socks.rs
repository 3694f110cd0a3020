//! SOCKS5 with a client that others wrote: curl.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use skerry_common::{NodeName, drain};
use skerry_mesh_core::{Header, Protocol, Target as TunnelTarget};
use skerry_mesh_proxy::{Destination, Limits, Policy, Proxy, SocksAccess, SocksListen, Target};
use skerry_telemetry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::common::{NoDial, Table, at, plan, value};

const ANY: &str = "127.0.0.1:0";

struct Socks {
    address: SocketAddr,
    table: Arc<Table>,
    registry: Registry,
    _trigger: drain::Trigger,
}

fn start(ports: &[u16]) -> Socks {
    let (trigger, stop) = drain::channel(Duration::from_secs(1));
    let (table, registry) = (Arc::new(Table::default()), Registry::new());
    let proxy = Proxy::new(table.clone(), Arc::new(NoDial), Limits::default(), &registry);
    let listen = SocksListen::bind(ANY.parse().unwrap()).unwrap();
    let address = listen.local_addr();
    let users = [("ann".to_owned(), "secret".to_owned())].into();
    let ports: BTreeSet<u16> = ports.iter().copied().collect();
    tokio::spawn(async move { proxy.serve_socks(listen, SocksAccess { users, ports }, stop).await });
    Socks { address, table, registry, _trigger: trigger }
}

impl Socks {
    fn node(&self, name: &str, port: u16, target: Target) {
        let destination = Destination::Node(NodeName::parse(name).unwrap(), port);
        self.table.plan(destination, plan(Policy::TCP, &[target]));
    }

    async fn curl(&self, user: &str, url: &str) -> Output {
        let proxy = format!("socks5h://{}", self.address);
        let arguments = ["--silent", "--show-error", "--max-time", "20", "--proxy", &proxy, "--proxy-user", user, url];
        Command::new("curl").args(arguments).output().await.expect("curl is needed")
    }

    /// The code that curl says it was refused with.
    async fn refused(&self, user: &str, url: &str) -> String {
        let output = self.curl(user, url).await;
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).trim().to_owned()
    }
}

#[tokio::test]
async fn curl_reaches_a_node_by_name_and_hears_why_not() {
    let web = TcpListener::bind(ANY).await.unwrap();
    let address = web.local_addr().unwrap();
    let gone = TcpListener::bind(ANY).await.unwrap().local_addr().unwrap().port();
    let socks = start(&[address.port(), gone]);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = web.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nhere").await.unwrap();
        }
    });
    socks.node("edge-1", address.port(), Target::Local(address));
    socks.node("edge-1", gone, Target::Local(SocketAddr::new(address.ip(), gone)));
    socks.node("away", gone, at("away", Header::new(Protocol::Tcp, TunnelTarget::Node(gone))));

    let url = format!("http://edge-1:{}/", address.port());
    let output = socks.curl("ann:secret", &url).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "here", "{}", String::from_utf8_lossy(&output.stderr));
    for (url, code) in [
        ("http://edge-1:1/".to_owned(), "(2)"),
        (format!("http://stranger:{gone}/"), "(4)"),
        (format!("http://away:{gone}/"), "(4)"),
        (format!("http://edge-1:{gone}/"), "(5)"),
        (format!("http://127.0.0.1:{}/", address.port()), "(8)"),
    ] {
        let said = socks.refused("ann:secret", &url).await;
        assert!(said.contains(code), "{url}: {said}");
    }
    let said = socks.refused("ann:wrong", &url).await;
    assert!(said.contains("rejected"), "{said}");
    assert_eq!(value(&socks.registry, "wrong_passwords_total"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_given_up() {
    let socks = start(&[22]);
    for sent in [b"".as_slice(), b"\x05", b"\x05\x01\x02\x01\x03an"] {
        let mut client = TcpStream::connect(socks.address).await.unwrap();
        client.write_all(sent).await.unwrap();
        let mut said = Vec::new();
        let end = client.read_to_end(&mut said).await;
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}
