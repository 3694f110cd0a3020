//! Files that change all at once.
//!
//! The scheme of the kubelet, which programs rely on when they watch for changes: the files are in a
//! directory `..<time>`, `..data` is a link to it, and each name is a link through `..data`. An
//! update writes a new directory and renames a new `..data` over the old one, so that a reader sees
//! the old set or the new one.
//!
//! Called on a blocking thread. Invariants: with equal content nothing is touched (no change
//! notification without a change); a crash leaves an unused directory that the next write removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, chown};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
}

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes the directory hold exactly these files. The paths were checked by `payload`.
pub(crate) fn write(target: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    let link = target.join(DATA);
    let old = fs::read_link(&link).ok().filter(|old| is_plain(old));
    let same = old.as_ref().is_some_and(|old| equal(&target.join(old), files));
    if !same {
        let fresh = new_directory(target)?;
        for (path, file) in files {
            write_file(&target.join(&fresh).join(path), file)?;
        }
        let temporary = target.join(NEW_DATA);
        let _ = fs::remove_file(&temporary);
        symlink(&fresh, &temporary)?;
        fs::rename(&temporary, &link)?;
    }
    let names: BTreeSet<&str> = files.keys().filter_map(|p| p.split('/').next()).collect();
    for name in &names {
        let path = target.join(name);
        let points_to = Path::new(DATA).join(name);
        if fs::read_link(&path).ok().as_ref() != Some(&points_to) {
            let _ = fs::remove_file(&path);
            symlink(&points_to, &path)?;
        }
    }
    remove_others(target, &names)
}

/// A link that somebody else wrote must not lead us out of the directory.
fn is_plain(link: &Path) -> bool {
    link.components().count() == 1 && link.to_str().is_some_and(|l| l.starts_with("..") && l.len() > 2 && l != DATA)
}

fn new_directory(target: &Path) -> io::Result<PathBuf> {
    let now = jiff::Timestamp::now().as_nanosecond();
    for attempt in 0..100 {
        let name = PathBuf::from(format!("..{now}.{attempt}"));
        match fs::create_dir(target.join(&name)) {
            Ok(()) => {
                fs::set_permissions(target.join(&name), fs::Permissions::from_mode(0o755))?;
                return Ok(name);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn write_file(path: &Path, file: &File) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    out.write_all(&file.content)?;
    chown(path, file.owner.map(Uid::from_raw), file.group.map(Gid::from_raw))?;
    out.set_permissions(fs::Permissions::from_mode(file.mode & 0o7777))
}

fn equal(dir: &Path, files: &BTreeMap<String, File>) -> bool {
    let mut found = BTreeSet::new();
    list(dir, dir, &mut found);
    found.len() == files.len()
        && files.iter().all(|(path, file)| {
            let full = dir.join(path);
            let same_meta = fs::symlink_metadata(&full).is_ok_and(|m| {
                m.is_file()
                    && m.mode() & 0o7777 == file.mode & 0o7777
                    && file.owner.is_none_or(|o| o == m.uid())
                    && file.group.is_none_or(|g| g == m.gid())
            });
            same_meta && fs::read(&full).is_ok_and(|content| content == file.content)
        })
}

fn list(root: &Path, dir: &Path, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            list(root, &entry.path(), found);
        } else if let Ok(path) = entry.path().strip_prefix(root) {
            found.insert(path.to_owned());
        }
    }
}

/// Names that are no longer there, and directories of earlier writes.
fn remove_others(target: &Path, names: &BTreeSet<&str>) -> io::Result<()> {
    let current = fs::read_link(target.join(DATA))?;
    for entry in fs::read_dir(target)?.flatten() {
        let name = entry.file_name();
        let keep = name == DATA || current.as_os_str() == name || name.to_str().is_some_and(|n| names.contains(n));
        if keep {
            continue;
        }
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
