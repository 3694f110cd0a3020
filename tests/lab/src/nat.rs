//! NATs by the words of RFC 4787, and their rules for nftables. No IO.
//!
//! Linux translates each flow by itself: it keeps the port of the inside where it can, and lets in only what
//! belongs to a flow. That is an address-and-port-dependent filter, and a mapping that depends on chance. The rules
//! here remember each mapping that the kernel made (`forward`), so that a second flow from the same port gets the
//! same one; who owns an outside port (`mapped`), so that strangers and neighbours reach it; and who was spoken to
//! (`allowed`), so that only these do.
//!
//! Mappings live for five minutes without a packet from the inside; tests are shorter.

use std::net::Ipv4Addr;

/// What has ports.
const TRANSPORT: &str = "meta l4proto { tcp, udp }";
/// A packet between neighbours, by an outside address.
const HAIRPIN: &str = r#"iifname "lan" oifname "lan" ct status dnat"#;

/// RFC 4787, sections 4.1 and 5: on what a mapping or a filter depends, besides the port of the inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behaviour {
    /// On nothing else.
    EndpointIndependent,
    /// On the address of the other side.
    AddressDependent,
    /// On the address and the port of the other side.
    AddressAndPortDependent,
}

/// Which outside port a new mapping gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// That of the inside, if nobody has it.
    Preserved,
    /// A random one.
    Random,
}

/// A NAT for IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nat {
    /// When flows from one port of the inside share a port of the outside.
    pub mapping: Behaviour,
    /// Who may send to such a port.
    pub filtering: Behaviour,
    /// Which port it is. Mappings that depend on the other side are always random.
    pub ports: Ports,
    /// Whether members of the inside reach each other by their outside addresses.
    pub hairpin: bool,
}

impl Nat {
    /// Everybody may send to a mapped port.
    pub const FULL_CONE: Self = Self {
        mapping: Behaviour::EndpointIndependent,
        filtering: Behaviour::EndpointIndependent,
        ports: Ports::Preserved,
        hairpin: false,
    };
    /// Addresses that were sent to may send.
    pub const RESTRICTED: Self = Self { filtering: Behaviour::AddressDependent, ..Self::FULL_CONE };
    /// Addresses and ports that were sent to may send.
    pub const PORT_RESTRICTED: Self = Self { filtering: Behaviour::AddressAndPortDependent, ..Self::FULL_CONE };
    /// Each destination sees another port, and alone may answer.
    pub const SYMMETRIC: Self =
        Self { mapping: Behaviour::AddressAndPortDependent, ports: Ports::Random, ..Self::PORT_RESTRICTED };

    /// The same with hair-pinning.
    #[must_use]
    pub const fn hairpin(self) -> Self {
        Self { hairpin: true, ..self }
    }

    /// The same with random ports.
    #[must_use]
    pub const fn random_ports(self) -> Self {
        Self { ports: Ports::Random, ..self }
    }

    /// The table of a gateway between `wan`, where it has the address `outside`, and `lan`.
    pub(crate) fn table(&self, outside: Ipv4Addr) -> String {
        let set = |name: &str, kind: &str, types: &str| {
            format!("  {kind} {name} {{ typeof {types}; flags dynamic,timeout; timeout 5m; size 65536; }}\n")
        };
        let chain = |name: &str, hook: &str, rules: Vec<String>| {
            format!("  chain {name} {{ type {hook}; policy accept;\n    {}\n  }}\n", rules.join("\n    "))
        };
        let (remote, sender, _) = self.keys();
        [
            "table ip lab_nat {\n".to_owned(),
            set("forward", "map", &format!("meta l4proto . ip saddr . th sport{remote} : th sport")),
            set("mapped", "map", "meta l4proto . th dport : ip saddr . th sport"),
            set("owned", "set", "meta l4proto . th sport"),
            set("allowed", "set", &format!("meta l4proto . th dport{sender}")),
            chain("prerouting", "nat hook prerouting priority dstnat", self.inwards(outside)),
            chain("postrouting", "nat hook postrouting priority srcnat", self.outwards(outside)),
            chain("learn", "filter hook postrouting priority srcnat + 10", self.learn()),
            chain("hairpin", "filter hook postrouting priority srcnat + 20", self.hairpins()),
            "}\n".to_owned(),
        ]
        .concat()
    }

