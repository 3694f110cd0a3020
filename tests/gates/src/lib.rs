//! House rules as tests: layers, tidy files, supply chain, ports.
//!
//! The tests in `tests/` read the manifests, the sources and the README of this repository and
//! fail with the file and the rule that is broken. This library only finds things for them; no
//! other crate uses it. Everything is read from disk, nothing is written.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cargo_metadata::{Metadata, MetadataCommand};

/// The root directory of the repository.
///
/// # Errors
/// When this crate was moved, so that the root is not two directories up.
pub fn root() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    anyhow::ensure!(root.join("Cargo.lock").is_file(), "no Cargo.lock in {}: was tests/gates moved?", root.display());
    Ok(root)
}

/// What cargo knows about the workspace, resolved for Linux on this architecture.
///
/// # Errors
/// When `cargo metadata` fails, for example because Cargo.lock does not match the manifests.
pub fn metadata() -> anyhow::Result<Metadata> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    MetadataCommand::new()
        .manifest_path(root()?.join("Cargo.toml"))
        .other_options(vec!["--locked".into(), "--filter-platform".into(), platform])
        .exec()
        .context("run cargo metadata")
}

/// Every file below the root with one of these extensions, without build output, hidden directories
/// and what others wrote (`vendor`), sorted.
///
/// # Errors
/// When a directory cannot be read.
pub fn files(extensions: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![root()?];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') || ["target", "node_modules", "vendor"].contains(&&*name) {
                continue;
            }
            if path.is_dir() {
                pending.push(path);
            } else if extensions.iter().any(|e| path.extension().is_some_and(|x| x == *e)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A path as people write it: from the root of the repository.
#[must_use]
pub fn display(path: &Path) -> String {
    let root = root().unwrap_or_default();
    path.strip_prefix(&root).unwrap_or(path).display().to_string()
}

/// What is in backticks on a line of Markdown.
pub fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Those of `names` that are no test of this repository, or only one that is switched off.
///
/// # Errors
/// When a source file cannot be read.
pub fn without_test(mut names: BTreeSet<String>) -> anyhow::Result<BTreeSet<String>> {
    for path in files(&["rs"])? {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let (mut test, mut ignored) = (false, false);
        for line in text.lines() {
            let attribute = line.trim_start();
            if let Some((_, rest)) = line.split_once("fn ") {
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if test && !ignored {
                    names.remove(&name);
                }
                (test, ignored) = (false, false);
            } else if attribute.starts_with("#[test") || attribute.starts_with("#[tokio::test") {
                test = true;
            } else if attribute.starts_with("#[ignore") {
                ignored = true;
            }
        }
    }
    Ok(names)
}
