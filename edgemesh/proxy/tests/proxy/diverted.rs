//! Diverted packets (`tproxy`) from another host: nothing is translated, and both protocols keep their addresses.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use skerry_common::drain;
use skerry_mesh_proxy::{Interception, Limits, Policy, Proxy, Target, TcpListen, UdpListen};
use skerry_telemetry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::common::{Namespace, NoDial, SOON, Table, ip, service};

const PORT: u16 = 15_002;

/// Makes a socket in a namespace.
fn in_namespace<T: Into<OwnedFd> + Send>(
    namespace: &str,
    make: impl FnOnce() -> std::io::Result<T> + Send,
) -> std::io::Result<T> {
    let run = || {
        setns(std::fs::File::open(format!("/run/netns/{namespace}")).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        make()
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

#[test]
fn diverted_connections_and_datagrams_are_served_as_what_they_were_sent_to() {
    let (node, host) = (Namespace::new(), Namespace::new());
    let (n, h) = (node.0.as_str(), host.0.as_str());
    ip(&["-n", n, "link", "add", "to-host", "type", "veth", "peer", "name", "to-node", "netns", h]);
    for (namespace, device, address) in [(n, "to-host", "192.0.2.1/24"), (h, "to-node", "192.0.2.2/24")] {
        ip(&["-n", namespace, "addr", "add", address, "dev", device]);
        ip(&["-n", namespace, "link", "set", device, "up"]);
    }
    ip(&["-n", h, "route", "add", "10.96.0.0/16", "via", "192.0.2.1"]);
    ip(&["-n", n, "rule", "add", "fwmark", "1", "lookup", "100"]);
    ip(&["-n", n, "route", "add", "local", "default", "dev", "lo", "table", "100"]);
    let rules = format!(
        "table ip t {{
           chain pre {{
             type filter hook prerouting priority mangle;
             ip daddr 10.96.0.0/16 meta l4proto {{ tcp, udp }} tproxy to :{PORT} meta mark set 1
           }}
         }}"
    );
    node.run(&["nft", &rules]);
    let to = service(1);
    let tcp = move || {
        let stream = std::net::TcpStream::connect_timeout(&to, SOON)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    let udp = || {
        let socket = std::net::UdpSocket::bind("192.0.2.2:0")?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    node.block_on(|| async {
        let (_trigger, stop) = drain::channel(SOON);
        let table = Arc::new(Table::default());
        let proxy = Proxy::new(table.clone(), Arc::new(NoDial), Limits::default(), &Registry::new());
        let any = SocketAddr::from(([0, 0, 0, 0], PORT));
        let tcp_listen = TcpListen::bind(any, Interception::Transparent).unwrap();
        let udp_listen = UdpListen::bind(any, Interception::Transparent).unwrap();
        let (served, all) = (proxy.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::join!(served.serve_tcp(tcp_listen, all.clone()), served.serve_udp(udp_listen, all))
        });

        let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
        table.serve(to, Policy::TCP, &[Target::Local(backend.local_addr().unwrap())]);
        let mut client = TcpStream::from_std(in_namespace(h, tcp).unwrap()).unwrap();
        let mut served = timeout(SOON, backend.accept()).await.unwrap().unwrap().0;
        served.write_all(b"here").await.unwrap();
        drop(served);
        let mut said = String::new();
        timeout(SOON, client.read_to_string(&mut said)).await.unwrap().unwrap();
        assert_eq!((said.as_str(), client.peer_addr().unwrap()), ("here", to));
        // The listener itself serves nobody.
        let own = SocketAddr::from(([192, 0, 2, 1], PORT));
        let direct = in_namespace(h, move || {
            let stream = std::net::TcpStream::connect_timeout(&own, SOON)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        // Perhaps before the connection is seen.
        let refused = match direct {
            Ok(stream) => {
                let mut stream = TcpStream::from_std(stream).unwrap();
                timeout(SOON, stream.read(&mut [0])).await.unwrap().unwrap_err()
            }
            Err(error) => error,
        };
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);

        let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        table.serve(to, Policy::UDP, &[Target::Local(backend.local_addr().unwrap())]);
        let client = UdpSocket::from_std(in_namespace(h, udp).unwrap()).unwrap();
        let mut buffer = [0; 2_000];
        for length in [0, 700, 1_400] {
            client.send_to(&vec![5; length], to).await.unwrap();
            let (read, from) = timeout(SOON, backend.recv_from(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(read, length);
            backend.send_to(&buffer[..read], from).await.unwrap();
            let (read, from) = timeout(SOON, client.recv_from(&mut buffer)).await.unwrap().unwrap();
            assert_eq!((read, from), (length, to));
        }
    });
}
