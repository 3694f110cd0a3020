//! The rules: chains and declarations of maps, which depend on the configuration and on the branches in use only.
//!
//! ```text
//! prerouting ─┬▶ vmap @outside4 ─┐            ┌▶ @affinity4 (sticky)     known client: its backend
//! output ─────┴▶ vmap @services4 ┴▶ vip-…-N ──┼▶ slot 0..N of @slots4    dnat to the backend
//!                                             └▶ (slot not in the map)   redirect to the proxy
//! postrouting, input ─▶ learn (sticky) ─▶ source: masquerade (postrouting only)
//! refuse-prerouting, refuse-output ─▶ vmap @refused4 ─▶ reject
//! ```
//!
//! NodePorts do the same with `node-…` chains and maps without the address. All but `refuse-…` are of type nat, which
//! the kernel asks for the first packet of a connection only; conntrack does the rest, without us and after us.
//!
//! Every rule has a comment: a hash of its text and of all declarations. So what the kernel lists can be compared with
//! what should be there, whatever form this version of nft lists rules in.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ipnet::IpNet;
use skerry_common::fnv1a;

use crate::config::Config;
use crate::state::{Family, Protocol, places};

/// Before kube-proxy's chains and other people's at -100, so that the order of starting does not matter; after
/// conntrack at -200 and the mangle tables at -150.
const NAT_PRIORITY: i32 = -120;
/// Before our own and before kube-proxy's nat, which would change the address that we look for.
const REFUSE_PRIORITY: i32 = -125;
/// Before those who masquerade at 100: the kernel takes the first answer, and gives us a look at all others.
const SOURCE_PRIORITY: i32 = 95;

/// Slots of traffic from outside, where it has its own, begin here: above every slot of the other kind.
pub(crate) const LOCAL_SLOTS: usize = 65_536;

/// Learned clients; they leave by their timeout. When it is full a client is still sent to the same backend, by a hash
/// of its address, while that backend is there and no new one gets the client's share.
const MAX_LEARNED: u32 = 65_536;

/// The family whose clients are learned. The statement for two IPv6 addresses needs more registers than nft 1.0.6 can
/// count (it aborts); IPv6 clients have the hash, which moves few of them when the backends change.
pub(crate) const LEARNED: Family = Family::V4;

/// A chain that exists because a state needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Branch {
    /// Picks one of so many slots.
    Pick(Picker),
    /// Remembers for so many seconds who got which backend.
    Learn(u64),
}

/// How to pick a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Picker {
    /// Of a NodePort, not of an address.
    pub(crate) node: bool,
    /// Of the slots for traffic from outside.
    pub(crate) local: bool,
    /// By what is known of the client.
    pub(crate) sticky: bool,
    /// Of how many, at least 1.
    pub(crate) slots: usize,
}

impl Branch {
    /// The name of its chain.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Learn(seconds) => format!("learn-{seconds}"),
            Self::Pick(pick) => {
                let at = if pick.node { "node" } else { "vip" };
                let from = if pick.local { "local" } else { "all" };
                let how = if pick.sticky { "sticky" } else { "any" };
                format!("{at}-{from}-{how}-{}", pick.slots)
            }
        }
    }

    /// The other way round.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut words = name.split('-');
        let mut next = || words.next();
        let branch = match next()? {
            "learn" => Self::Learn(next()?.parse().ok()?),
            at @ ("vip" | "node") => Self::Pick(Picker {
                node: at == "node",
                local: next()? == "local",
                sticky: next()? == "sticky",
                slots: next()?.parse().ok()?,
            }),
            _ => return None,
        };
        (branch.name() == name).then_some(branch)
    }

    fn rules(self, config: &Config) -> Vec<String> {
        match self {
            Self::Learn(seconds) => learn(seconds),
            Self::Pick(pick) => picks(pick, config),
        }
    }
}

/// Slots for which chains are there before anybody needs them: as many as most Services have endpoints.
const PREPARED: usize = 16;
/// The timeout of session affinity where a Service names none.
const DEFAULT_AFFINITY: u64 = 10_800;

