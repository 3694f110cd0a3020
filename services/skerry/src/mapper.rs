//! `skerry mapper new`: renders the crate of a mapper, which builds anywhere.
//!
//! Nothing that exists is overwritten. The templates are in `templates/mapper`; a test renders them and builds
//! and runs the result.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::failure::{Context as _, Failure, Result};
use crate::ui;

/// Longest name: that of a Kubernetes object made of it must still be a DNS label.
const MAX_NAME: usize = 40;
/// The crate that a mapper is built on.
const SDK: &str = "skerry-mapper-sdk";

const FILES: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../templates/mapper/Cargo.toml.in")),
    ("README.md", include_str!("../templates/mapper/README.md.in")),
    ("config.yaml", include_str!("../templates/mapper/config.yaml.in")),
    ("src/main.rs", include_str!("../templates/mapper/main.rs.in")),
    ("src/driver.rs", include_str!("../templates/mapper/driver.rs.in")),
    ("deploy/mapper.yaml", include_str!("../templates/mapper/mapper.yaml.in")),
    ("deploy/device.yaml", include_str!("../templates/mapper/device.yaml.in")),
    ("rustfmt.toml", "max_width = 120\nuse_small_heuristics = \"Max\"\n"),
    (".gitignore", "/target\n"),
];

/// The commands about mappers.
#[derive(Debug, Subcommand)]
pub(crate) enum MapperCommand {
    /// Make the crate of a mapper, with a driver to fill in.
    New(NewArgs),
}

/// Options of `skerry mapper new`.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Name of the protocol: lower case letters, digits and '-'.
    name: String,
    /// Folder to make; by default the name with -mapper.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Folder of the SDK's crate, for a mapper that is built beside it.
    #[arg(long, required_unless_present = "sdk_git", conflicts_with = "sdk_git")]
    sdk_path: Option<PathBuf>,
    /// Git URL of the repository with the SDK.
    #[arg(long)]
    sdk_git: Option<String>,
    /// Commit of the repository; by default the newest.
    #[arg(long, requires = "sdk_git")]
    sdk_rev: Option<String>,
}

/// Runs a command about mappers.
pub(crate) fn run(command: MapperCommand) -> Result<()> {
    match command {
        MapperCommand::New(args) => new(&args),
    }
}

fn new(args: &NewArgs) -> Result<()> {
    let camel = type_name(&args.name)?;
    let sdk = dependency(args)?;
    let folder = args.dir.clone().unwrap_or_else(|| PathBuf::from(format!("{}-mapper", args.name)));
    let cannot = |path: &Path| format!("cannot make {}", path.display());
    fs::create_dir_all(&folder).or_fail(|| cannot(&folder))?;
    if fs::read_dir(&folder).or_fail(|| cannot(&folder))?.next().is_some() {
        return Err(Failure::usage(format!("{} is not empty", folder.display())).cure("another --dir"));
    }
    for (name, template) in FILES {
        let path = folder.join(name);
        let text = template.replace("{{name}}", &args.name).replace("{{Name}}", &camel).replace("{{sdk}}", &sdk);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).or_fail(|| cannot(parent))?;
        }
        let mut file = fs::File::create_new(&path).or_fail(|| cannot(&path))?;
        file.write_all(text.as_bytes()).or_fail(|| cannot(&path))?;
    }
    ui::line(format!("{}: the protocol is in src/driver.rs, README.md says the rest", folder.display()));
    Ok(())
}

/// `soil-probe` becomes `SoilProbe`.
fn type_name(name: &str) -> Result<String> {
    let word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let words: Vec<_> = name.split('-').collect();
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    // A type of that name would hide one that the driver uses.
    let taken = ["device", "driver", "point", "value", "fault", "sample", "line", "connection", "protocol", "visitor"];
    if name.len() > MAX_NAME || !begins || !words.iter().all(|w| word(w)) || taken.contains(&name) {
        let rule = format!("lower case letters, digits and '-', a letter first, at most {MAX_NAME}");
        return Err(Failure::usage(format!("{name:?} cannot be the name of a mapper")).cure(rule));
    }
    let capital =
        |word: &&str| word.chars().take(1).map(|c| c.to_ascii_uppercase()).chain(word.chars().skip(1)).collect();
    Ok(words.iter().map(capital).collect::<Vec<String>>().concat())
}

/// What stands in the braces of the dependency.
fn dependency(args: &NewArgs) -> Result<String> {
    if let Some(path) = &args.sdk_path {
        let path = path.canonicalize().or_fail(|| format!("cannot find the SDK in {}", path.display()))?;
        let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap_or_default();
        if !manifest.contains(&format!("name = \"{SDK}\"")) {
            return Err(Failure::usage(format!("{} is not the folder of {SDK}", path.display())));
        }
        return Ok(format!("path = {}", quoted(&path.to_string_lossy())?));
    }
    let url = args.sdk_git.as_deref().unwrap_or_default();
    let git = format!("git = {}", quoted(url)?);
    match &args.sdk_rev {
        Some(rev) => Ok(format!("{git}, rev = {}", quoted(rev)?)),
        None => Ok(git),
    }
}

/// A string of TOML.
fn quoted(text: &str) -> Result<String> {
    if text.is_empty() || text.contains(['"', '\\', '{', '}']) || text.chars().any(char::is_control) {
        return Err(Failure::usage(format!("{text:?} cannot be written into Cargo.toml")));
    }
    Ok(format!("\"{text}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_types_or_are_refused() {
        for (name, expected) in [("modbus", "Modbus"), ("soil-probe-2", "SoilProbe2"), ("x", "X")] {
            assert_eq!(type_name(name).map_err(|error| error.to_string()), Ok(expected.to_owned()));
        }
        let long = "x".repeat(MAX_NAME + 1);
        for name in ["", "-", "a-", "-a", "a--b", "A", "a_b", "../a", "a/b", "1a", "a\nb", "device", long.as_str()] {
            assert!(type_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn nothing_can_be_smuggled_into_the_manifest() {
        assert!(quoted("https://example.org/skerry.git").is_ok());
        for text in ["", "a\"", "a\nb", "a\\", "{{name}}"] {
            assert!(quoted(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_driver_is_less_than_a_hundred_lines() {
        let driver = FILES.iter().find(|(name, _)| *name == "src/driver.rs").map_or("", |(_, text)| text);
        assert!((20..100).contains(&driver.lines().count()), "{}", driver.lines().count());
    }
}
