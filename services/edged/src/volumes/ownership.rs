//! Owner and mode of a volume for the pod's `fsGroup`.
//!
//! Called on a blocking thread when a volume is new, or, for a volume that outlives pods, whenever it
//! is set up. The rules are the kubelet's: everything belongs to the group, which may do what the
//! owner usually may, and what is created below a directory inherits the group. Links are not
//! followed. A crash half-way is repaired by the next run: the root directory is done last.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;

/// What the group may do.
const FILE: u32 = 0o660;
/// What a directory gets besides: entering, and the group for what is created below.
const DIRECTORY: u32 = 0o2110;
/// Directories below each other. The walk is recursive, so a volume cannot exhaust the stack.
const MAX_DEPTH: usize = 512;

fn mask(meta: &Metadata) -> u32 {
    if meta.is_dir() { FILE | DIRECTORY } else { FILE }
}

/// Gives everything below and including `path` to the group.
///
/// # Errors
/// The file system's trouble, or more than [`MAX_DEPTH`] levels.
pub(super) fn give_to_group(path: &Path, gid: u32) -> io::Result<()> {
    give(path, gid, MAX_DEPTH)
}

/// The same, unless the root directory shows that it was done before (`OnRootMismatch`).
///
/// # Errors
/// As [`give_to_group`].
pub(super) fn give_to_group_if_root_differs(path: &Path, gid: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let mask = mask(&meta);
    if meta.gid() == gid && meta.mode() & mask == mask { Ok(()) } else { give_to_group(path, gid) }
}

fn give(path: &Path, gid: u32, depth: usize) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() {
        let deeper = depth.checked_sub(1).ok_or_else(|| io::Error::other("directories are nested too deeply"))?;
        for entry in fs::read_dir(path)? {
            match give(&entry?.path(), gid, deeper) {
                // Somebody else uses the volume too.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    }
    change(path, &meta, gid)
}

fn change(path: &Path, meta: &Metadata, gid: u32) -> io::Result<()> {
    lchown(path, None, Some(gid))?;
    if meta.is_symlink() {
        return Ok(());
    }
    // A change of owner clears the setgid bit, so the mode comes after it.
    let mode = meta.mode() & 0o7777 | mask(meta);
    fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn all_but_the_target_of_a_link_is_the_groups() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("v"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        for file in [&volume.join("a/b/f"), &outside] {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        }
        symlink(&outside, volume.join("link")).unwrap();
        give_to_group(&volume, 2000).unwrap();
        let of = |path: &Path| fs::symlink_metadata(path).map(|m| (m.gid(), m.mode() & 0o7777)).unwrap();
        assert_eq!(of(&volume.join("a/b/f")), (2000, 0o660));
        assert_eq!(of(&volume.join("a")), (2000, 0o2775));
        assert_eq!(of(&volume), (2000, 0o2775));
        assert_eq!(of(&volume.join("link")).0, 2000);
        assert_eq!(of(&outside), (0, 0o600));
    }

    #[test]
    fn a_root_that_fits_spares_the_walk() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "").unwrap();
        give_to_group(dir.path(), 2000).unwrap();
        lchown(&file, None, Some(0)).unwrap();
        give_to_group_if_root_differs(dir.path(), 2000).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().gid(), 0);
        give_to_group_if_root_differs(dir.path(), 2001).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().gid(), 2001);
    }
}
