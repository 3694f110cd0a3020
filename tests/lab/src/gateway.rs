//! Rules of gateways and of the internet, as text for `nft -f`. No IO.
//!
//! All rules of a laboratory are in the namespaces of its gateways and of its internet. Those of hosts have none,
//! so that a program under test finds its host as it likes. Every text can be loaded again and replaces its tables;
//! a NAT forgets its mappings by that, as routers do with a new address.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::Egress;
use crate::topology::Uplink;

/// The firewall and the NAT of a gateway; `outside` is its IPv4 address at `wan`, if it has one.
pub(crate) fn gateway(uplink: &Uplink, outside: Option<Ipv4Addr>) -> String {
    let out = match uplink.egress {
        Egress::Any => "accept",
        Egress::NoUdp => "meta l4proto != udp accept",
        Egress::Https => "tcp dport 443 accept",
    };
    // Strangers are dropped without a word before their connection is remembered: one that stays would take the
    // port from the flow that opens the way for it. The same holds for the outside address without hair-pinning.
    let firewall = format!(
        r#"table inet lab {{}}
delete table inet lab
table inet lab {{
  chain input {{ type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state established,related accept
    meta l4proto ipv6-icmp accept
    iifname "lan" meta l4proto icmp accept
  }}
  chain forward {{ type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct status dnat accept
    iifname "lan" oifname "wan" {out}
  }}
}}
table ip lab_nat {{}}
delete table ip lab_nat
"#
    );
    firewall + &outside.map(|outside| uplink.nat.table(outside)).unwrap_or_default()
}

/// The internet forwards between all, and nothing private.
pub(crate) fn internet() -> String {
    let private = "{ 10.0.0.0/8, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16 }";
    format!(
        "table inet lab {{\n  chain forward {{ type filter hook forward priority filter; policy accept;\n    \
         ip saddr {private} drop\n    ip daddr {private} drop\n    ip6 saddr fc00::/7 drop\n    ip6 daddr fc00::/7 drop\n  \
         }}\n}}\n"
    )
}

/// No UDP multicast enters the bridge from these interfaces; neighbour discovery is not UDP.
pub(crate) fn no_multicast(interfaces: &[String]) -> String {
    let mut text = "table netdev lab_multicast {\n".to_owned();
    for interface in interfaces {
        let _ = write!(
            text,
            "  chain {interface} {{ type filter hook ingress device {interface} priority 0; policy accept;\n    \
             ip daddr 224.0.0.0/4 meta l4proto udp drop\n    ip6 daddr ff00::/8 meta l4proto udp drop\n  }}\n"
        );
    }
    text + "}\n"
}

/// Drops everything at an interface, in both directions, so that neither side notices.
pub(crate) fn silence(interface: &str) -> String {
    format!(
        "table netdev lab_cut_{interface} {{\n  \
         chain in {{ type filter hook ingress device {interface} priority -500; policy drop; }}\n  \
         chain out {{ type filter hook egress device {interface} priority -500; policy drop; }}\n}}\n"
    )
}

/// Ends that.
pub(crate) fn speech(interface: &str) -> String {
    format!("table netdev lab_cut_{interface} {{}}\ndelete table netdev lab_cut_{interface}\n")
}
