//! The socket that a mapper names: checked before anything is sent there.
//!
//! The path comes from another process and we may be root: it must be absolute, without `..`, below one of
//! the configured folders, and what is there must be a socket of the mapper's own user, no symbolic link.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

/// Longest path of a unix socket.
const MAX_PATH: usize = 107;
/// As some configurations write it.
const SCHEME: &str = "unix://";

/// The path in `MapperInfo.address`.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn parse(address: &[u8], dirs: &[PathBuf]) -> Result<PathBuf, String> {
    let text = std::str::from_utf8(address).map_err(|_| "the mapper's address is not text".to_owned())?;
    let text = text.strip_prefix(SCHEME).unwrap_or(text);
    let path = Path::new(text);
    if !path.is_absolute() || text.len() > MAX_PATH || text.contains('\0') {
        return Err(format!(
            "the mapper's address {text:?} must be the absolute path of its socket, of at most {MAX_PATH} bytes"
        ));
    }
    if path.components().any(|part| !matches!(part, Component::RootDir | Component::Normal(_))) {
        return Err(format!("the mapper's address {text:?} must not hold '..'"));
    }
    if !dirs.iter().any(|dir| path.starts_with(dir) && path != dir) {
        let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        return Err(format!(
            "the mapper's address {text:?} must be below {}; see dmi.mapperSocketDirs",
            dirs.join(" or ")
        ));
    }
    Ok(path.to_owned())
}

/// What is at the path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum There {
    /// Nothing: the mapper has not come so far, or has ended.
    Nothing,
    /// The socket, with its inode.
    Socket(u64),
    /// Something that must not be used, and why.
    Wrong(String),
}

/// Looks at the path. The mapper runs as `uid`.
pub(super) fn look(path: &Path, uid: u32) -> There {
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => There::Nothing,
        Err(error) => There::Wrong(format!("cannot look at the mapper's socket {shown}: {error}")),
        Ok(meta) if !meta.file_type().is_socket() => There::Wrong(format!("{shown} is not a socket")),
        Ok(meta) if meta.uid() != uid && uid != 0 => {
            There::Wrong(format!("the socket {shown} is of the user {}, the mapper runs as {uid}", meta.uid()))
        }
        Ok(meta) => There::Socket(meta.ino()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_paths_below_the_folders() {
        let dirs = [PathBuf::from("/etc/kubeedge"), PathBuf::from("/run")];
        let ok = |address: &str| parse(address.as_bytes(), &dirs);
        assert_eq!(ok("/etc/kubeedge/modbus.sock").unwrap(), PathBuf::from("/etc/kubeedge/modbus.sock"));
        assert_eq!(ok("unix:///run/m/x.sock").unwrap(), PathBuf::from("/run/m/x.sock"));
        for bad in [
            "",
            "x.sock",
            "/tmp/x.sock",
            "/etc/kubeedge",
            "/etc/kubeedge/../shadow",
            "/etc/kubeedge/../../run/x",
            "/etc/kubeedgex/x.sock",
            "tcp://1.2.3.4:5",
            "/run/a\0b",
            &format!("/run/{}", "x".repeat(103)),
        ] {
            assert!(ok(bad).is_err(), "{bad:?}");
        }
        assert!(parse(b"/run/\xff", &dirs).is_err());
    }

    #[test]
    fn what_is_there_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, link, file) = (dir.path().join("s"), dir.path().join("l"), dir.path().join("f"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        std::fs::write(&file, "").unwrap();
        let own = nix::unistd::geteuid().as_raw();
        assert!(matches!(look(&socket, own), There::Socket(inode) if inode > 0));
        assert_eq!(look(&dir.path().join("none"), own), There::Nothing);
        for (path, uid) in [(&link, own), (&file, own), (&socket, own + 1)] {
            assert!(matches!(look(path, uid), There::Wrong(_)), "{path:?} {uid}");
        }
    }
}
