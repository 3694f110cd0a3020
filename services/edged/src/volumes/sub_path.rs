//! subPath: the part of a volume that a mount shows.
//!
//! Called on a blocking thread before a container is created. A container may change links in the
//! volume at any time, so a path that was checked proves nothing when it is used. Therefore the kernel
//! resolves it below the volume (`openat2`), and what was opened is bind-mounted at a place that no
//! container reaches: `<pod>/volume-subpaths/<volume>/<container>/<index of the mount>`, as in the
//! kubelet. The mount shows this file or directory for the life of the container, also when an update
//! of the volume replaces it. A start that is repeated replaces the mount; the removal of the pod's
//! directory unmounts it.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::VolumeMount;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat};

use super::payload;
use crate::env::{Problem, expand};
use crate::mounts;

/// The subPath that a mount asks for, expanded and checked; `None` for the whole volume.
///
/// # Errors
/// What the user must change, for `CreateContainerConfigError`.
pub(super) fn wanted(mount: &VolumeMount, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, Problem> {
    let bad =
        |why: &str| Err(Problem::Config(format!("failed to prepare subPath for volumeMount {:?}: {why}", mount.name)));
    let sub = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
        (Some(sub), _) if !sub.is_empty() => sub.to_owned(),
        (_, Some(expression)) if !expression.is_empty() => {
            let missing = std::cell::Cell::new(false);
            let text = expand(expression, |name| {
                let value = env(name);
                missing.set(missing.get() || value.is_none());
                value
            });
            if missing.get() {
                return bad(&format!("{expression:?} uses a variable that is not set"));
            }
            text
        }
        _ => return Ok(None),
    };
    if sub.starts_with('/') {
        return bad(&format!("{sub:?} must not be an absolute path"));
    }
    if sub.split('/').any(|part| part == "..") {
        return bad(&format!("{sub:?} must not contain '..'"));
    }
    if !payload::path_is_safe(&sub) {
        return bad(&format!("{sub:?} is not a path below the volume"));
    }
    Ok(Some(sub))
}

/// Makes `target` show `sub` of the volume. A directory is created where nothing is.
///
/// # Errors
/// When a part of it leaves the volume or is not a directory.
pub(super) fn bind(volume: &Path, sub: &str, target: &Path) -> io::Result<()> {
    let found = resolve(volume, sub)?;
    let is_dir = kind(&found)? == SFlag::S_IFDIR;
    mounts::unmount(target)?;
    prepare_target(target, is_dir)?;
    mounts::bind(&found, target)
}

/// Opens `sub` below the volume; links may lead anywhere but out of it.
fn resolve(volume: &Path, sub: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let root = open(volume, flags | OFlag::O_DIRECTORY, Mode::empty())?;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&root, sub, how) {
        Err(Errno::ENOENT) => {}
        other => return other.map_err(leaves),
    }
    let mode = Mode::from_bits_truncate(fstat(&root)?.st_mode & 0o777);
    let mut parent = root.as_fd().try_clone_to_owned()?;
    let mut path = PathBuf::new();
    for part in Path::new(sub).components() {
        path.push(part);
        let open_dir = || openat2(&root, &path, how.flags(flags | OFlag::O_DIRECTORY));
        parent = match open_dir() {
            Err(Errno::ENOENT) => {
                create_dir(&parent, part.as_os_str().as_ref(), mode)?;
                open_dir()
            }
            other => other,
        }
        .map_err(leaves)?;
    }
    Ok(parent)
}

/// Like the volume itself: the mode of creation is cut by the umask.
fn create_dir(parent: &OwnedFd, name: &Path, mode: Mode) -> io::Result<()> {
    mkdirat(parent, name, mode)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = openat(parent, name, flags, Mode::empty())?;
    let inherited = fstat(&made)?.st_mode & 0o2000;
    fchmod(&made, mode | Mode::from_bits_truncate(inherited)).map_err(io::Error::from)
}

fn leaves(errno: Errno) -> io::Error {
    match errno {
        Errno::EXDEV => io::Error::other("it leaves the volume"),
        Errno::ENOTDIR => io::Error::other("a part of it is not a directory"),
        other => other.into(),
    }
}

fn kind(file: &OwnedFd) -> io::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(file)?.st_mode) & SFlag::S_IFMT)
}

fn prepare_target(target: &Path, is_dir: bool) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() == is_dir => return Ok(()),
        // Of an earlier start, when the volume had something else there. Nothing is mounted on it.
        Ok(meta) if meta.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(_) => {}
    }
    if is_dir {
        return fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::File::create(target).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn expressions_are_expanded_and_must_stay_inside() {
        let env = |name: &str| match name {
            "POD" => Some("p".to_owned()),
            "UP" => Some("..".to_owned()),
            "ABSOLUTE" => Some("/tmp".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let of = |sub: Option<&str>, expression: Option<&str>| {
            let mount = VolumeMount {
                name: "v".into(),
                sub_path: sub.map(str::to_owned),
                sub_path_expr: expression.map(str::to_owned),
                ..VolumeMount::default()
            };
            wanted(&mount, &env)
        };
        assert_eq!(of(None, None), Ok(None));
        assert_eq!(of(Some("a/b"), None), Ok(Some("a/b".into())));
        assert_eq!(of(None, Some("x-$(POD)/$$(POD)")), Ok(Some("x-p/$(POD)".into())));
        for bad in ["$(NONE)", "$(UP)", "$(ABSOLUTE)", "a/$(UP)", "$(EMPTY)"] {
            assert!(matches!(of(None, Some(bad)), Err(Problem::Config(_))), "{bad}");
        }
        for bad in ["../x", "/etc", "a//b", "."] {
            assert!(of(Some(bad), None).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_shown_is_below_the_volume_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, target) = (dir.path().join("v"), dir.path().join("t/0"));
        fs::create_dir(&volume).unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        fs::write(volume.join("file"), "one").unwrap();
        symlink("/etc", volume.join("out")).unwrap();
        symlink("../secret", volume.join("up")).unwrap();
        symlink("nowhere", volume.join("dangling")).unwrap();
        symlink("file", volume.join("inside")).unwrap();
        for bad in ["out", "out/passwd", "out/new", "up", "up/new", "file/new", "dangling/x"] {
            assert!(bind(&volume, bad, &target).is_err(), "{bad}");
        }
        assert!(!Path::new("/etc/new").exists());
        bind(&volume, "inside", &target).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "one");
        // Replaced as an atomic update does it: the mount keeps what it showed.
        fs::write(volume.join("other"), "two").unwrap();
        fs::rename(volume.join("other"), volume.join("file")).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "one");
        bind(&volume, "inside", &target).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "two");
        // From a file to a directory, which is created.
        bind(&volume, "new/deep", &target).unwrap();
        fs::write(target.join("x"), "").unwrap();
        assert!(volume.join("new/deep/x").exists());
        mounts::remove_tree(&dir.path().join("t")).unwrap();
        assert!(volume.join("new/deep/x").exists(), "the removal of the mount spares the volume");
    }
}
