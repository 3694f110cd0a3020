//! The slots when the power fails, files are torn, or the clock is wrong.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::{io, os::unix::fs::PermissionsExt, time::Duration};

use jiff::{SignedDuration, Timestamp};
use skerry_common::NodeName;

use super::*;
use crate::Ca;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct World {
    _dir: tempfile::TempDir,
    store: CredentialStore,
    ca: Ca,
    now: Timestamp,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let now = Clock::system().now();
    let ca = Ca::generate_at(&TrustDomain::default(), now).unwrap();
    World { store: CredentialStore::open(dir.path().join("pki")).unwrap(), _dir: dir, ca, now }
}

impl World {
    fn credentials(&self, at: Timestamp) -> Credentials {
        self.ca.node_credentials(&NodeName::parse("edge-1").unwrap(), DAY, at).unwrap()
    }

    fn load(&self) -> Loaded {
        self.store.load(&TrustDomain::default(), &Clock::manual(self.now))
    }

    fn fingerprint(&self) -> Option<String> {
        self.load().newest.map(|(credentials, ..)| credentials.info().fingerprint.clone())
    }
}

#[test]
fn what_was_saved_is_loaded_and_private() {
    let w = world();
    assert!(w.load().newest.is_none() && w.load().rejected.is_empty(), "first start");
    for generation in 1..=5 {
        let credentials = w.credentials(w.now);
        assert_eq!(w.store.save(&credentials).unwrap(), generation);
        let (loaded, found, identity) = w.load().newest.unwrap();
        assert_eq!((loaded.info(), found), (credentials.info(), generation));
        assert_eq!(identity.node().unwrap().as_str(), "edge-1");
    }
    for entry in std::fs::read_dir(&w.store.directory).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(std::fs::metadata(&w.store.directory).unwrap().permissions().mode() & 0o777, 0o700);
    w.store.clear().unwrap();
    assert!(w.load().newest.is_none());
}

#[test]
fn a_stop_before_any_step_leaves_a_usable_pair() {
    use Step::{Create, Rename, Sync, SyncDirectory, Write, WriteHalf};
    for stop in [Create, WriteHalf, Write, Sync, Rename, SyncDirectory] {
        for saved_before in 0..3 {
            let w = world();
            for _ in 0..saved_before {
                w.store.save(&w.credentials(w.now)).unwrap();
            }
            let old = w.fingerprint();
            let new = w.credentials(w.now);
            let mut reached = false;
            let result = w.store.save_stepwise(&new, &mut |step| {
                if step == stop {
                    reached = true;
                    return Err(io::Error::other("power cut"));
                }
                Ok(())
            });
            assert!(result.is_err() && reached, "{stop:?} was really injected");
            let expected = if stop == SyncDirectory { Some(new.info().fingerprint.clone()) } else { old };
            assert_eq!(w.fingerprint(), expected, "stopped before {stop:?} after {saved_before} saves");
            // The next renewal works and is the newest.
            let next = w.credentials(w.now);
            w.store.save(&next).unwrap();
            assert_eq!(w.fingerprint(), Some(next.info().fingerprint.clone()));
        }
    }
}

#[test]
fn a_torn_or_changed_newest_file_falls_back_to_the_older_slot() {
    let w = world();
    w.store.save(&w.credentials(w.now)).unwrap();
    let old = w.fingerprint();
    w.store.save(&w.credentials(w.now)).unwrap();
    let newest = w.store.directory.join(SLOTS[0]);
    let newest = if std::fs::read_to_string(&newest).unwrap().contains("generation 2") {
        newest
    } else {
        w.store.directory.join(SLOTS[1])
    };
    let good = std::fs::read(&newest).unwrap();
    let step = (good.len() / 60).max(1);
    for at in (0..good.len()).step_by(step) {
        std::fs::write(&newest, &good[..at]).unwrap();
        assert_eq!(w.fingerprint(), old, "torn after {at} bytes");
        let mut flipped = good.clone();
        flipped[at] ^= 4;
        std::fs::write(&newest, &flipped).unwrap();
        assert_eq!(w.fingerprint(), old, "bit flipped at {at}");
        assert_eq!(w.load().rejected.len(), 1, "it is told");
    }
    // The damaged slot is the one that is written next.
    let next = w.credentials(w.now);
    w.store.save(&next).unwrap();
    assert_eq!(w.fingerprint(), Some(next.info().fingerprint.clone()));
    assert!(w.load().rejected.is_empty());
}

#[test]
fn the_newest_valid_slot_wins_over_a_newer_expired_one() {
    let w = world();
    let good = w.credentials(w.now);
    w.store.save(&good).unwrap();
    w.store.save(&w.credentials(w.now - SignedDuration::from_hours(23))).unwrap();
    let later = Clock::manual(w.now + SignedDuration::from_hours(2));
    let loaded = w.store.load(&TrustDomain::default(), &later);
    assert_eq!(loaded.newest.unwrap().0.info(), good.info());
    assert!(matches!(loaded.rejected.as_slice(), [(_, IdentityError::Expired { .. })]));
}

#[test]
fn a_pair_that_does_not_match_is_never_loaded() {
    let w = world();
    let (a, b) = (w.credentials(w.now), w.credentials(w.now));
    let body = format!("{}{}{}", a.chain_pem(), b.key_pem(), a.ca().pem());
    let sum = sha256_hex(format!("9\n{body}").as_bytes());
    std::fs::write(w.store.directory.join(SLOTS[0]), format!("{TITLE}9\n{CHECKSUM}{sum}\n{body}")).unwrap();
    let loaded = w.load();
    assert!(loaded.newest.is_none());
    assert!(matches!(loaded.rejected.as_slice(), [(_, IdentityError::KeyMismatch)]));
}

#[test]
fn a_clock_in_1970_is_lifted_by_the_stored_certificate() {
    let w = world();
    w.store.save(&w.credentials(w.now)).unwrap();
    let clock = Clock::manual(Timestamp::UNIX_EPOCH);
    let loaded = w.store.load(&TrustDomain::default(), &clock);
    let (credentials, ..) = loaded.newest.unwrap();
    assert_eq!(clock.now(), credentials.info().not_before);
    // And a certificate that ended before the floor stays refused.
    let late = Clock::manual(Timestamp::UNIX_EPOCH);
    late.raise(w.now + SignedDuration::from_hours(25));
    assert!(w.store.load(&TrustDomain::default(), &late).newest.is_none());
}
