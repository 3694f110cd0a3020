//! What does not change while the agent runs: networks, ports and interfaces. Another configuration is another table.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

/// Longest name of an interface that the kernel takes.
const MAX_INTERFACE: usize = 15;

/// How this node is made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Networks of the pods of this node. What comes from them, and from the node itself, is traffic from inside: it
    /// keeps its source address, and `externalTrafficPolicy` does not concern it. All else is from outside.
    pub inside: Vec<IpNet>,
    /// Where NodePorts answer: the addresses of this node in these networks. Empty: all but those of `lo`.
    pub node_addresses: Vec<IpNet>,
    /// Where the proxy listens; needed for [`Slot::Proxy`](crate::Slot::Proxy).
    pub proxy: Option<ProxyPorts>,
    /// Bridges whose own traffic does not pass the rules on its way back, because the kernel's `br_netfilter` is
    /// missing: a pod that reaches another one of the same bridge through a Service gets the bridge's address as its
    /// source, so that the answer finds back.
    pub bridges: Vec<Interface>,
}

/// Ports of the proxy, on every address of the node: traffic is redirected to the address of the interface that it
/// came in by, or to 127.0.0.1 when it is the node's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyPorts {
    /// For TCP.
    pub tcp: u16,
    /// For UDP.
    pub udp: u16,
}

/// The name of a network interface, of letters, digits and `-_.@`: it goes into rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface(String);

/// A name that is none of an interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of an interface: 1 to {MAX_INTERFACE} of letters, digits and -_.@")]
pub struct InterfaceError(String);

impl FromStr for Interface {
    type Err = InterfaceError;

    fn from_str(name: &str) -> Result<Self, InterfaceError> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
        if name.is_empty() || name.len() > MAX_INTERFACE || !name.bytes().all(known) {
            return Err(InterfaceError(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_end_a_rule_is_refused() {
        for name in ["", "cni0\"", "a b", "a;b", "a\nb", "a{", "sixteen-letters-"] {
            assert!(name.parse::<Interface>().is_err(), "{name:?}");
        }
        assert_eq!("cni0".parse::<Interface>().unwrap().to_string(), "cni0");
        assert!("br-f00ba4.42@x".parse::<Interface>().is_ok());
    }
}
