//! Files and directories of the commands: written whole, removed with everything below.
//!
//! Both can be repeated; a crash in the middle leaves the old file, or less of the directory.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use crate::failure::{Context as _, Failure, Result};

/// Writes a file so that a reader, also after a crash, sees the old or the new one.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let what = || format!("cannot write {}", path.display());
    let parent = path.parent().ok_or_else(|| Failure::new(what()).cause("it has no directory"))?;
    fs::create_dir_all(parent).or_fail(what)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Two processes may write the same file: the last one wins, whole.
    name.push(format!(".{}.new", std::process::id()));
    let new = parent.join(name);
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).or_fail(what)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).or_fail(what)?;
    fs::rename(&new, path).or_fail(what)?;
    fs::File::open(parent).and_then(|d| d.sync_all()).or_fail(what)
}

/// Detaches every mount below the directory, then removes it.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    unmount_below(dir);
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(Failure::new(format!("cannot remove {}", dir.display())).because(&error).cure("run it again as root"))
        }
    }
}

fn unmount_below(dir: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points: Vec<PathBuf> =
        table.lines().filter_map(|l| l.split(' ').nth(4)).map(|p| PathBuf::from(unescape(p))).collect();
    // The last one first: a mount may lie on another one.
    for point in points.iter().rev().filter(|p| p.starts_with(dir)) {
        if let Err(error) = umount2(point, MntFlags::MNT_DETACH) {
            tracing::warn!(point = %point.display(), %error, "cannot unmount");
        }
    }
}

/// The kernel writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
