//! The name servers of the node: from the configuration, or from `resolv.conf` as it is now.
//!
//! A task of the server follows the file: networks come and go at the edge, and with them the servers. A file that
//! cannot be read, or names nobody, changes nothing.
//!
//! Only `nameserver` is used. `search` and `ndots` are of those who ask: pods have their own.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Between two looks at the file.
pub(crate) const LOOK: Duration = Duration::from_secs(5);
/// A file of people and DHCP clients; anything larger is something else.
const MAX_BYTES: u64 = 64 << 10;
/// Port of DNS.
const PORT: u16 = 53;

/// What tells whether the file has changed.
type Mark = (SystemTime, u64);

/// A file that is followed.
#[derive(Debug)]
pub(crate) struct Follow {
    path: PathBuf,
    seen: Option<Mark>,
}

impl Follow {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, seen: None }
    }

    /// The servers, if the file has changed since the last look. Blocks: a small file of the system.
    pub(crate) fn look(&mut self) -> Option<Vec<SocketAddr>> {
        let mark = mark(&self.path);
        if mark.is_none() || mark == self.seen {
            return None;
        }
        self.seen = mark;
        match std::fs::read_to_string(&self.path) {
            Ok(text) => {
                let servers = parse(&text, scope);
                if servers.is_empty() {
                    tracing::warn!(path = %self.path.display(), "this file names no name server: nothing changes");
                }
                Some(servers).filter(|servers| !servers.is_empty())
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot read the name servers of this node");
                None
            }
        }
    }
}

fn mark(path: &Path) -> Option<Mark> {
    let file = std::fs::metadata(path).ok()?;
    let readable = file.is_file() && file.len() <= MAX_BYTES;
    readable.then_some((file.modified().ok()?, file.len()))
}

/// Servers in the order of the file. `scope` is the number of an interface, for link-local addresses.
fn parse(text: &str, scope: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else {
            continue;
        };
        let (bare, interface) = address.split_once('%').map_or((address, None), |(a, i)| (a, Some(i)));
        let server = match (bare.parse::<IpAddr>(), interface) {
            (Ok(ip), None) => Some(SocketAddr::new(ip, PORT)),
            (Ok(IpAddr::V6(ip)), Some(interface)) => scoped(ip, interface, &scope),
            _ => None,
        };
        match server {
            Some(server) => servers.push(server),
            None => tracing::warn!(address, "this is not the address of a name server"),
        }
    }
    servers
}

fn scoped(ip: Ipv6Addr, interface: &str, scope: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    Some(SocketAddrV6::new(ip, PORT, 0, scope(interface)?).into())
}

/// Number of an interface, from its name or as it stands.
fn scope(interface: &str) -> Option<u32> {
    if let Ok(number) = interface.parse() {
        return Some(number);
    }
    let name = !interface.is_empty() && !interface.starts_with('.') && !interface.contains('/');
    let path = name.then(|| Path::new("/sys/class/net").join(interface).join("ifindex"))?;
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_name_servers_are_read() {
        let text = "# by hand\nsearch lan\nnameserver 192.0.2.1\noptions ndots:5\n  nameserver\t2001:db8::1  \n\
            nameserver fe80::1%eth0\nnameserver fe80::2%gone\nnameserver example\nnameserver\nnameserverx 192.0.2.9\n";
        let scope = |name: &str| (name == "eth0").then_some(7);
        let expected = ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53"];
        assert_eq!(parse(text, scope), expected.map(|text| text.parse::<SocketAddr>().unwrap()));
    }

    #[test]
    fn interfaces_are_names_and_not_paths() {
        assert_eq!(scope("lo"), Some(1));
        for wrong in ["", "..", "../net/lo", "lo/..", "/lo"] {
            assert_eq!(scope(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_file_that_is_gone_or_empty_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut follow = Follow::new(path.clone());
        assert_eq!(follow.look(), None, "not there");
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(follow.look(), Some(vec!["192.0.2.1:53".parse().unwrap()]));
        assert_eq!(follow.look(), None, "the same");
        std::fs::write(&path, "").unwrap();
        assert_eq!(follow.look(), None, "nobody");
        std::fs::write(&path, "nameserver 192.0.2.10\n").unwrap();
        assert_eq!(follow.look(), Some(vec!["192.0.2.10:53".parse().unwrap()]));
        std::fs::write(&path, vec![b'#'; usize::try_from(MAX_BYTES).unwrap() + 1]).unwrap();
        assert_eq!(follow.look(), None, "too large");
    }
}
