//! House rules as tests: layers, tidy files, supply chain, ports.
//!
//! The tests in `tests/` read the manifests, the sources and the README of this repository and
//! fail with the file and the rule that is broken. This library only finds things for them; no
//! other crate uses it. Everything is read from disk, nothing is written.

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

/// Every file below the root with one of these extensions, without build output and hidden
/// directories, sorted.
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
            if name.starts_with('.') || name == "target" || name == "node_modules" {
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
