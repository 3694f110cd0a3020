//! One request: may the caller, what is it, do it.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use skerry_identity::NodeCaller;
use skerry_rpc::Channel;

use super::answer::{Answer, text};
use super::find::Refusal;
use super::reviews::Reviews;
use super::route::{NoRoute, Route, access, route};
use super::{auth, logs, measured, pods, run, stream};
use crate::config::Config;
use crate::context::Context;

/// A stream that begins when its request has been answered.
type Job = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a handler leaves the stream of an upgraded connection, for the connection's task to run.
#[derive(Clone, Default)]
pub(super) struct Upgraded(Arc<Mutex<Option<Job>>>);

impl Upgraded {
    /// There is at most one: after it the connection is no HTTP any more.
    pub(super) fn leave(&self, job: impl Future<Output = ()> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(job));
    }

    pub(super) async fn run(self) {
        let job = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(job) = job {
            job.await;
        }
    }
}

/// What all requests share.
pub(crate) struct Shared {
    pub(super) context: Arc<Context>,
    pub(super) reviews: Reviews,
    registry: skerry_telemetry::Registry,
    config: Config,
}

impl Shared {
    /// `channel` leads to EdgeHub, for questions to the cloud.
    pub(crate) fn new(
        context: Arc<Context>,
        channel: Channel,
        registry: skerry_telemetry::Registry,
        config: Config,
    ) -> Self {
        Self { context, reviews: Reviews::new(channel), registry, config }
    }
}

/// The requests of one connection.
#[derive(Clone)]
pub(super) struct Handler {
    shared: Arc<Shared>,
    caller: Option<NodeCaller>,
    upgraded: Upgraded,
}

impl Handler {
    pub(super) fn new(shared: Arc<Shared>, caller: Option<NodeCaller>) -> Self {
        Self { shared, caller, upgraded: Upgraded::default() }
    }

    pub(super) fn upgraded(&self) -> Upgraded {
        self.upgraded.clone()
    }

    pub(super) async fn handle(&self, request: Request<Incoming>) -> Answer {
        match self.answer(request).await {
            Ok(answer) => answer,
            Err(Refusal { status, text: why }) => text(status, why),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let (verb, subresource) = access(request.method(), request.uri().path());
        auth::check(&self.shared.reviews, self.caller.as_ref(), request.headers(), verb, subresource).await?;
        let found = match route(request.method(), request.uri().path()) {
            Ok(found) => found,
            Err(NoRoute::NotFound) => return Err(Refusal::new(StatusCode::NOT_FOUND, "404 page not found\n")),
            Err(NoRoute::Method(allowed)) => {
                let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
                answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
                return Ok(answer);
            }
        };
        let context = &self.shared.context;
        let query = request.uri().query().unwrap_or("").to_owned();
        match found {
            Route::Healthz => Ok(text(StatusCode::OK, "ok")),
            Route::Pods => Ok(pods::wanted(context).await),
            Route::RunningPods => pods::running(context).await,
            Route::ContainerLogs(path) => logs::serve(context, &path, &query).await,
            Route::Summary => measured::summary(context, &query).await,
            Route::Metrics => Ok(measured::metrics(self.shared.registry.encode())),
            Route::ResourceMetrics => measured::resource(context).await,
            Route::ContainerMetrics => measured::cadvisor(context).await,
            Route::ProbeMetrics => Ok(measured::probes(context)),
            Route::Configz => Ok(run::configz(&self.shared.config)),
            Route::Run(path) => run::run(context, &path, &query).await,
            Route::Exec(path) => stream::exec(context, &path, request, &self.upgraded).await,
            Route::Attach(path) => stream::attach(context, &path, request, &self.upgraded).await,
            Route::PortForward(path) => stream::port_forward(context, &path, request, &self.upgraded).await,
        }
    }
}
