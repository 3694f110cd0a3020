//! What files take on a disk: whole filesystems, and directories walked within bounds.
//!
//! Blocking. A walk follows no link, stays on its filesystem, counts a file with several names once
//! and takes blocks, not lengths: a sparse file costs what it holds. Limits: [`MAX_ENTRIES`] and
//! [`MAX_DEPTH`]; what lies beyond is not counted, so a walk never says too much.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::model::FsStats;

/// A walk of so many files takes some hundred milliseconds from a warm cache.
const MAX_ENTRIES: u64 = 200_000;
/// Deeper than any sane tree; open directories are bounded by it.
const MAX_DEPTH: usize = 64;
/// The unit of a file's blocks, whatever its filesystem's is.
const BLOCK: u64 = 512;

/// Bytes and inodes of a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Space and inodes of the filesystem that holds `path`; `None` when it cannot be asked.
pub(crate) fn filesystem(path: &Path, time: &Time) -> Option<FsStats> {
    let s = nix::sys::statvfs::statvfs(path).ok()?;
    let unit = s.fragment_size();
    // Filesystems without a table of inodes say zero.
    let inodes = (s.files() > 0).then(|| s.files());
    Some(FsStats {
        time: Some(time.clone()),
        available_bytes: Some(s.blocks_available().saturating_mul(unit)),
        capacity_bytes: Some(s.blocks().saturating_mul(unit)),
        used_bytes: Some(s.blocks().saturating_sub(s.blocks_free()).saturating_mul(unit)),
        inodes_free: inodes.map(|_| s.files_available()),
        inodes,
        inodes_used: inodes.map(|all| all.saturating_sub(s.files_free())),
    })
}

/// The number of the filesystem that holds `path`.
pub(crate) fn device(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|m| m.dev())
}

/// What one file takes.
pub(crate) fn file(path: &Path) -> Used {
    fs::symlink_metadata(path)
        .map_or_else(|_| Used::default(), |m| Used { bytes: m.blocks().saturating_mul(BLOCK), inodes: 1 })
}

/// What a directory and all below it take.
pub(crate) fn walk(root: &Path) -> Used {
    walk_within(root, MAX_ENTRIES)
}

fn walk_within(root: &Path, max_entries: u64) -> Used {
    let mut used = Used::default();
    let Ok(top) = fs::symlink_metadata(root) else { return used };
    let mut several_names = HashSet::new();
    let mut pending: Vec<(PathBuf, usize)> = Vec::new();
    let mut add = |meta: &fs::Metadata| {
        if meta.nlink() < 2 || meta.is_dir() || several_names.insert(meta.ino()) {
            used.bytes = used.bytes.saturating_add(meta.blocks().saturating_mul(BLOCK));
            used.inodes += 1;
        }
        used.inodes < max_entries
    };
    add(&top);
    if top.is_dir() {
        pending.push((root.to_owned(), 0));
    }
    while let Some((dir, depth)) = pending.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            // Gone since it was listed, or not ours to count.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() {
                continue;
            }
            if !add(&meta) {
                return used;
            }
            if meta.is_dir() && depth < MAX_DEPTH {
                pending.push((entry.path(), depth + 1));
            }
        }
    }
    used
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_walk_counts_blocks_and_each_file_once_and_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let big = vec![1_u8; 1 << 20];
        fs::write(dir.path().join("a"), &big).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("same")).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/b"), &big).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("link")).unwrap();
        fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
        let used = walk(dir.path());
        assert_eq!(used.inodes, 6, "the top, a, sub, b, link, sparse");
        assert!((2 << 20..3 << 20).contains(&used.bytes), "{}", used.bytes);
        assert_eq!(walk_within(dir.path(), 3).inodes, 3);
        assert_eq!(walk(&dir.path().join("none")), Used::default());
    }

    #[test]
    fn a_filesystem_has_what_it_says() {
        let time = Time::from(jiff::Timestamp::UNIX_EPOCH);
        let fs = filesystem(Path::new("/"), &time).unwrap();
        assert!(fs.available_bytes <= fs.capacity_bytes);
        assert_eq!(filesystem(Path::new("/none/such"), &time), None);
    }
}
