//! Beside others who handle Services: they are found, and their Services go on.

use skerry_mesh_netfilter::{KubeProxy, Neighbours, Netfilter, Protocol, look};

use crate::lab::{Lab, nft, pod_address, run};
use crate::services::{config, frontend, service, state};

#[tokio::test]
async fn who_is_here_is_found_by_looking() {
    let _lab = Lab::new();
    let find = async || Neighbours::find(&look().await.unwrap());
    assert_eq!(find().await, Neighbours::default());
    // Our own table is nobody else's.
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    netfilter.apply(state([])).await.unwrap();
    assert_eq!(find().await, Neighbours::default());

    run("iptables", "-t nat -N KUBE-SERVICES");
    assert_eq!(find().await.kube_proxy, Some(KubeProxy::Iptables));
    run("ip", "link add kube-ipvs0 type bridge");
    assert_eq!(find().await.kube_proxy, Some(KubeProxy::Ipvs));
    nft("add table ip kube-proxy");
    assert_eq!(find().await.kube_proxy, Some(KubeProxy::Nftables));
    run("ip", "link add cilium_host type bridge");
    run("ip", "link add flannel.1 type bridge");
    run("ip", "link add cali12ab type bridge");
    let all = Neighbours { kube_proxy: Some(KubeProxy::Nftables), cilium: true, calico: true, flannel: true };
    assert_eq!(find().await, all);
}

#[tokio::test]
async fn services_of_kube_proxy_go_on_and_ours_do_not_depend_on_who_came_first() {
    let lab = Lab::new();
    lab.pod(1).serve("pod1", 8080);
    lab.pod(2).serve("pod2", 8080);
    let kube_proxy = |theirs: &str| {
        run("iptables", "-t nat -N KUBE-SERVICES");
        let to_pod = format!("-p tcp --dport 80 -j DNAT --to-destination {}:8080", pod_address(2));
        run("iptables", &format!("-t nat -A KUBE-SERVICES -d {theirs} {to_pod}"));
        // One that it has no endpoints for, and we have: it refuses, as kube-proxy does.
        run("iptables", "-t filter -N KUBE-REFUSES");
        run("iptables", "-t filter -A KUBE-REFUSES -d 10.96.0.1 -p tcp --dport 80 -j REJECT");
        for chain in ["PREROUTING", "OUTPUT"] {
            run("iptables", &format!("-t nat -I {chain} -j KUBE-SERVICES"));
        }
        for chain in ["FORWARD", "OUTPUT"] {
            run("iptables", &format!("-t filter -I {chain} -j KUBE-REFUSES"));
        }
    };
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    let to_pod = service(&[&format!("{}:8080", pod_address(1))]);
    netfilter.apply(state([(frontend("10.96.0.1", Protocol::Tcp, 80), to_pod)])).await.unwrap();
    // It comes later, and puts itself first as it does.
    kube_proxy("10.96.0.2");
    for client in [lab.pod(3), lab.node(), lab.lan()] {
        assert_eq!(client.who("10.96.0.1:80"), "pod1");
    }
    for client in [lab.pod(3), lab.node()] {
        assert_eq!(client.who("10.96.0.2:80"), "pod2");
    }
    let theirs = run("iptables-save", "-t nat");
    netfilter.remove().await.unwrap();
    assert_eq!(run("iptables-save", "-t nat").lines().count(), theirs.lines().count());
    assert_eq!(lab.pod(3).who("10.96.0.2:80"), "pod2");
}
