//! A credential that somebody else keeps fresh in a folder.
//!
//! Used by services whose certificate is written by another one: the node's edged by edgehub, the hub and other cloud
//! services by edgecontroller or whoever issues it. The folder is looked at every [`LOOK`]; a credential that
//! is not good changes nothing. There may be none yet: the watch gets it when it is there.

use std::path::Path;
use std::time::Duration;

use crate::{CredentialOptions, CredentialPublisher, CredentialStore, CredentialWatch, IdentityError};

/// How often the folder is looked at: a renewal is hours ahead of the end.
const LOOK: Duration = Duration::from_secs(30);
/// The same while there is nothing: somebody waits.
const LOOK_FIRST: Duration = Duration::from_millis(500);

/// See the module documentation.
#[derive(Debug)]
pub struct CredentialFolder {
    store: CredentialStore,
    publisher: CredentialPublisher,
    watch: CredentialWatch,
    generation: Option<u64>,
}

impl CredentialFolder {
    /// Opens the folder and reads what is there, which may be nothing. Blocks on the disk for a moment.
    ///
    /// # Errors
    /// When the folder cannot be made, or the cryptography cannot be set up.
    pub fn open(folder: &Path, options: CredentialOptions) -> Result<Self, IdentityError> {
        let store = CredentialStore::open(folder)?;
        let (publisher, watch) = CredentialWatch::channel(options)?;
        let mut opened = Self { store, publisher, watch, generation: None };
        let loaded = opened.store.load(opened.watch.trust_domain(), opened.watch.clock());
        for (path, error) in &loaded.rejected {
            tracing::warn!(path = %path.display(), error = skerry_common::chain(error), "credentials not usable");
        }
        opened.take(loaded);
        Ok(opened)
    }

    /// Where the credential shows up.
    pub fn watch(&self) -> CredentialWatch {
        self.watch.clone()
    }

    /// Follows the folder until it is dropped.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(if self.generation.is_none() { LOOK_FIRST } else { LOOK }).await;
            let (store, watch) = (self.store.clone(), self.watch.clone());
            let load = move || store.load(watch.trust_domain(), watch.clock());
            if let Ok(loaded) = tokio::task::spawn_blocking(load).await {
                self.take(loaded);
            }
        }
    }

    fn take(&mut self, loaded: crate::Loaded) {
        let Some((found, generation, _)) = loaded.newest else { return };
        if self.generation == Some(generation) {
            return;
        }
        match self.publisher.publish(found) {
            Ok(identity) => {
                self.generation = Some(generation);
                tracing::info!(%identity, generation, "credentials read");
            }
            Err(error) => {
                tracing::error!(error = skerry_common::chain(&error), "new credentials not usable, keeping the old");
            }
        }
    }
}