    /// What keys have besides the port: the other side that a mapping depends on, the sender that a filter looks at,
    /// and the other side that a packet to it allows. The last is the destination as the inside knows it, because
    /// that of a hair-pin is translated, too.
    fn keys(&self) -> (&'static str, &'static str, &'static str) {
        const ADDRESS: &str = " . ct original ip daddr";
        const BOTH: &str = " . ct original ip daddr . ct original proto-dst";
        let (sender, allows) = match self.filtering {
            Behaviour::EndpointIndependent => ("", ""),
            Behaviour::AddressDependent => (" . ip saddr", ADDRESS),
            Behaviour::AddressAndPortDependent => (" . ip saddr . th sport", BOTH),
        };
        // A mapping that depends on all is a flow's own, which the kernel remembers.
        (if self.mapping == Behaviour::AddressDependent { ADDRESS } else { "" }, sender, allows)
    }

    /// Which packets have their source translated, and by which statement.
    fn flows(&self, outside: Ipv4Addr) -> Vec<(&'static str, String)> {
        let out = (r#"oifname "wan""#, "masquerade to ".to_owned());
        let hairpin = (HAIRPIN, format!("snat ip to {outside}"));
        if self.hairpin { vec![out, hairpin] } else { vec![out] }
    }

    fn inwards(&self, outside: Ipv4Addr) -> Vec<String> {
        let (_, sender, _) = self.keys();
        let to = "dnat ip to meta l4proto . th dport map @mapped";
        let stranger =
            format!(r#"iifname "wan" fib daddr type local {TRANSPORT} meta l4proto . th dport{sender} @allowed {to}"#);
        let neighbour = format!(r#"iifname "lan" ip daddr {outside} {TRANSPORT} {to}"#);
        if self.hairpin { vec![stranger, neighbour] } else { vec![stranger] }
    }

    fn outwards(&self, outside: Ipv4Addr) -> Vec<String> {
        let (remote, ..) = self.keys();
        let mut rules = Vec::new();
        for (flow, translate) in self.flows(outside) {
            if self.mapping != Behaviour::AddressAndPortDependent {
                let key = format!("meta l4proto . ip saddr . th sport{remote}");
                rules.push(format!("{flow} {TRANSPORT} {translate}:{key} map @forward"));
            }
            let random = format!("{translate}:1024-65535 fully-random");
            if self.ports == Ports::Preserved && self.mapping == Behaviour::EndpointIndependent {
                // The kernel would share a port between neighbours whose destinations differ.
                rules.push(format!("{flow} {TRANSPORT} meta l4proto . th sport @owned {random}"));
                rules.push(format!("{flow} {TRANSPORT} {translate}:1-65535"));
            } else {
                rules.push(format!("{flow} {TRANSPORT} {random}"));
            }
        }
        rules.push(r#"oifname "wan" masquerade"#.into());
        rules
    }

    /// After the translation: what the kernel chose is in the packet, what it was in the connection.
    fn learn(&self) -> Vec<String> {
        let (remote, _, allows) = self.keys();
        let from = "ct original ip saddr . ct original proto-src";
        let mut rules = Vec::new();
        for (flow, _) in self.flows(Ipv4Addr::UNSPECIFIED) {
            for protocol in ["udp", "tcp"] {
                let sent = format!("{flow} ct direction original meta l4proto {protocol}");
                if self.mapping != Behaviour::AddressAndPortDependent {
                    let key = format!("meta l4proto . {from}{remote}");
                    rules.push(format!("{sent} update @forward {{ {key} : {protocol} sport }}"));
                }
                rules.push(format!(
                    "{sent} update @mapped {{ meta l4proto . {protocol} sport : {from} }} \
                     update @owned {{ meta l4proto . {protocol} sport }} \
                     update @allowed {{ meta l4proto . {protocol} sport{allows} }}"
                ));
            }
        }
        rules
    }

    /// Behind `learn`: a packet that is not let in has opened the way for its answer all the same.
    fn hairpins(&self) -> Vec<String> {
        let (_, sender, _) = self.keys();
        vec![format!(
            "{HAIRPIN} ct state new ct direction original {TRANSPORT} \
             meta l4proto . ct original proto-dst{sender} != @allowed drop"
        )]
    }
}