/// Branches that every table has. nft 1.0.6 cannot add a rule that looks into a map of the kernel whose type it was told
/// by `typeof` ("conflicting protocols"), so a state that needs another branch gets a new table, and few do.
pub(crate) fn prepared() -> BTreeSet<Branch> {
    let mut branches = BTreeSet::from([Branch::Learn(DEFAULT_AFFINITY)]);
    for (node, local) in [(false, false), (false, true), (true, false), (true, true)] {
        let picks = (1..=PREPARED).map(|slots| Picker { node, local, sticky: false, slots });
        branches.extend(picks.map(Branch::Pick));
        branches.insert(Branch::Pick(Picker { node, local, sticky: true, slots: places(1) }));
    }
    branches
}

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Its name.
    pub(crate) name: String,
    /// Type, hook and priority of a base chain.
    pub(crate) base: Option<(&'static str, &'static str, i32)>,
    /// Its rules, without their comments.
    pub(crate) rules: Vec<String>,
}

/// The whole structure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// `map` or `set`, its name, what is between the braces.
    pub(crate) sets: Vec<(&'static str, String, String)>,
    /// In an order in which every chain comes after those that it names.
    pub(crate) chains: Vec<Chain>,
    hash: String,
}

impl Layout {
    /// The structure for a configuration and the branches that are in use.
    pub(crate) fn new(config: &Config, branches: &BTreeSet<Branch>) -> Self {
        let sets = declarations();
        let mut chains: Vec<Chain> =
            branches.iter().map(|branch| Chain::plain(&branch.name(), branch.rules(config))).collect();
        chains.extend(fixed(config));
        let parts: Vec<&str> = sets.iter().flat_map(|(_, name, text)| [name.as_str(), text.as_str()]).collect();
        let hash = format!("{:x}", fnv1a(&parts));
        Self { sets, chains, hash }
    }

    /// The comment by which a rule is known.
    pub(crate) fn comment(&self, rule: &str) -> String {
        format!("{:016x}", fnv1a(&[&self.hash, rule]))
    }
}

impl Chain {
    fn plain(name: &str, rules: Vec<String>) -> Self {
        Self { name: name.to_owned(), base: None, rules }
    }

    fn base(name: &str, base: (&'static str, &'static str, i32), rules: Vec<String>) -> Self {
        Self { name: name.to_owned(), base: Some(base), rules }
    }
}

/// The words that differ between the families.
struct Words {
    ip: &'static str,
    digit: char,
    address: &'static str,
    nfproto: &'static str,
    loopback: &'static str,
}

fn words(family: Family) -> Words {
    match family {
        Family::V4 => Words { ip: "ip", digit: '4', address: "ipv4_addr", nfproto: "ipv4", loopback: "127.0.0.0/8" },
        Family::V6 => Words { ip: "ip6", digit: '6', address: "ipv6_addr", nfproto: "ipv6", loopback: "::1" },
    }
}

fn declarations() -> Vec<(&'static str, String, String)> {
    let mut sets = Vec::new();
    for family in Family::ALL {
        let Words { ip, digit, address, .. } = words(family);
        let vip = format!("{address} . inet_proto . inet_service");
        let node = "inet_proto . inet_service";
        for (name, key) in [("services", vip.as_str()), ("node", node)] {
            sets.push(("map", format!("{name}{digit}"), format!("type {key} : verdict;")));
        }
        for (name, key) in [("outside", vip.as_str()), ("node_outside", node)] {
            sets.push(("map", format!("{name}{digit}"), format!("type {key} : verdict;")));
        }
        for (name, key) in [("refused", vip.as_str()), ("node_refused", node)] {
            sets.push(("map", format!("{name}{digit}"), format!("type {key} : verdict;")));
        }
        // A slot is a number, which only `typeof` can name.
        let slot = "meta l4proto . th dport . numgen random mod 2";
        let backend = format!("{ip} daddr . th dport");
        sets.push(("map", format!("slots{digit}"), format!("typeof {ip} daddr . {slot} : {backend};")));
        sets.push(("map", format!("node_slots{digit}"), format!("typeof {slot} : {backend};")));
        if family == LEARNED {
            for (name, key) in [("learn", vip.as_str()), ("node_learn", node)] {
                sets.push(("map", format!("{name}{digit}"), format!("type {key} : verdict;")));
            }
            let learned = format!("type {address} . {vip} : {address} . inet_service;");
            let flags = format!("flags dynamic,timeout; size {MAX_LEARNED};");
            sets.push(("map", format!("affinity{digit}"), format!("{learned} {flags}")));
        }
        sets.push(("set", format!("hairpin{digit}"), format!("type {address} . {address};")));
        sets.push(("set", format!("masquerade{digit}"), format!("type {vip};")));
        sets.push(("set", format!("node_masquerade{digit}"), format!("type {node} . {address} . inet_service;")));
    }
    sets
}

