//! One request: may the caller, what is it, do it.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use skerry_identity::NodeCaller;

use super::answer::{Answer, text};
use super::find::Refusal;
use super::route::{NoRoute, Route, access, route};
use super::{auth, logs, pods, stream};
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

/// The requests of one connection.
#[derive(Clone)]
pub(super) struct Handler {
    context: Arc<Context>,
    caller: Option<NodeCaller>,
    upgraded: Upgraded,
}

impl Handler {
    pub(super) fn new(context: Arc<Context>, caller: Option<NodeCaller>) -> Self {
        Self { context, caller, upgraded: Upgraded::default() }
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
        auth::check(self.caller.as_ref(), request.headers(), verb, subresource).await?;
        let found = match route(request.method(), request.uri().path()) {
            Ok(found) => found,
            Err(NoRoute::NotFound) => return Err(Refusal::new(StatusCode::NOT_FOUND, "404 page not found\n")),
            Err(NoRoute::Method(allowed)) => {
                let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
                answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
                return Ok(answer);
            }
        };
        let context = &self.context;
        match found {
            Route::Healthz => Ok(text(StatusCode::OK, "ok")),
            Route::Pods => Ok(pods::wanted(context).await),
            Route::RunningPods => pods::running(context).await,
            Route::ContainerLogs(path) => logs::serve(context, &path, request.uri().query().unwrap_or("")).await,
            Route::Exec(path) => stream::exec(context, &path, request, &self.upgraded).await,
            Route::Attach(path) => stream::attach(context, &path, request, &self.upgraded).await,
            Route::PortForward(path) => stream::port_forward(context, &path, request, &self.upgraded).await,
        }
    }
}
