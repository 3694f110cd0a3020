//! What we ship depends on nothing that deny.toml bans.
//!
//! `cargo deny` checks more (advisories, licences, sources) where it is installed; these bans hold
//! everywhere, because each of them has hurt somebody.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::semver::Version;

/// Never in the graph, with the reason.
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "TLS is rustls"),
    ("native-tls", "TLS is rustls"),
    ("rustls-pemfile", "unmaintained; rustls-pki-types reads PEM"),
    ("serde_yaml", "unmaintained; use serde-saphyr"),
    ("serde_yml", "unsound; use serde-saphyr"),
    ("sqlx-sqlite", "a second libsqlite3; use rusqlite"),
    ("ring", "the one crypto library is aws-lc-rs"),
];
/// What is banned and comes all the same, with its users: nobody else may use it.
const BORNE: &[(&str, &str)] = &[
    ("serde_yaml", "async-opcua-core"),
    // Certificates and reset tokens of libp2p; TLS itself is aws-lc-rs there too.
    ("ring", "libp2p-quic"),
    ("ring", "libp2p-tls"),
    ("ring", "quinn-proto"),
    ("ring", "rcgen"),
    // These are not built with it; cargo's metadata counts their options all the same.
    ("ring", "hickory-proto"),
    ("ring", "rustls-webpki"),
];
/// Lowest versions: everything below has a known hole.
const FLOORS: &[(&str, &str)] =
    &[("h2", "0.4.18"), ("rustls-webpki", "0.103.13"), ("aws-lc-sys", "0.39.0"), ("tokio", "1.44.2")];
/// Two versions of these in one program do not know each other's types, connections or files.
const SINGLE: &[&str] = &["tonic", "prost", "rustls", "libsqlite3-sys", "tokio", "hyper", "h2", "kube", "k8s-openapi"];
/// Where packages may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Packages that end up in a shipped program, as `name version`: normal and build dependencies of
/// all members on this platform, with the features that are really on. (`cargo metadata` lists
/// more: features that only another platform switches on.)
fn shipped() -> anyhow::Result<BTreeMap<String, BTreeSet<Version>>> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--locked", "--prefix", "none"])
        .args(["--edges", "normal,build", "--format", "{p}"])
        .current_dir(skerry_gates::root()?)
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "cargo tree: {errors}");
    let mut found: BTreeMap<String, BTreeSet<Version>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(version)) = (words.next(), words.next()) else {
            continue;
        };
        let version = version.trim_start_matches('v').parse()?;
        found.entry(name.to_owned()).or_default().insert(version);
    }
    Ok(found)
}

/// Packages that depend on one of this name.
fn users(name: &str) -> anyhow::Result<BTreeSet<String>> {
    let metadata = skerry_gates::metadata()?;
    let nodes = metadata.resolve.as_ref().map(|resolve| resolve.nodes.as_slice()).unwrap_or_default();
    let uses = |node: &&cargo_metadata::Node| node.dependencies.iter().any(|id| metadata[id].name.as_str() == name);
    Ok(nodes.iter().filter(uses).map(|node| metadata[&node.id].name.to_string()).collect())
}

#[test]
fn nothing_banned_old_or_double_is_shipped() -> anyhow::Result<()> {
    let shipped = shipped()?;
    let mut broken = Vec::new();
    for (name, why) in BANNED {
        if let Some(versions) = shipped.get(*name)
            && !users(name)?.iter().all(|user| BORNE.contains(&(*name, user)))
        {
            broken.push(format!("{name} {versions:?}: {why}"));
        }
    }
    for (name, floor) in FLOORS {
        let floor: Version = floor.parse()?;
        for version in shipped.get(*name).into_iter().flatten() {
            if *version < floor {
                broken.push(format!("{name} {version}: at least {floor}"));
            }
        }
    }
    for name in SINGLE {
        if let Some(versions) = shipped.get(*name)
            && versions.len() > 1
        {
            broken.push(format!("{name} is there in several versions: {versions:?}"));
        }
    }
    assert!(shipped.len() > 50, "the graph looks too small: {}", shipped.len());
    assert!(broken.is_empty(), "supply chain:\n  {}", broken.join("\n  "));
    Ok(())
}

/// Packages that are here with a change of ours; `vendor/README.md` beside each says why.
const VENDORED: &[&str] = &["h2"];

#[test]
fn every_package_comes_from_the_registry() -> anyhow::Result<()> {
    let members: BTreeSet<String> =
        skerry_gates::metadata()?.workspace_packages().iter().map(|p| p.name.to_string()).collect();
    let lock = std::fs::read_to_string(skerry_gates::root()?.join("Cargo.lock"))?;
    let mut vendored = Vec::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        let name = field("name").unwrap_or_default();
        match field("source") {
            Some(source) => assert_eq!(source, REGISTRY, "{name} in Cargo.lock"),
            None if members.contains(&name) => {}
            None => vendored.push(name),
        }
    }
    assert_eq!(vendored, VENDORED, "packages without a source");
    Ok(())
}

/// With its patch taken back, what is vendored is the release, file by file.
#[test]
fn what_is_vendored_is_the_release_and_its_patch() -> anyhow::Result<()> {
    let vendor = skerry_gates::root()?.join("services/rpc/vendor");
    for name in VENDORED {
        let sums = vendor.join(format!("{name}.sha256"));
        let copy = tempfile::tempdir()?;
        for line in std::fs::read_to_string(&sums)?.lines() {
            let (_, file) = line.split_once("  ").ok_or_else(|| anyhow::anyhow!("{name}.sha256: {line}"))?;
            let to = copy.path().join(file);
            std::fs::create_dir_all(to.parent().unwrap_or(copy.path()))?;
            std::fs::copy(vendor.join(name).join(file), to)?;
        }
        let run = |program: &mut Command| -> anyhow::Result<()> {
            let output = program.current_dir(copy.path()).output()?;
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&said));
            Ok(())
        };
        run(Command::new("git").args(["apply", "--reverse"]).arg(vendor.join(format!("{name}.patch"))))?;
        run(Command::new("sha256sum").args(["--check", "--strict", "--quiet"]).arg(&sums))?;
        let known = std::fs::read_to_string(&sums)?;
        let mut pending = vec![vendor.join(name).join("src")];
        while let Some(directory) = pending.pop() {
            for entry in std::fs::read_dir(directory)? {
                let path = entry?.path();
                let file = path.strip_prefix(vendor.join(name))?.display().to_string();
                if path.is_dir() {
                    pending.push(path);
                } else {
                    assert!(known.lines().any(|l| l.ends_with(&format!("  {file}"))), "{file} is not in the release");
                }
            }
        }
    }
    Ok(())
}
