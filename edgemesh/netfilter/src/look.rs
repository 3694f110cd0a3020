//! Looks for others who handle Services on this node, and changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;

use crate::error::Error;
use crate::neighbours::Sightings;
use crate::program;

/// A table of IPVS is looked at this far: one service is enough.
const MAX_IPVS: u64 = 4096;

/// Looks at the names of tables, chains and interfaces of this network namespace. What cannot be looked at, because
/// its program or file is not there, has nobody.
///
/// # Errors
/// [`Error::Run`] and [`Error::Listing`] when there is a program that does not answer as it should.
pub async fn look() -> Result<Sightings, Error> {
    let mut seen = Sightings { interfaces: interfaces(), ipvs: ipvs(), ..Sightings::default() };
    if let Some(nft) = program::find("nft") {
        let run = |source| Error::Run { program: "nft", source };
        let output = program::run(&nft, &["-j", "-t", "list", "ruleset"], "").await.map_err(run)?;
        if output.success {
            let listing: Value = serde_json::from_slice(&output.stdout)
                .map_err(|error| Error::Listing { program: "nft", source: Box::new(error) })?;
            nftables(&listing, &mut seen);
        }
    }
    // The old kind of iptables is in none of nft's lists. Asking for its tables would make them: only if they are there.
    for (names, save) in
        [("/proc/net/ip_tables_names", "iptables-legacy-save"), ("/proc/net/ip6_tables_names", "ip6tables-legacy-save")]
    {
        let there = fs::read_to_string(names).is_ok_and(|names| !names.trim().is_empty());
        if let (true, Some(save)) = (there, program::find(save)) {
            let run = |source| Error::Run { program: "iptables-legacy-save", source };
            let output = program::run(&save, &[], "").await.map_err(run)?;
            let text = String::from_utf8_lossy(&output.stdout);
            let chains = text.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
            seen.chains.extend(chains.map(str::to_owned));
        }
    }
    Ok(seen)
}

fn nftables(listing: &Value, seen: &mut Sightings) {
    for object in listing.get("nftables").and_then(Value::as_array).into_iter().flatten() {
        let text = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(table) = object.get("table") {
            seen.tables.insert(format!("{} {}", text(table, "family"), text(table, "name")));
        }
        if let Some(chain) = object.get("chain") {
            seen.chains.insert(text(chain, "name"));
        }
    }
}

/// Of this thread's network namespace, which is not always the one that `/sys` is mounted for.
fn interfaces() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    // Two lines of headings; then `name: counters`.
    text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

fn ipvs() -> bool {
    let read = |path: &Path| -> io::Result<String> {
        let mut text = String::new();
        fs::File::open(path)?.take(MAX_IPVS).read_to_string(&mut text)?;
        Ok(text)
    };
    // Three lines of headings; a line for each service and backend.
    read(Path::new("/proc/thread-self/net/ip_vs")).is_ok_and(|text| text.lines().count() > 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_a_listing() {
        let listing = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "ip", "name": "kube-proxy", "handle": 1}},
            {"chain": {"family": "ip", "table": "nat", "name": "KUBE-SERVICES", "handle": 1}},
            {"something": {"new": true}},
            {"table": "odd"},
        ]});
        let mut seen = Sightings::default();
        nftables(&listing, &mut seen);
        assert!(seen.tables.contains("ip kube-proxy") && seen.chains.contains("KUBE-SERVICES"));
        assert!(interfaces().contains("lo"));
    }
}
