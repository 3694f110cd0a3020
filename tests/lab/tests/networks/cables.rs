//! Cables: rate, delay, loss, reordering, cuts; by counts, with generous bounds where a clock is needed at all.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use skerry_lab::{Cable, Cut, Faults, Host, Lab, LabError, Nat, Network, Passed, Topology};

use crate::probe::{LONG, SHORT, listen, one_processor, receive, seen, tcp, udp, until_last};

const ANY: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, 0);

/// A host in a home whose gateway has this cable, and a server. Everything in it runs on one processor.
fn home(cable: Cable) -> Lab {
    one_processor();
    let topology = Topology::new()
        .host(Host::public("server"))
        .network(Network::behind("home", Nat::PORT_RESTRICTED).cable(cable))
        .host(Host::inside("a", "home"));
    Lab::build(&topology).unwrap()
}

fn faulty(faults: Faults) -> Cable {
    Cable { faults: Some(faults), ..Cable::default() }
}

fn ends(lab: &Lab) -> (UdpSocket, UdpSocket) {
    let server = udp(lab, "server", (lab.address("server").unwrap(), 3478));
    let client = udp(lab, "a", ANY);
    client.connect(server.local_addr().unwrap()).unwrap();
    (client, server)
}

/// Sends numbered datagrams and returns those that come, in their order. It is known that the last one has come when
/// the cable says that it carries no more.
fn numbered(lab: &Lab, count: usize) -> Vec<usize> {
    let (client, server) = ends(lab);
    let before = lab.passed("home").unwrap()[0];
    let mut come = Vec::new();
    let mut next = 0;
    while next < count {
        // Few enough at once for every queue.
        for _ in 0..50.min(count - next) {
            client.send(next.to_string().as_bytes()).unwrap();
            next += 1;
        }
        let due = || {
            let now = lab.passed("home").unwrap()[0];
            let (carried, lost) = (now.carried - before.carried, now.lost - before.lost);
            (usize::try_from(carried + lost).unwrap() == next).then(|| usize::try_from(carried).unwrap())
        };
        let began = Instant::now();
        let carried = loop {
            if let Some(carried) = due() {
                break carried;
            }
            assert!(began.elapsed() < LONG, "{:?}", lab.passed("home").unwrap());
            std::thread::yield_now();
        };
        while come.len() < carried {
            come.push(receive(&server).0.parse().unwrap());
        }
    }
    come
}

#[test]
fn losses_are_those_of_the_seed() {
    let run = |seed| numbered(&home(faulty(Faults::loss(50, seed))), 2000);
    let first = run(7);
    // 100 expected of 2,000, with a deviation of 10.
    assert!((1840..=1960).contains(&first.len()), "{} came", first.len());
    assert!(first.is_sorted());
    assert!(first == run(7), "the same ones are lost again");
    assert!(first != run(8), "others are lost with another seed");
}

#[test]
fn reordering_changes_places_and_loses_nothing() {
    let faults = Faults { reorder_per_mille: 100, seed: 3, ..Faults::default() };
    let lab = home(faulty(faults));
    let mut come = numbered(&lab, 1000);
    let late = lab.passed("home").unwrap()[0].reordered;
    assert!((50..=150).contains(&late), "{late} of 1,000");
    let behind = come.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(behind > 0 && behind <= usize::try_from(late).unwrap(), "{behind} steps back for {late} that were late");
    come.sort_unstable();
    assert!(come.into_iter().eq(0..1000));
}

#[test]
fn a_delay_is_in_both_directions_and_keeps_the_order() {
    let faults = Faults { delay: Duration::from_millis(40), jitter: Duration::from_millis(20), ..Faults::default() };
    let lab = home(faulty(faults));
    assert!(numbered(&lab, 200).into_iter().eq(0..200));
    let (client, server) = ends(&lab);
    let began = Instant::now();
    client.send(b"ping").unwrap();
    let (_, from) = receive(&server);
    server.send_to(b"pong", from).unwrap();
    receive(&client);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(80), "{took:?}");
    assert!(took < LONG);
}

#[test]
fn faults_change_while_the_cable_is_in_use() {
    let lab = home(faulty(Faults::default()));
    assert_eq!(numbered(&lab, 100).len(), 100);
    lab.set_faults("home", Faults::loss(1000, 1)).unwrap();
    assert!(numbered(&lab, 100).is_empty());
    lab.set_faults("home", Faults::default()).unwrap();
    assert_eq!(numbered(&lab, 100).len(), 100);
    let expected = Passed { carried: 200, lost: 100, ..Passed::default() };
    assert_eq!(lab.passed("home").unwrap(), [expected, Passed::default()]);
    assert!(matches!(lab.set_faults("a", Faults::default()), Err(LabError::Faultless(_))));
    assert!(matches!(lab.set_faults("home", Faults::loss(1001, 1)), Err(LabError::Topology(_))));
}

