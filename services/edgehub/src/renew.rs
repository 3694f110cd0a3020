//! Renews the node's certificate over the connection that it has.
//!
//! At two thirds of its life, with jitter, a new key is made and a certificate asked for it. The new
//! pair is on disk before it is used. A failed attempt keeps the old pair and is repeated; connections
//! that are open stay.

use std::sync::Arc;
use std::time::Duration;

use skerry_common::{Backoff, chain};
use skerry_identity::{CredentialPublisher, CredentialStore, CredentialWatch, Credentials, NodeKey, renew_at};
use skerry_proto::identity::v1 as pb;
use skerry_proto::identity::v1::identity_client::IdentityClient;

use crate::metrics::Metrics;
use crate::uplink::Session;

/// Waits between attempts.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(150);

/// How often the time is looked at: the wall clock may jump, and a sleep would not notice.
const LOOK: Duration = Duration::from_secs(10);

/// How long the hub may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What renewing needs.
pub(crate) struct Renewal {
    pub(crate) store: CredentialStore,
    pub(crate) publisher: Arc<CredentialPublisher>,
    pub(crate) watch: CredentialWatch,
    pub(crate) metrics: Metrics,
    /// Drawn once, so that nodes which joined together do not renew together.
    pub(crate) jitter: f64,
}

impl Renewal {
    /// Renews whenever it is time, as long as the session lasts.
    pub(crate) async fn run(&self, session: &Session) -> std::convert::Infallible {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(current) = self.watch.current() else { continue };
            let now = self.watch.clock().now();
            self.metrics.certificate_seconds_left.set(current.seconds_left(now));
            let info = current.info();
            if now < renew_at(info.not_before, info.not_after, self.jitter) {
                continue;
            }
            match self.renew(session).await {
                Ok(()) => {
                    tracing::info!("certificate renewed");
                    backoff.reset();
                }
                Err(reason) => {
                    self.metrics.renewals_failed.inc();
                    tracing::warn!(reason, seconds_left = current.seconds_left(now), "certificate not renewed");
                    tokio::time::sleep(backoff.jittered()).await;
                }
            }
        }
    }

    async fn renew(&self, session: &Session) -> Result<(), String> {
        let key = NodeKey::generate().map_err(|error| chain(&error))?;
        let csr_der = key.csr().map_err(|error| chain(&error))?;
        let request = skerry_rpc::deadline(pb::RenewRequest { csr_der }, TIMEOUT);
        let response =
            IdentityClient::new(session.channel()).renew(request).await.map_err(|s| s.message().to_owned())?;
        let certificate = response.into_inner().certificate.ok_or("the hub sent no certificate")?;
        let credentials = Credentials::from_answer(&certificate.chain_pem, &certificate.ca_pem, &key)
            .map_err(|error| chain(&error))?;
        let store = self.store.clone();
        let save = tokio::task::spawn_blocking(move || store.save(&credentials).map(|_| credentials));
        let credentials = save.await.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
        self.publisher.publish(credentials).map_err(|error| chain(&error))?;
        Ok(())
    }
}
