//! The mount table: what is mounted where, and taking it away.
//!
//! Used by volumes when they are set up and cleaned, and by the private runtime's sweep; blocking,
//! but short. Invariants: nothing outside the given directory is touched; a removal of files is
//! refused while anything is mounted below, so that the content of a foreign filesystem is never
//! deleted.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Held from the look for a mount to the mount itself, so that two never lie on each other.
static MOUNTING: Mutex<()> = Mutex::new(());

/// Every mount point of this mount namespace, in the order of mounting.
pub(crate) fn points() -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter_map(|l| l.split(' ').nth(4)).map(|p| PathBuf::from(unescape(p))).collect())
}

/// Mounts a tmpfs, unless something is mounted there already; true when it is new.
pub(crate) fn tmpfs(target: &Path, options: &str) -> io::Result<bool> {
    memory("tmpfs", target, options)
}

/// The same of huge pages.
pub(crate) fn huge_pages(target: &Path, options: &str) -> io::Result<bool> {
    memory("hugetlbfs", target, options)
}

fn memory(kind: &str, target: &Path, options: &str) -> io::Result<bool> {
    let _one = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    // Each such mount is a device of its own. The mount table would say the same, and is long where many
    // pods run.
    let device = |path: &Path| fs::symlink_metadata(path).map(|m| m.dev());
    if device(target)? != device(target.parent().unwrap_or(target))? {
        return Ok(false);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(kind), target, Some(kind), flags, Some(options))?;
    Ok(true)
}

/// Shows what an open file is at another path, whatever happens to the path that it was opened by.
pub(crate) fn bind(source: &impl AsRawFd, target: &Path) -> io::Result<()> {
    let source = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(io::Error::from)
}

/// Detaches whatever is mounted at this very path.
pub(crate) fn unmount(target: &Path) -> io::Result<()> {
    while points()?.iter().any(|p| p == target) {
        umount2(target, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Detaches every mount at or below the given directories, the last one first; true when there was one.
pub(crate) fn unmount_below(dirs: &[&Path]) -> io::Result<bool> {
    let mut found = false;
    for point in points()?.iter().rev().filter(|p| dirs.iter().any(|d| p.starts_with(d))) {
        found = true;
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
    Ok(found)
}

/// Unmounts all below a directory and removes it.
pub(crate) fn remove_tree(dir: &Path) -> io::Result<()> {
    if unmount_below(&[dir])? && points()?.iter().any(|p| p.starts_with(dir)) {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "something is still mounted below"));
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The mount table writes blanks and the like as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|c| std::str::from_utf8(c).ok()).and_then(|c| u8::from_str_radix(c, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(r"/a\040b"), "/a b");
        assert_eq!(unescape(r"/a\b"), r"/a\b");
    }
}
