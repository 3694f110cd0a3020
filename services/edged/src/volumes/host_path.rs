//! hostPath volumes: a path of the machine, checked or created as its type says.
//!
//! Called on a blocking thread. The path is absolute and free of `..`; whether a pod may use it at
//! all is the admission's business in the cloud.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use crate::env::Problem;

/// The path, if it can be one.
pub(super) fn checked(path: &str) -> Result<PathBuf, Problem> {
    let path = Path::new(path);
    if path.is_absolute() && !path.components().any(|c| c == Component::ParentDir) {
        Ok(path.to_owned())
    } else {
        Err(Problem::Config(format!("the path {} must be absolute and without '..'", path.display())))
    }
}

/// Checks the type; the message is the kubelet's.
pub(super) fn check(path: &Path, kind: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("hostPath type check failed: {} is not a {what}", path.display()));
    let meta = fs::metadata(path).ok();
    let is = |test: &dyn Fn(&fs::Metadata) -> bool| meta.as_ref().is_some_and(test);
    match kind {
        "" => Ok(()),
        "Directory" if is(&fs::Metadata::is_dir) => Ok(()),
        "Directory" => wrong("directory"),
        "DirectoryOrCreate" if is(&fs::Metadata::is_dir) => Ok(()),
        "DirectoryOrCreate" if meta.is_some() => wrong("directory"),
        "DirectoryOrCreate" => fs::create_dir_all(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .map_err(|e| format!("hostPath type check failed: {}: {e}", path.display())),
        "File" if is(&fs::Metadata::is_file) => Ok(()),
        "File" => wrong("file"),
        "FileOrCreate" if is(&fs::Metadata::is_file) => Ok(()),
        "FileOrCreate" if meta.is_some() => wrong("file"),
        "FileOrCreate" => fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map(drop)
            .map_err(|e| format!("hostPath type check failed: {}: {e}", path.display())),
        "Socket" if is(&|m| m.file_type().is_socket()) => Ok(()),
        "Socket" => wrong("socket file"),
        "CharDevice" if is(&|m| m.file_type().is_char_device()) => Ok(()),
        "CharDevice" => wrong("character device"),
        "BlockDevice" if is(&|m| m.file_type().is_block_device()) => Ok(()),
        "BlockDevice" => wrong("block device"),
        other => Err(format!("hostPath type check failed: the type {other:?} is not known")),
    }
}
