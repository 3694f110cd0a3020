//! Tidy: every file says what it is for and is short enough to be read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use skerry_gates::{display, files, root};

/// Nobody reads longer files.
const MAX_LINES: usize = 800;
/// `main` only wires.
const MAX_MAIN_LINES: usize = 120;
/// The middle file; a larger one means that files grow together.
const MAX_MEDIAN_LINES: usize = 300;

/// Text that must not be committed. In two halves, so that this file does not contain it.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("todo", "!(", "finish it or leave it out"),
    ("dbg", "!(", "use tracing"),
    ("FIX", "ME", "finish it or open an issue"),
    ("XX", "X:", "finish it or open an issue"),
    ("\"/ho", "me/", "a path of one machine"),
    ("/wo", "rk/main", "a path of one machine"),
    ("/wo", "rk/shared", "a path of one machine"),
    ("Command::new(\"s", "h\")", "no shell: pass an argument vector"),
    ("Command::new(\"ba", "sh\")", "no shell: pass an argument vector"),
    ("Command::new(\"/bin/s", "h\")", "no shell: pass an argument vector"),
];

/// Generated code is compared with its source by a test of its own crate.
fn is_generated(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "gen")
}

#[test]
fn files_are_documented_short_and_finished() -> anyhow::Result<()> {
    let mut broken = Vec::new();
    let mut lengths = Vec::new();
    for path in files(&["rs"])? {
        let text = fs::read_to_string(&path)?;
        if is_generated(&path) {
            continue;
        }
        let name = display(&path);
        let lines = text.lines().count();
        lengths.push(lines);
        if !text.starts_with("//!") {
            broken.push(format!("{name}: the first line is not a module doc (//!)"));
        }
        if lines > MAX_LINES {
            broken.push(format!("{name}: {lines} lines, at most {MAX_LINES}"));
        }
        if name.ends_with("src/main.rs") && lines > MAX_MAIN_LINES {
            broken.push(format!("{name}: {lines} lines, at most {MAX_MAIN_LINES}"));
        }
    }
    lengths.sort_unstable();
    let at = |part: usize| lengths.get(lengths.len() * part / 100).copied().unwrap_or(0);
    println!(
        "{} files, {} lines; median {}, p90 {}, longest {}",
        lengths.len(),
        lengths.iter().sum::<usize>(),
        at(50),
        at(90),
        lengths.last().copied().unwrap_or(0)
    );
    if at(50) > MAX_MEDIAN_LINES {
        broken.push(format!("median {} lines, at most {MAX_MEDIAN_LINES}", at(50)));
    }
    assert!(broken.is_empty(), "tidy:\n  {}", broken.join("\n  "));
    Ok(())
}

#[test]
fn nothing_unfinished_or_of_one_machine_is_committed() -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for path in files(&["rs", "toml", "md", "yaml", "yml", "proto", "service", "json"])? {
        let text = fs::read_to_string(&path)?;
        for (first, second, why) in FORBIDDEN {
            let needle = format!("{first}{second}");
            for (number, line) in text.lines().enumerate() {
                if line.contains(&needle) {
                    broken.push(format!("{}:{}: {needle}: {why}", display(&path), number + 1));
                }
            }
        }
    }
    assert!(broken.is_empty(), "tidy:\n  {}", broken.join("\n  "));
    Ok(())
}

#[test]
fn every_crate_inherits_lints_and_versions() -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for path in files(&["toml"])? {
        if path.file_name().is_none_or(|n| n != "Cargo.toml") || path == root()?.join("Cargo.toml") {
            continue;
        }
        let name = display(&path);
        let text = fs::read_to_string(&path)?;
        if !text.contains("[lints]\nworkspace = true") {
            broken.push(format!("{name}: does not inherit the workspace lints"));
        }
        for key in ["version", "edition", "rust-version", "license"] {
            if !text.contains(&format!("\n{key}.workspace = true")) {
                broken.push(format!("{name}: does not inherit {key}"));
            }
        }
        if !text.contains("\ndescription = \"") {
            broken.push(format!("{name}: has no description"));
        }
        let mut in_dependencies = false;
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies
                && line.contains('=')
                && !line.contains("workspace = true")
                && !line.contains("path = \"../")
                && !line.starts_with('#')
            {
                broken.push(format!("{name}: `{line}`: versions are only in the root Cargo.toml"));
            }
        }
    }
    assert!(broken.is_empty(), "manifests:\n  {}", broken.join("\n  "));
    Ok(())
}

#[test]
fn every_folder_says_what_lives_there() -> anyhow::Result<()> {
    let root = root()?;
    let mut missing = BTreeSet::new();
    for folder in ["proto", "telemetry", "services", "edgemesh", "mappers", "tests", "examples"] {
        if !root.join(folder).join("README.md").is_file() {
            missing.insert(folder);
        }
    }
    assert!(missing.is_empty(), "folders without README.md: {missing:?}");
    Ok(())
}
