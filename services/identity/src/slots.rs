//! Credentials on disk, so that a power cut at any instant leaves a usable pair.
//!
//! A credential is one file: chain, key and CAs together with a generation number and a checksum. There
//! are two such files, the slots; a save goes to the slot that does not hold the newest one, and
//! becomes visible by a rename: temporary file → write → fsync → rename → fsync of the directory. A
//! load takes the newest slot whose checksum, pair, chain and life are good. Owned by one task; the
//! calls block on the disk for milliseconds, so call them from a blocking task.
//!
//! When the disk is full or fails, [`CredentialStore::save`] returns the error and the slots are as
//! before. Files are 0600 in a directory of 0700.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{Clock, Credentials, Identity, IdentityError, TrustDomain, cert::sha256_hex, pem::MAX_PEM};

const SLOTS: [&str; 2] = ["credentials.a.pem", "credentials.b.pem"];
const TEMPORARY: &str = "credentials.tmp";
const TITLE: &str = "# skerry credentials, generation ";
const CHECKSUM: &str = "# sha256 ";
const KEY_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const KEY_END: &str = "-----END PRIVATE KEY-----";

/// The directory that holds a node's or service's credentials.
#[derive(Clone, Debug)]
pub struct CredentialStore {
    directory: PathBuf,
}

/// What a start found on disk.
#[derive(Debug)]
pub struct Loaded {
    /// The newest good credential, its generation, and who it names. `None`: join first, or again.
    pub newest: Option<(Credentials, u64, Identity)>,
    /// Slots that exist but cannot be used, and why. Log them.
    pub rejected: Vec<(PathBuf, IdentityError)>,
}

/// The instants between which a power cut may fall; tests fail at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    WriteHalf,
    Write,
    Sync,
    Rename,
    SyncDirectory,
}

impl CredentialStore {
    /// Uses `directory`, and makes it when it is not there.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, IdentityError> {
        let directory = directory.into();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| io_error("create", &directory, source))?;
        Ok(Self { directory })
    }

    /// The newest credential that is good now. A slot's own start of life raises the clock's floor: it
    /// was accepted once, so that time has passed.
    pub fn load(&self, trust_domain: &TrustDomain, clock: &Clock) -> Loaded {
        let mut rejected = Vec::new();
        let mut found = Vec::new();
        for slot in SLOTS {
            let path = self.directory.join(slot);
            let read = read_slot(&path).and_then(|slot| match slot {
                None => Ok(None),
                Some((generation, credentials)) => {
                    let start = credentials.info().not_before;
                    credentials.verify_chain(start)?;
                    clock.raise(start);
                    Ok(Some((generation, credentials)))
                }
            });
            match read {
                Ok(None) => {}
                Ok(Some((generation, credentials))) => found.push((generation, credentials, path)),
                Err(error) => rejected.push((path, error)),
            }
        }
        found.sort_by_key(|(generation, ..)| std::cmp::Reverse(*generation));
        let mut newest = None;
        for (generation, credentials, path) in found {
            match credentials.validate(trust_domain, clock.now()) {
                Ok(identity) if newest.is_none() => newest = Some((credentials, generation, identity)),
                Ok(_) => {}
                Err(error) => rejected.push((path, error)),
            }
        }
        Loaded { newest, rejected }
    }

    /// Stores a credential durably and returns its generation.
    ///
    /// # Errors
    /// [`IdentityError::Io`]; what was stored before is untouched.
    pub fn save(&self, credentials: &Credentials) -> Result<u64, IdentityError> {
        self.save_stepwise(credentials, &mut |_| Ok(()))
    }

    /// Removes both slots; for leaving an installation.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn clear(&self) -> Result<(), IdentityError> {
        for name in SLOTS.into_iter().chain([TEMPORARY]) {
            let path = self.directory.join(name);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path, source));
                }
                _ => {}
            }
        }
        self.sync_directory()
    }

    fn save_stepwise(
        &self,
        credentials: &Credentials,
        before: &mut dyn FnMut(Step) -> io::Result<()>,
    ) -> Result<u64, IdentityError> {
        let [first, second] = SLOTS.map(|slot| self.directory.join(slot));
        let generation_of = |path: &Path| read_slot(path).ok().flatten().map_or(0, |(generation, _)| generation);
        let (in_first, in_second) = (generation_of(&first), generation_of(&second));
        // A damaged slot counts as generation 0, so it is overwritten before a good one.
        let (target, newest) = if in_first > in_second { (second, in_first) } else { (first, in_second) };
        let generation = newest.saturating_add(1);
        let temporary = self.directory.join(TEMPORARY);
        let text = encode(generation, credentials);
        let (half, rest) = text.as_bytes().split_at(text.len() / 2);

        let failed = |action, source| io_error(action, &temporary, source);
        before(Step::Create).map_err(|e| failed("create", e))?;
        // Removed first, so that nobody who held it open before can read the new key.
        match std::fs::remove_file(&temporary) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed("remove", source)),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|e| failed("create", e))?;
        before(Step::WriteHalf).and_then(|()| file.write_all(half)).map_err(|e| failed("write", e))?;
        before(Step::Write).and_then(|()| file.write_all(rest)).map_err(|e| failed("write", e))?;
        before(Step::Sync).and_then(|()| file.sync_all()).map_err(|e| failed("sync", e))?;
        before(Step::Rename)
            .and_then(|()| std::fs::rename(&temporary, &target))
            .map_err(|e| io_error("rename to", &target, e))?;
        before(Step::SyncDirectory).map_err(|e| io_error("sync", &self.directory, e))?;
        self.sync_directory()?;
        Ok(generation)
    }

    fn sync_directory(&self) -> Result<(), IdentityError> {
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| io_error("sync", &self.directory, source))
    }
}

