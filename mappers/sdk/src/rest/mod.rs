//! The REST API of a mapper, with the paths and the JSON of KubeEdge's mappers.
//!
//! Read: `GET /api/v1/device/{namespace}/{name}/{property}`. Write: `PUT` on the same path with a JSON value;
//! KubeEdge's path that writes by GET works only when it is switched on. It listens on this machine only unless
//! the configuration says otherwise, and beyond it writing needs a client certificate. Requests have a deadline,
//! bodies and headers a size, and connections a number.

mod handlers;
mod tls;

#[cfg(test)]
mod attack_tests;
#[cfg(test)]
mod tests;

pub(crate) use tls::Tls;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Rest;
use crate::engine::Plant;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::serve::{Listener, serve};

/// A server that is bound and does not serve yet.
pub(crate) struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    writes: handlers::Writes,
}

impl Bound {
    pub(crate) async fn bind(address: SocketAddr, options: &Rest) -> Result<Self, Error> {
        let tls = Tls::new(options)?.map(Arc::new);
        let bind = |source| Error::Bind { address: address.to_string(), source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let known = address.ip().is_loopback() || options.ca_file.is_some() || options.anonymous_writes;
        let writes = handlers::Writes { allowed: known, by_get: options.write_by_get };
        if !known {
            tracing::warn!(%address, "rest: writing is off, because clients beyond this machine have no certificates");
        }
        Ok(Self { listener, address, tls, writes })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn serve(self, plant: Arc<dyn Plant>, metrics: Metrics, stop: CancellationToken) {
        tracing::info!(address = %self.address, tls = self.tls.is_some(), "rest server listens");
        let router = handlers::router(plant, metrics.clone(), self.writes);
        serve(Listener::Tcp(self.listener, self.tls), router, metrics, stop).await;
    }
}