fn picks(pick: Picker, config: &Config) -> Vec<String> {
    let mut rules = Vec::new();
    let offset = if pick.local { format!(" offset {LOCAL_SLOTS}") } else { String::new() };
    let Picker { slots, .. } = pick;
    for family in Family::ALL {
        let Words { ip, digit, nfproto, .. } = words(family);
        if pick.sticky && family == LEARNED {
            rules.push(format!(
                "meta nfproto {nfproto} dnat {ip} to {ip} saddr . {ip} daddr . meta l4proto . th dport map @affinity{digit}"
            ));
        }
        let how = if pick.sticky {
            format!("jhash {ip} saddr mod {slots} seed 0x5ce22e{offset}")
        } else {
            format!("numgen random mod {slots}{offset}")
        };
        let (address, map) = if pick.node {
            (String::new(), format!("node_slots{digit}"))
        } else {
            (format!("{ip} daddr . "), format!("slots{digit}"))
        };
        rules.push(format!("meta nfproto {nfproto} dnat {ip} to {address}meta l4proto . th dport . {how} map @{map}"));
    }
    // A slot that is in no map is the proxy's.
    if let Some(proxy) = config.proxy {
        rules.push(format!("meta l4proto tcp redirect to :{}", proxy.tcp));
        rules.push(format!("meta l4proto udp redirect to :{}", proxy.udp));
    }
    rules
}

fn learn(seconds: u64) -> Vec<String> {
    let Words { ip, digit, .. } = words(LEARNED);
    let rule = |protocol| {
        format!(
            "meta l4proto {protocol} update @affinity{digit} {{ ct original {ip} saddr . ct original {ip} daddr . \
             meta l4proto . ct original proto-dst timeout {seconds}s : {ip} daddr . th dport }}"
        )
    };
    Protocol::ALL.into_iter().map(rule).collect()
}

fn fixed(config: &Config) -> Vec<Chain> {
    let mut refuse = vec!["meta l4proto tcp reject with tcp reset".to_owned()];
    refuse.push("reject with icmpx port-unreachable".to_owned());
    let vips = |map: &str, before: &str, families: &mut dyn FnMut(Family) -> Option<String>| {
        let rule = |family| {
            let Words { ip, digit, .. } = words(family);
            let from = families(family)?;
            Some(format!("{before}{from}{ip} daddr . meta l4proto . th dport vmap @{map}{digit}"))
        };
        Family::ALL.into_iter().filter_map(rule).collect::<Vec<_>>()
    };
    let anyone = |_| Some(String::new());
    let mut outsider = |family| Some(not_from(&of_family(&config.inside, family), family));

    let mut prerouting = vips("outside", "", &mut outsider);
    prerouting.extend(vips("services", "", &mut { anyone }));
    prerouting.push("fib daddr type local jump node-in".to_owned());
    let mut output = vips("services", "", &mut { anyone });
    output.push("fib daddr type local jump node-out".to_owned());
    let mut refused = vips("refused", "ct state new ", &mut { anyone });
    refused.push("ct state new fib daddr type local jump node-refused".to_owned());

    let mut node_in = nodes(config, "node_outside", true);
    node_in.extend(nodes(config, "node", false));
    vec![
        Chain::plain("refuse", refuse),
        Chain::plain("node-refused", nodes(config, "node_refused", false)),
        Chain::plain("node-in", node_in),
        Chain::plain("node-out", nodes(config, "node", false)),
        Chain::plain("learn", learners(config)),
        Chain::plain("source", masquerade(config)),
        Chain::base("prerouting", ("nat", "prerouting", NAT_PRIORITY), prerouting),
        Chain::base("output", ("nat", "output", NAT_PRIORITY), output),
        Chain::base("input", ("nat", "input", SOURCE_PRIORITY), vec!["ct status dnat jump learn".to_owned()]),
        Chain::base(
            "postrouting",
            ("nat", "postrouting", SOURCE_PRIORITY),
            vec!["ct status dnat jump learn".to_owned(), "ct status dnat jump source".to_owned()],
        ),
        Chain::base("refuse-prerouting", ("filter", "prerouting", REFUSE_PRIORITY), refused.clone()),
        Chain::base("refuse-output", ("filter", "output", REFUSE_PRIORITY), refused),
    ]
}

