//! What dmi keeps on disk: overlays, mappers that are called, and the last values.
//!
//! A store of its own (`skerry-store`: one writer, group commit). Overlays and mappers are on disk when the
//! call returns; values are written at an interval. Limits: [`MAX_BYTES`]; when the disk is full a desired
//! value is refused, and values are not saved until there is room.

use std::collections::BTreeMap;
use std::path::Path;

use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skerry_common::Key;
use skerry_store::{Opened, Store, StoreError, StoreOptions};

use crate::error::Error;
use crate::fleet::{Caller, MapperId, SavedOverlay, SavedTwins};

/// Name of the file in its folder.
const FILE: &str = "dmi.db";
/// A thousand devices with a hundred properties each.
const MAX_BYTES: u64 = 64 << 20;
/// Rows written at a time: the store makes one transaction of them.
const AT_A_TIME: usize = 64;

const OVERLAYS: &str = "overlay";
const TWINS: &str = "twins";
const MAPPERS: &str = "mapper";

/// A v1beta1 mapper: it does not come again after our restart, so we call it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedMapper {
    pub(crate) id: MapperId,
    #[serde(default)]
    pub(crate) version: String,
    pub(crate) address: String,
    pub(crate) caller: Caller,
    /// Inode of its socket: another one is another run of the mapper, which knows nothing.
    #[serde(default)]
    pub(crate) inode: u64,
    /// The devices that it was told of, by `namespace/name`.
    #[serde(default)]
    pub(crate) devices: BTreeMap<String, ToldDevice>,
    /// Versions of the models that it was told of, likewise.
    #[serde(default)]
    pub(crate) models: BTreeMap<String, String>,
}

/// A device as a mapper was told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ToldDevice {
    pub(crate) version: String,
    /// Its model, `namespace/name`.
    pub(crate) model: String,
}

/// The key in a `namespace/name`.
pub(crate) fn key(name: &str) -> Option<Key> {
    let mut parts = name.splitn(3, '/');
    Key::checked(parts.next()?, parts.next()?).ok()
}

/// What was on disk.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) twins: BTreeMap<Key, SavedTwins>,
    pub(crate) overlays: BTreeMap<Key, Vec<SavedOverlay>>,
    pub(crate) mappers: Vec<SavedMapper>,
}

/// See the module documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Persist(Store);

impl Persist {
    /// Opens the store, and makes it when it is not there.
    ///
    /// # Errors
    /// See [`Error::Store`].
    pub(crate) async fn open(folder: &Path, telemetry: &skerry_telemetry::Registry) -> Result<Self, Error> {
        let metrics = telemetry.sub("dmi", skerry_store::Metrics::new);
        let options = StoreOptions { max_bytes: MAX_BYTES, metrics, ..StoreOptions::default() };
        let path = folder.join(FILE);
        let opened = tokio::task::spawn_blocking(move || Store::open(path, options)).await;
        let (store, opened) = opened.map_err(|_| Error::TaskEnded("store"))?.map_err(Error::Store)?;
        if let Opened::Recovered { reason } = opened {
            tracing::error!(reason, "the store of twins was damaged and begins anew");
        }
        Ok(Self(store))
    }

    /// Everything; rows that this version cannot read are left out and said.
    pub(crate) async fn load(&self) -> Result<Loaded, Error> {
        let mut loaded = Loaded::default();
        for (name, twins) in self.rows::<SavedTwins>(TWINS).await? {
            if let Some(key) = key(&name) {
                loaded.twins.insert(key, twins);
            }
        }
        for (name, overlay) in self.rows::<SavedOverlay>(OVERLAYS).await? {
            if let Some(key) = key(&name) {
                loaded.overlays.entry(key).or_default().push(overlay);
            }
        }
        loaded.mappers = self.rows(MAPPERS).await?.into_iter().map(|(_, mapper)| mapper).collect();
        Ok(loaded)
    }

