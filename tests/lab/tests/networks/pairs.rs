//! Every pair of sites: whether datagrams can be punched through is what [`Site::punches`] says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use skerry_lab::{Host, Lab, Site, Topology};

use crate::probe::{LONG, one_processor, receive, seen, udp};

/// A build takes a fraction of this here; the bound is for a machine that does other things as well.
const BUILD: Duration = Duration::from_secs(20);

/// What is at a side of a pair.
struct Side<'a> {
    socket: UdpSocket,
    mapped: SocketAddr,
    server: &'a UdpSocket,
}

impl Side<'_> {
    /// Sends to where the other side was last seen, and to where the third party saw it.
    fn send(&self, to: &[SocketAddr]) {
        for to in to {
            self.socket.send_to(b"punch", to).unwrap();
        }
    }

    /// Sources of what has arrived.
    fn arrived(&self) -> Vec<SocketAddr> {
        self.server.send_to(b"last", self.mapped).unwrap();
        let received = std::iter::from_fn(|| Some(receive(&self.socket)));
        received.take_while(|(text, _)| text != "last").map(|(_, from)| from).collect()
    }
}

#[test]
fn all_pairs_of_sites_punch_as_theory_says() {
    one_processor();
    let began = Instant::now();
    let both = Site::ALL.iter().flat_map(|site| [(*site, format!("{site}-l")), (*site, format!("{site}-r"))]);
    let topology = both.fold(Topology::new().host(Host::public("server")), |t, (site, name)| site.add(t, &name));
    let lab = Lab::build(&topology).unwrap();
    assert!(began.elapsed() < BUILD, "{:?} for {} nodes", began.elapsed(), lab.nodes().count());
    println!("{} nodes in {:?}", lab.nodes().count(), began.elapsed());

    let [v4, v6] = [false, true].map(|v6| {
        let address = lab.addresses("server").unwrap().into_iter().find(|a| a.is_ipv6() == v6).unwrap();
        udp(&lab, "server", (address, 3478))
    });
    let families = |host: &str| {
        let addresses = lab.addresses(host).unwrap();
        [addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6)]
    };
    let mut wrong = Vec::new();
    for (index, left) in Site::ALL.into_iter().enumerate() {
        for right in Site::ALL.into_iter().skip(index) {
            let names = [format!("{left}-l"), format!("{right}-r")];
            let [ours, theirs] = names.each_ref().map(|name| families(name));
            let server = match (ours[1] && theirs[1], ours[0] && theirs[0]) {
                (true, _) => &v6,
                (false, true) => &v4,
                (false, false) => {
                    assert!(!left.punches(right), "{left} and {right} have no family in common");
                    continue;
                }
            };
            let any = if server.local_addr().unwrap().is_ipv6() {
                IpAddr::from(Ipv6Addr::UNSPECIFIED)
            } else {
                IpAddr::from(Ipv4Addr::UNSPECIFIED)
            };
            if [left, right].iter().any(|site| matches!(site, Site::NoUdp | Site::Https)) {
                assert!(!left.punches(right), "{left} and {right} have no UDP");
                continue;
            }
            let [one, two] = names.each_ref().map(|name| {
                let socket = udp(&lab, name, (any, 0));
                socket.set_read_timeout(Some(LONG)).unwrap();
                let mapped = seen(&socket, server);
                Side { socket, mapped, server }
            });
            one.send(&[two.mapped]);
            two.send(&[one.mapped]);
            one.send(&[two.mapped]);
            // Whoever was heard is answered where it was heard from.
            let heard = [one.arrived(), two.arrived()];
            one.send(&heard[0]);
            two.send(&heard[1]);
            let again = [one.arrived(), two.arrived()];
            let through = [0, 1].iter().all(|side| !heard[*side].is_empty() || !again[*side].is_empty());
            if through != left.punches(right) {
                wrong.push(format!("{left} and {right}: {through}, {heard:?} {again:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
