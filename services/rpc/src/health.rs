//! Health and reflection, which every server of this crate has.

use skerry_common::drain;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::descriptors;
use crate::error::BindError;
use crate::policy::{Caller, Policy};

/// Says to `grpc.health.v1` whether the services of a server are serving. Cheap to clone.
///
/// All services are serving from the start; a service that has to load first calls
/// [`Health::set_all`] with `false` before [`crate::Bound::serve`].
#[derive(Debug, Clone)]
pub struct Health {
    reporter: HealthReporter,
    services: Vec<String>,
}

impl Health {
    pub(crate) async fn new(policy: &Policy) -> Self {
        let services = policy.services().into_iter().map(str::to_owned).collect();
        let health = Self { reporter: HealthReporter::new(), services };
        health.set_all(true).await;
        health
    }

    /// Sets one service, by its full name.
    pub async fn set(&self, service: &str, serving: bool) {
        // Names from elsewhere would grow the table.
        if self.services.iter().any(|known| known == service) {
            self.reporter.set_service_status(service, status(serving)).await;
        }
    }

    /// Sets all services and the server as a whole.
    pub async fn set_all(&self, serving: bool) {
        for service in &self.services {
            self.reporter.set_service_status(service, status(serving)).await;
        }
        self.reporter.set_service_status("", status(serving)).await;
    }

    /// Follows a readiness future: not serving until it resolves or the process stops.
    pub async fn serving_after(&self, ready: impl Future<Output = ()>, mut stop: drain::Watch) {
        self.set_all(false).await;
        tokio::select! {
            () = ready => self.set_all(true).await,
            _ = stop.stopped() => {}
        }
    }
}

fn status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

/// Adds health and reflection to the table: with a certificate, or on this machine.
pub(crate) fn allow(policy: Policy) -> Policy {
    let callers = [Caller::Node, Caller::AnyService, Caller::Local];
    [descriptors::HEALTH, descriptors::REFLECTION, descriptors::REFLECTION_ALPHA].into_iter().fold(
        policy,
        |policy, service| {
            // A server may open them further in its own table.
            if policy.services().contains(&service) { policy } else { policy.allow(service, &callers) }
        },
    )
}

/// Adds the two services themselves.
pub(crate) fn add(mut routes: Routes, health: &Health, policy: &Policy) -> Result<Routes, BindError> {
    routes = routes.add_service(HealthServer::new(HealthService::from_health_reporter(health.reporter.clone())));
    let services = policy.services();
    let builder = || -> Result<_, BindError> {
        let mut builder = tonic_reflection::server::Builder::configure()
            .include_reflection_service(false)
            .register_file_descriptor_set(descriptors::files_of(&services)?);
        for service in &services {
            builder = builder.with_service_name(*service);
        }
        Ok(builder)
    };
    let broken = |error| BindError::Descriptors(Box::new(error));
    Ok(routes
        .add_service(builder()?.build_v1().map_err(broken)?)
        .add_service(builder()?.build_v1alpha().map_err(broken)?))
}
