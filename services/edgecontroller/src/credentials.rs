//! EdgeController's own certificate, and those that it keeps for services on the same machine.
//!
//! It holds the CA, so it issues them itself: at start, and again at two thirds of their life. Its own goes
//! to the listener over a watch; the others into a folder each, from which their services take them up.
//! One task. A failed write is tried again after [`RETRY`]; the old certificate is good for a third of its
//! life more, which the metric `cert_seconds_left` shows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use skerry_identity::{Ca, CredentialPublisher, CredentialStore, Credentials, renew_at};

use crate::error::ControllerError;
use crate::metrics::Metrics;
use crate::system::issue_service_credentials;

/// EdgeController's service name.
pub(crate) const SERVICE: &str = "edgecontroller";

/// Under which names and addresses the API server reaches a webhook: on the same machine, or as a Service.
const WEBHOOK_NAMES: [(&str, [&str; 3]); 1] =
    [("devicecontroller", ["localhost", "127.0.0.1", "devicecontroller.skerry-system.svc"])];

/// How soon a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// How often the metric is brought up to date.
const LOOK: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Keeper {
    pub(crate) ca: Arc<Ca>,
    pub(crate) own: CredentialPublisher,
    pub(crate) folders: BTreeMap<String, PathBuf>,
    pub(crate) metrics: Arc<Metrics>,
}

/// When to renew, and until when what there is lasts.
#[derive(Debug, Clone, Copy)]
struct Plan {
    renew: Timestamp,
    end: Timestamp,
}

impl Keeper {
    /// Issues everything once.
    pub(crate) fn issue(&self) -> Result<(), ControllerError> {
        self.issue_own()?;
        for (service, folder) in &self.folders {
            self.issue_folder(service, folder)?;
        }
        Ok(())
    }

    fn issue_own(&self) -> Result<Plan, ControllerError> {
        let credentials = issue_service_credentials(&self.ca, SERVICE, &[])?;
        let plan = plan(&credentials);
        self.own.publish(credentials).map_err(ControllerError::identity("cannot use the new certificate"))?;
        Ok(plan)
    }

    fn issue_folder(&self, service: &str, folder: &PathBuf) -> Result<(), ControllerError> {
        let names = WEBHOOK_NAMES.iter().filter(|(name, _)| *name == service).flat_map(|(_, names)| names);
        let names: Vec<String> = names.map(|&name| name.to_owned()).collect();
        let credentials = issue_service_credentials(&self.ca, service, &names)?;
        let store = CredentialStore::open(folder).map_err(ControllerError::identity("cannot open the folder"))?;
        store.save(&credentials).map_err(ControllerError::identity("cannot store the certificate"))?;
        tracing::info!(service, folder = %folder.display(), "certificate written");
        Ok(())
    }

    /// Renews until cancelled. All certificates are made at the same time and so renewed together.
    pub(crate) async fn run(self) {
        let mut plan = self.own.watch().current().as_deref().map(plan);
        loop {
            let now = Timestamp::now();
            if let Some(plan) = plan {
                #[expect(clippy::cast_precision_loss, reason = "seconds of a certificate's life are few")]
                self.metrics.certificates.set(plan.end.duration_since(now).as_secs() as f64);
            }
            if plan.is_none_or(|plan| now >= plan.renew) {
                let result = self.issue().map(|()| self.own.watch().current().as_deref().map(self::plan));
                match result {
                    Ok(next) => plan = next,
                    Err(error) => {
                        tracing::error!(error = skerry_common::chain(&error), "service certificates not renewed");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn plan(credentials: &Credentials) -> Plan {
    let info = credentials.info();
    Plan { renew: renew_at(info.not_before, info.not_after, rand::random()), end: info.not_after }
}