/// Lookups of NodePorts, for an address that is known to be this node's.
fn nodes(config: &Config, map: &str, outside: bool) -> Vec<String> {
    let rule = |family| {
        let Words { ip, digit, loopback, .. } = words(family);
        let own = of_family(&config.node_addresses, family);
        if own.is_empty() && !config.node_addresses.is_empty() {
            return None;
        }
        let own = if own.is_empty() { String::new() } else { format!("{ip} daddr {} ", set(&own)) };
        let from = if outside { not_from(&of_family(&config.inside, family), family) } else { String::new() };
        Some(format!("{ip} daddr != {loopback} {own}{from}meta l4proto . th dport vmap @{map}{digit}"))
    };
    Family::ALL.into_iter().filter_map(rule).collect()
}

/// Finds the frontend of a connection that got a backend. `ct original proto-dst` has a type only where the protocol is
/// known, hence a rule for each.
fn learners(config: &Config) -> Vec<String> {
    let mut rules = Vec::new();
    if let Some(proxy) = config.proxy {
        rules.push(format!("tcp dport {} fib daddr type local return", proxy.tcp));
        rules.push(format!("udp dport {} fib daddr type local return", proxy.udp));
    }
    let Words { ip, digit, nfproto, .. } = words(LEARNED);
    for protocol in Protocol::ALL {
        let port = "meta l4proto . ct original proto-dst";
        rules.push(format!("meta l4proto {protocol} ct original {ip} daddr . {port} vmap @learn{digit}"));
        rules.push(format!("meta nfproto {nfproto} meta l4proto {protocol} {port} vmap @node_learn{digit}"));
    }
    rules
}

/// Who gets an address of this node as its source: a pod that reaches itself, what stays on a bridge without
/// `br_netfilter`, and traffic from outside, whose answers must come back this way. No mark is used: the frontend is
/// read from conntrack, so no bit can be in anybody's way.
fn masquerade(config: &Config) -> Vec<String> {
    let masquerade = "masquerade fully-random";
    let mut rules = Vec::new();
    for family in Family::ALL {
        let Words { ip, digit, .. } = words(family);
        rules.push(format!("ct original {ip} saddr . {ip} daddr @hairpin{digit} {masquerade}"));
    }
    for bridge in &config.bridges {
        rules.push(format!("iifname \"{bridge}\" oifname \"{bridge}\" {masquerade}"));
    }
    rules.push("fib saddr type local return".to_owned());
    for family in Family::ALL {
        let inside = of_family(&config.inside, family);
        if !inside.is_empty() {
            rules.push(format!("{} saddr {} return", words(family).ip, set(&inside)));
        }
    }
    for family in Family::ALL {
        let Words { ip, digit, nfproto, .. } = words(family);
        for protocol in Protocol::ALL {
            let port = "meta l4proto . ct original proto-dst";
            rules.push(format!(
                "meta l4proto {protocol} ct original {ip} daddr . {port} @masquerade{digit} {masquerade}"
            ));
            rules.push(format!(
                "meta nfproto {nfproto} meta l4proto {protocol} {port} . {ip} daddr . th dport \
                 @node_masquerade{digit} {masquerade}"
            ));
        }
    }
    rules
}

fn of_family(networks: &[IpNet], family: Family) -> Vec<IpNet> {
    let mine: Vec<IpNet> =
        networks.iter().filter(|network| Family::of(network.addr()) == family).map(IpNet::trunc).collect();
    // An anonymous set takes no networks that overlap.
    IpNet::aggregate(&mine)
}

fn not_from(networks: &[IpNet], family: Family) -> String {
    if networks.is_empty() {
        return String::new();
    }
    format!("{} saddr != {} ", words(family).ip, set(networks))
}

fn set(networks: &[IpNet]) -> String {
    let mut text = String::from("{ ");
    for (at, network) in networks.iter().enumerate() {
        let _ = write!(text, "{}{network}", if at == 0 { "" } else { ", " });
    }
    text + " }"
}
