//! The node's own key: random, made once, in a file that only its owner reads.
//!
//! Its public half is the PeerId that other nodes know this one by. A lost file means a new PeerId and a new record,
//! nothing else; so nothing is derived from the node's name, and nobody else can make the key. Called once, at start.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use libp2p::identity::Keypair;

use crate::KeyError;

/// An encoded ed25519 key has 68 bytes.
const MAX_KEY_FILE: u64 = 256;

/// The file belongs to its owner alone.
const MODE: u32 = 0o600;

/// Reads the key of `path`, or makes one there.
///
/// A new key is written to a file beside it first, so that a crash leaves either no key or a whole one.
///
/// # Errors
/// [`KeyError`]: the file cannot be read or written, others may read it, or it is no key.
pub(crate) fn load_or_create(path: &Path) -> Result<Keypair, KeyError> {
    let failed = |action| move |source| KeyError::Io { action, path: path.to_owned(), source };
    match File::open(path) {
        Ok(file) => read(path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = Keypair::generate_ed25519();
            let encoded = key.to_protobuf_encoding().map_err(|_| KeyError::Malformed { path: path.to_owned() })?;
            let fresh = path.with_extension(format!("{}.new", std::process::id()));
            let write = || {
                let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&fresh)?;
                file.write_all(&encoded)?;
                file.sync_all()?;
                std::fs::rename(&fresh, path)
            };
            write().map_err(failed("write"))?;
            Ok(key)
        }
        Err(error) => Err(failed("read")(error)),
    }
}

fn read(path: &Path, file: File) -> Result<Keypair, KeyError> {
    let failed = |source| KeyError::Io { action: "read", path: path.to_owned(), source };
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(KeyError::Readable { path: path.to_owned() });
    }
    let mut encoded = Vec::new();
    file.take(MAX_KEY_FILE).read_to_end(&mut encoded).map_err(failed)?;
    Keypair::from_protobuf_encoding(&encoded).map_err(|_| KeyError::Malformed { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.key");
        let made = load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(load_or_create(&path).unwrap().public(), made.public());
        let other = load_or_create(&folder.path().join("other.key")).unwrap();
        assert_ne!(other.public(), made.public(), "keys are random");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside them");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyError::Readable { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(MODE)).unwrap();
        std::fs::write(&path, b"no key").unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyError::Malformed { .. })), "and is not overwritten");
        assert!(matches!(load_or_create(&folder.path().join("none/x")), Err(KeyError::Io { .. })));
    }
}