fn encode(generation: u64, credentials: &Credentials) -> String {
    let body = format!("{}{}{}", credentials.chain_pem(), credentials.key_pem(), credentials.ca().pem());
    // The checksum covers the generation too: a flipped digit must not make an old pair the newest.
    let sum = sha256_hex(format!("{generation}\n{body}").as_bytes());
    format!("{TITLE}{generation}\n{CHECKSUM}{sum}\n{body}")
}

fn read_slot(path: &Path) -> Result<Option<(u64, Credentials)>, IdentityError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("open", path, source)),
    };
    let mut text = String::new();
    let limit = u64::try_from(MAX_PEM).unwrap_or(u64::MAX);
    match file.take(limit).read_to_string(&mut text) {
        Ok(_) => decode(&text).map(Some),
        Err(source) if source.kind() == io::ErrorKind::InvalidData => {
            Err(IdentityError::Malformed { what: "credential file" })
        }
        Err(source) => Err(io_error("read", path, source)),
    }
}

fn decode(text: &str) -> Result<(u64, Credentials), IdentityError> {
    let malformed = || IdentityError::Malformed { what: "credential file" };
    let (title, rest) = text.split_once('\n').ok_or_else(malformed)?;
    let (sum, body) = rest.split_once('\n').ok_or_else(malformed)?;
    let generation: u64 = title.strip_prefix(TITLE).and_then(|n| n.parse().ok()).ok_or_else(malformed)?;
    let sum = sum.strip_prefix(CHECKSUM).ok_or_else(malformed)?;
    if sum != sha256_hex(format!("{generation}\n{body}").as_bytes()) {
        return Err(malformed());
    }
    let (chain, rest) = body.split_once(KEY_BEGIN).ok_or_else(malformed)?;
    let (key, cas) = rest.split_once(KEY_END).ok_or_else(malformed)?;
    let key = format!("{KEY_BEGIN}{key}{KEY_END}\n");
    Ok((generation, Credentials::from_pem(chain, &key, cas)?))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