    async fn rows<T: DeserializeOwned>(&self, scope: &str) -> Result<Vec<(String, T)>, Error> {
        let rows = self.0.list_checkpoints(scope).await.map_err(Error::Store)?;
        let read = rows.into_iter().filter_map(|(name, row)| match serde_json::from_slice(&row) {
            Ok(row) => Some((name, row)),
            Err(error) => {
                tracing::warn!(scope, name, %error, "a row cannot be read");
                None
            }
        });
        Ok(read.collect())
    }

    async fn put(&self, scope: &str, name: &str, row: &impl Serialize) -> Result<(), StoreError> {
        let row = serde_json::to_vec(row).unwrap_or_default();
        self.0.put_checkpoint(scope, name, row).await
    }

    /// Stores an overlay; it is durable when this returns.
    pub(crate) async fn put_overlay(&self, key: &Key, overlay: &SavedOverlay) -> Result<(), StoreError> {
        self.put(OVERLAYS, &format!("{key}/{}", overlay.property), overlay).await
    }

    /// Removes an overlay.
    pub(crate) async fn delete_overlay(&self, key: &Key, property: &str) -> Result<(), StoreError> {
        self.0.delete_checkpoint(OVERLAYS, &format!("{key}/{property}")).await
    }

    /// Stores twins. Returns the keys of those that could not be stored.
    pub(crate) async fn put_twins(&self, all: Vec<(Key, SavedTwins)>) -> Vec<(Key, StoreError)> {
        let put = |(key, twins): (Key, SavedTwins)| async move {
            let put = self.put(TWINS, &key.to_string(), &twins).await;
            put.err().map(|error| (key, error))
        };
        futures::stream::iter(all).map(put).buffer_unordered(AT_A_TIME).filter_map(std::future::ready).collect().await
    }

    /// Removes the twins of a device.
    pub(crate) async fn delete_twins(&self, key: &Key) -> Result<(), StoreError> {
        self.0.delete_checkpoint(TWINS, &key.to_string()).await
    }

    /// Stores a mapper.
    pub(crate) async fn put_mapper(&self, mapper: &SavedMapper) -> Result<(), StoreError> {
        self.put(MAPPERS, &mapper.id.to_string(), mapper).await
    }

    /// Removes a mapper.
    pub(crate) async fn delete_mapper(&self, id: &MapperId) -> Result<(), StoreError> {
        self.0.delete_checkpoint(MAPPERS, &id.to_string()).await
    }

    /// Waits until the store has failed.
    pub(crate) async fn failed(&self) -> Error {
        Error::Store(StoreError::Stopped { reason: self.0.failed().await })
    }

    /// Finishes what was sent and closes the file.
    pub(crate) async fn close(&self) {
        self.0.close().await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Bytes of all files of a folder.
    fn size(folder: &Path) -> u64 {
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
    }

    #[tokio::test]
    async fn what_is_saved_again_and_again_takes_no_more_room() {
        let folder = tempfile::tempdir().unwrap();
        let persist = Persist::open(folder.path(), &skerry_telemetry::Registry::new()).await.unwrap();
        let twins: SavedTwins = serde_json::from_value(serde_json::json!({
            "uid": "u", "state": "online", "twins": { "t": { "value": "x".repeat(1000) } },
        }))
        .unwrap();
        let all: Vec<_> = (0..50).map(|at| (Key::new("plant", format!("d{at}")), twins.clone())).collect();
        let mut after_some = 0;
        for checkpoint in 0..200 {
            assert!(persist.put_twins(all.clone()).await.is_empty());
            let overlay = SavedOverlay {
                uid: "u".into(),
                property: "t".into(),
                value: checkpoint.to_string(),
                base: "none".into(),
                id: checkpoint.to_string(),
                earlier: Vec::new(),
            };
            persist.put_overlay(&Key::new("plant", "d0"), &overlay).await.unwrap();
            if checkpoint == 50 {
                after_some = size(folder.path());
            }
        }
        assert!(size(folder.path()) <= after_some * 2, "{} bytes after {after_some}", size(folder.path()));
        let loaded = persist.load().await.unwrap();
        assert_eq!((loaded.twins.len(), loaded.overlays.len()), (50, 1));
        persist.close().await;
    }
}
