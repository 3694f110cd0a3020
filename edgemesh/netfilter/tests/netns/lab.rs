//! A node with pods and a LAN, of network namespaces that are gone when the lab is dropped.
//!
//! ```text
//!   pod 1 … pod 3 ── cni0 [ node ] lan0 ── [ lan ]
//!   10.244.1.11…13   10.244.1.1  192.168.77.1   192.168.77.2
//! ```
//! The thread that makes a lab is in the node from then on, and so are the programs that it starts.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// Nobody here needs longer; who waits for nothing is answered by this.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a client waits for an answer that shall not come.
const SILENCE: Duration = Duration::from_millis(400);

/// How many pods there are.
pub(crate) const PODS: usize = 3;

static LABS: AtomicU32 = AtomicU32::new(0);

/// The namespaces.
pub(crate) struct Lab {
    names: Vec<String>,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct Namespace(String);

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// Runs a program in the namespace of this thread, and gives what it printed.
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// All rules of this namespace, as the tools say them.
pub(crate) fn rules() -> String {
    let saved: String = ["iptables-save", "ip6tables-save"].map(|save| run(save, "-M modprobe")).concat();
    // These lines say when.
    let saved = saved.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    format!("{}\n{saved}", run("nft", "list ruleset"))
}

/// Gives rules to nft.
pub(crate) fn nft(text: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
}

impl Lab {
    /// Builds it and enters the node.
    pub(crate) fn new() -> Self {
        let tag = format!("sknf{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let mut lab = Self { names: Vec::new() };
        for at in 0..PODS + 2 {
            let name = format!("{tag}-{at}");
            run("ip", &format!("netns add {name}"));
            lab.names.push(name);
        }
        let root = File::open("/proc/thread-self/ns/net").unwrap();
        for at in 1..=PODS {
            let (node, pod) = (&lab.names[0], &lab.names[at]);
            run("ip", &format!("link add v{at} netns {node} type veth peer name eth0 netns {pod}"));
        }
        let (node, lan) = (&lab.names[0], &lab.names[PODS + 1]);
        run("ip", &format!("link add lan0 netns {node} type veth peer name eth0 netns {lan}"));
        drop(root);
        lab.node().enter();
        run("ip", "link set lo up");
        run("ip", "link add cni0 type bridge");
        for setting in [
            "net/ipv4/ip_forward=1",
            "net/ipv6/conf/all/forwarding=1",
            "net/ipv6/conf/all/accept_dad=0",
            "net/ipv6/conf/cni0/accept_dad=0",
            "net/ipv6/conf/lan0/accept_dad=0",
        ] {
            let (name, value) = setting.split_once('=').unwrap();
            std::fs::write(format!("/proc/sys/{name}"), value).unwrap();
        }
        for command in [
            "addr add 10.244.1.1/24 dev cni0",
            "addr add fd44::1/64 dev cni0 nodad",
            "addr add 192.168.77.1/24 dev lan0",
            "addr add fd77::1/64 dev lan0 nodad",
            "link set cni0 up",
            "link set lan0 up",
        ] {
            run("ip", command);
        }
        for at in 1..=PODS {
            run("ip", &format!("link set v{at} master cni0 up"));
            // As network plugins do for pods that are backends of themselves.
            run("ip", &format!("link set v{at} type bridge_slave hairpin on"));
            lab.pod(at).run(move || host(&pod_address(at), "10.244.1.1", &pod_address6(at), "fd44::1"));
        }
        lab.lan().run(|| host("192.168.77.2", "192.168.77.1", "fd77::2", "fd77::1"));
        // Where a node's own traffic to addresses of Services would go without rules.
        run("ip", "route add default via 192.168.77.2");
        run("ip", "-6 route add default via fd77::2");
        lab
    }

    /// The node.
    pub(crate) fn node(&self) -> Namespace {
        Namespace(self.names[0].clone())
    }

    /// One of the pods, from 1.
    pub(crate) fn pod(&self, at: usize) -> Namespace {
        assert!((1..=PODS).contains(&at));
        Namespace(self.names[at].clone())
    }

    /// A machine of the LAN.
    pub(crate) fn lan(&self) -> Namespace {
        Namespace(self.names[PODS + 1].clone())
    }
}

fn host(address: &str, via: &str, address6: &str, via6: &str) {
    std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0").unwrap();
    for command in [
        "link set lo up".to_owned(),
        format!("addr add {address}/24 dev eth0"),
        format!("addr add {address6}/64 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
        format!("route add default via {via}"),
        format!("-6 route add default via {via6}"),
    ] {
        run("ip", &command);
    }
}

/// The address of a pod.
pub(crate) fn pod_address(at: usize) -> String {
    format!("10.244.1.{}", 10 + at)
}

/// Its other one.
pub(crate) fn pod_address6(at: usize) -> String {
    format!("fd44::{}", 10 + at)
}

impl Namespace {
    fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Runs something there.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = self.clone();
        thread::spawn(move || {
            namespace.enter();
            work()
        })
        .join()
        .unwrap()
    }

    /// A server that says `name` and who the client is, to everybody who comes by TCP or UDP.
    pub(crate) fn serve(&self, name: &str, port: u16) {
        let (tcp, udp) = self.run(move || {
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
        });
        let say = name.to_owned();
        thread::spawn(move || {
            for mut stream in tcp.incoming().map_while(Result::ok) {
                let from = stream.peer_addr().unwrap().ip().to_canonical();
                let _ = stream.write_all(format!("{say} {from}").as_bytes());
            }
        });
        let say = name.to_owned();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{say} {}", from.ip().to_canonical()).as_bytes(), from);
            }
        });
    }

    /// Asks a server by TCP.
    pub(crate) fn ask(&self, to: &str) -> std::io::Result<String> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&to, DEADLINE)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    /// Only the name of who answers.
    pub(crate) fn who(&self, to: &str) -> String {
        let answer = self.ask(to).unwrap_or_else(|error| panic!("{to}: {error}"));
        answer.split(' ').next().unwrap().to_owned()
    }

    /// Whether nobody says anything at all: neither an answer nor a refusal.
    pub(crate) fn is_silent(&self, to: &str) -> bool {
        let to: SocketAddr = to.parse().unwrap();
        let result = self.run(move || TcpStream::connect_timeout(&to, SILENCE));
        matches!(result, Err(error) if error.kind() == std::io::ErrorKind::TimedOut)
    }

    /// A socket of UDP.
    pub(crate) fn udp(&self, v6: bool) -> UdpSocket {
        let any = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let socket = self.run(move || UdpSocket::bind((any, 0)).unwrap());
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }
}

/// Sends a datagram and gives the answer.
pub(crate) fn exchange(socket: &UdpSocket, to: &str) -> std::io::Result<String> {
    let mut buffer = [0; 64];
    socket.connect(to)?;
    socket.send(b"?")?;
    let size = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..size]).into_owned())
}
