//! What the store needs from the file system besides the database itself.
//!
//! - a lock file, so that there is one owner;
//! - a probe at start: a network or read-only file system breaks the log silently;
//! - the ballast: a file that is removed when the disk is full, so that deletions find room;
//! - the epoch file: how often the database was opened. It lets a start notice that an older copy of
//!   the database was put in its place, because the copy remembers fewer openings.
//!
//! All names are the database's with a suffix. Called at start and by the writer thread.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{FsType, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC};

use crate::StoreError;

/// CIFS, and SMB version 2 and newer; the library has no names for them.
const CIFS_MAGIC_NUMBER: FsType = FsType(0xff53_4d42);
const SMB2_MAGIC_NUMBER: FsType = FsType(0xfe53_4d42);

/// Longest accepted epoch file.
const MAX_EPOCH_TEXT: u64 = 32;

/// The database's path with a suffix.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The directory of the database.
pub(crate) fn directory(database: &Path) -> &Path {
    match database.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Takes the store's lock; it is held as long as the file is open.
pub(crate) fn lock(database: &Path) -> Result<File, StoreError> {
    let path = beside(database, ".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| StoreError::io("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path }),
        Err(TryLockError::Error(source)) => Err(StoreError::io("lock", &path, source)),
    }
}

/// Whether the directory can hold the store: local, and what is written and synced can be read back.
pub(crate) fn probe(database: &Path) -> Result<(), StoreError> {
    let directory = directory(database);
    let unsuitable = |reason: String| StoreError::Unsuitable { path: directory.to_owned(), reason };
    if let Ok(stat) = nix::sys::statfs::statfs(directory) {
        let kind = stat.filesystem_type();
        if [NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, CIFS_MAGIC_NUMBER, SMB2_MAGIC_NUMBER].contains(&kind) {
            return Err(unsuitable("it is on a network file system".into()));
        }
    }
    let path = beside(database, ".probe");
    let pattern = b"skerry probe: written, synced, read back";
    let written = (|| {
        let mut file = OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(&path)?;
        file.write_all(pattern)?;
        file.sync_all()?;
        file.rewind()?;
        let mut back = Vec::new();
        file.take(4096).read_to_end(&mut back)?;
        Ok::<_, io::Error>(back)
    })();
    let _ = std::fs::remove_file(&path);
    match written {
        Ok(back) if back == pattern => Ok(()),
        Ok(_) => Err(unsuitable("what was written is not read back".into())),
        // A full disk is handled later, with the ballast.
        Err(error) if is_full(&error) => Ok(()),
        Err(error) => Err(unsuitable(format!("writing and syncing a file fails: {error}"))),
    }
}

/// Whether an error means that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The ballast file.
#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    pub(crate) fn new(database: &Path, bytes: u64) -> Self {
        Self { path: beside(database, ".ballast"), bytes }
    }

    /// Gives its room back.
    pub(crate) fn release(&self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "cannot release the ballast");
        }
    }

    /// Whether there is room again: twice the ballast, so that the next write does not fail at once.
    /// Then the ballast is in place.
    pub(crate) fn restore(&self) -> bool {
        if std::fs::metadata(&self.path).is_ok_and(|found| found.len() == self.bytes) && self.bytes > 0 {
            return true;
        }
        match self.try_restore() {
            Ok(()) => true,
            Err(error) => {
                self.release();
                let full = is_full(&error);
                if !full {
                    tracing::warn!(%error, path = %self.path.display(), "cannot make the ballast; going on without it");
                }
                !full
            }
        }
    }

    fn try_restore(&self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&self.path)?;
        let wanted = self.bytes.max(MIN_HEADROOM).saturating_mul(2);
        // Blocks are reserved, not only the length set. Where that is not possible they are written.
        match nix::fcntl::posix_fallocate(&file, 0, i64::try_from(wanted).unwrap_or(i64::MAX)).map_err(io::Error::from)
        {
            Err(error) if is_full(&error) => return Err(error),
            Err(_) => {
                io::copy(&mut io::repeat(0x5a).take(wanted), &mut &file)?;
            }
            Ok(()) => {}
        }
        file.set_len(self.bytes)?;
        file.sync_all()?;
        if self.bytes == 0 {
            self.release();
        }
        Ok(())
    }
}

/// Room that must be there before the disk counts as not full, in bytes, also without a ballast.
const MIN_HEADROOM: u64 = 256 * 1024;

/// How often the database had been opened at the last start, as the file beside it says.
pub(crate) fn read_epoch(database: &Path) -> Option<u64> {
    let file = File::open(beside(database, ".epoch")).ok()?;
    let mut text = String::new();
    file.take(MAX_EPOCH_TEXT).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Writes the epoch file durably. A failure only weakens the check of the next start, so it is logged.
pub(crate) fn write_epoch(database: &Path, epoch: u64) {
    let path = beside(database, ".epoch");
    let temporary = beside(database, ".epoch.tmp");
    let written = (|| {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{epoch}")?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        sync_directory(database)
    })();
    if let Err(error) = written {
        tracing::warn!(%error, path = %path.display(), "cannot write the epoch of the store");
    }
}

/// Makes renames and new files of the database's directory durable.
pub(crate) fn sync_directory(database: &Path) -> io::Result<()> {
    File::open(directory(database))?.sync_all()
}
