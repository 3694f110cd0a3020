//! README's port table, and what a system really listens on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::Context as _;

/// State of a listening socket in /proc/net/tcp.
const LISTEN: &str = "0A";

/// A line of the port table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Who listens.
    pub process: String,
    /// Where: an address, or a path with `<data-dir>`.
    pub address: String,
    /// What is spoken.
    pub protocol: String,
    /// Who may connect.
    pub callers: String,
    /// How the caller is known.
    pub authentication: String,
}

/// README's port table.
///
/// # Errors
/// When README cannot be read or has no such table.
pub fn table() -> anyhow::Result<Vec<Row>> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let text = fs::read_to_string(&readme).with_context(|| readme.display().to_string())?;
    let rows: Vec<Row> = text
        .lines()
        .skip_while(|line| !line.starts_with("| process | address |"))
        .skip(2)
        .map_while(|line| line.strip_prefix('|'))
        .map(|line| {
            let mut cells = line.split('|').map(|cell| cell.trim().to_owned());
            let mut next = || cells.next().unwrap_or_default();
            Row { process: next(), address: next(), protocol: next(), callers: next(), authentication: next() }
        })
        .collect();
    anyhow::ensure!(!rows.is_empty(), "README has no port table");
    Ok(rows)
}

/// The TCP addresses that a process listens on.
#[must_use]
pub fn listening(pid: i64) -> BTreeSet<SocketAddr> {
    let mut sockets: BTreeMap<String, SocketAddr> = BTreeMap::new();
    for file in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let (Some(local), Some(&LISTEN), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9))
                && let Some(address) = parse(local)
            {
                sockets.insert(format!("socket:[{inode}]"), address);
            }
        }
    }
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| sockets.get(link.to_str()?).copied())
        .collect()
}

/// An address as the kernel prints it: words in the machine's order, in hex.
fn parse(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<u32> =
        (0..address.len() / 8).map_while(|i| u32::from_str_radix(address.get(i * 8..i * 8 + 8)?, 16).ok()).collect();
    let ip = match words.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(word.to_ne_bytes())),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (slot, byte) in bytes.iter_mut().zip([a, b, c, d].into_iter().flat_map(|w| w.to_ne_bytes())) {
                *slot = byte;
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}