#[test]
fn what_is_under_way_is_bounded() {
    let lab = home(faulty(Faults::delay(Duration::from_secs(2))));
    let (client, _server) = ends(&lab);
    // More than may be under way, in portions that the device's own queue takes.
    let (portions, portion) = (150, 100);
    let began = Instant::now();
    for sent in 1..=portions {
        for _ in 0..portion {
            client.send(b"flood").unwrap();
        }
        let entered = || {
            let [up, _] = lab.passed("home").unwrap();
            up.carried + up.overflowed
        };
        while entered() < sent * portion {
            assert!(began.elapsed() < LONG, "{:?}", lab.passed("home"));
            std::thread::yield_now();
        }
    }
    let [up, _] = lab.passed("home").unwrap();
    if began.elapsed() < Duration::from_secs(2) {
        // None has arrived yet; a few of the kernel's own packets are under way, too.
        assert!((5_000..5_100).contains(&up.overflowed) && up.carried + up.overflowed >= 15_000, "{up:?}");
    }
    assert!(up.carried >= 9_900, "{up:?}");
}

#[test]
fn a_rate_holds_in_both_directions() {
    for cable in [Cable::default(), faulty(Faults::default())] {
        let lab = home(Cable { rate: Some(16_000), ..cable });
        let listener = listen(&lab, "server", (lab.address("server").unwrap(), 443));
        let to = listener.local_addr().unwrap();
        let mut stream = lab.in_host("a", || TcpStream::connect_timeout(&to, LONG)).unwrap().unwrap();
        // 16 Mbit/s are 2 MB a second: half a megabyte there, half a megabyte back.
        let bytes = vec![7; 1 << 19];
        let echo = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut received = vec![0; 1 << 19];
            stream.read_exact(&mut received).unwrap();
            stream.write_all(&received).unwrap();
        });
        let began = Instant::now();
        stream.write_all(&bytes).unwrap();
        stream.read_exact(&mut vec![0; 1 << 19]).unwrap();
        let took = began.elapsed();
        echo.join().unwrap();
        assert!(took > Duration::from_millis(400), "as if there were no limit: {took:?}");
        assert!(took < LONG, "{took:?}");
    }
}

#[test]
fn a_cut_is_seen_or_silent_and_ends() {
    for cable in [Cable::default(), faulty(Faults::default())] {
        let lab = home(cable);
        let server = udp(&lab, "server", (lab.address("server").unwrap(), 3478));
        let listener = listen(&lab, "server", (lab.address("server").unwrap(), 443));
        let to = listener.local_addr().unwrap();
        let client = udp(&lab, "a", ANY);
        let mapped = seen(&client, &server);
        for how in [Cut::Silent, Cut::Unplugged] {
            lab.cut("home", how).unwrap();
            assert_eq!(plugged(&lab), how == Cut::Silent, "{how:?}");
            tcp(&lab, "a", to, false);
            client.set_read_timeout(Some(SHORT)).unwrap();
            server.send_to(b"in the dark", mapped).unwrap_or_default();
            assert!(client.recv_from(&mut [0; 64]).is_err(), "{how:?}");
            lab.restore("home").unwrap();
            assert!(plugged(&lab));
            client.set_read_timeout(Some(LONG)).unwrap();
            tcp(&lab, "a", to, true);
            // The NAT has not noticed.
            assert_eq!(seen(&client, &server), mapped, "{how:?}");
        }
    }
}

/// Whether the gateway sees a signal on its cable.
fn plugged(lab: &Lab) -> bool {
    let mut show = std::process::Command::new("ip");
    show.args(["-brief", "link", "show", "dev", "wan"]);
    let output = lab.run_in("home", show).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("wan"), "{text}");
    !text.contains("NO-CARRIER")
}

#[test]
fn a_host_gets_other_addresses_and_goes_on() {
    let mut lab = home(Cable::default());
    let server = udp(&lab, "server", (lab.address("server").unwrap(), 3478));
    let before = lab.addresses("a").unwrap();
    let old = udp(&lab, "a", (before[0], 0));
    seen(&old, &server);
    let after = lab.renumber("a").unwrap();
    assert_ne!(before, after);
    assert!(old.send_to(b"nobody", server.local_addr().unwrap()).is_err(), "its address is gone");
    seen(&udp(&lab, "a", (after[0], 0)), &server);

    let relays = lab.addresses("server").unwrap();
    let changed = lab.renumber("server").unwrap();
    assert!(relays.iter().all(|address| !changed.contains(address)));
    for address in changed {
        let server = udp(&lab, "server", (address, 3478));
        if address.is_ipv4() {
            seen(&udp(&lab, "a", ANY), &server);
            server.send_to(b"last", server.local_addr().unwrap()).unwrap();
            assert!(until_last(&server).is_empty());
        }
    }
}
