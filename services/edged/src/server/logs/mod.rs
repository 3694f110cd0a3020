//! `/containerLogs`: the log of one container, as the runtime writes it, to a client.
//!
//! [`options`] reads what is wanted, [`lines`] turns the runtime's format into what the client sees,
//! [`follow`] reads the file. A log is read while it is sent: memory is a buffer and a line. The task of a
//! stream ends with the client, with the container, or with the options' limits.

mod follow;
mod lines;
mod options;

use std::path::PathBuf;
use std::sync::Arc;

use http::StatusCode;
use skerry_proto::cri::v1::{Container, ContainerState};
use tokio::sync::mpsc;

use super::answer::{Answer, streamed};
use super::find::{self, Refusal, Spec};
use super::route::ContainerPath;
use crate::context::Context;
use crate::pod::checkpoint;
use crate::pod::spec::PodExt as _;
use crate::volumes::PodDir;
use follow::Reader;
use options::Options;

/// Chunks of a log that wait for a slow client.
const CHUNKS: usize = 4;

/// Answers with the log.
pub(super) async fn serve(context: &Arc<Context>, path: &ContainerPath, query: &str) -> Result<Answer, Refusal> {
    let options = Options::parse(query, jiff::Timestamp::now())?;
    let missing = |text: String| Refusal::new(StatusCode::NOT_FOUND, text);
    let name = &path.pod.name;
    let pod = find::pod(context, &path.pod).ok_or_else(|| missing(format!("pod {name:?} does not exist")))?;
    let spec = find::spec(&pod, &path.container)
        .ok_or_else(|| missing(format!("container {:?} not found in pod {name:?}", path.container)))?;
    let id = pick(context, &spec, options.previous).await?;
    let status = context.cri.container_status(&id).await?.and_then(|reply| reply.status);
    let status = status.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "the container is gone"))?;
    let file = PathBuf::from(&status.log_path);
    // The runtime was given this path; anything else is not ours to read.
    if status.log_path.is_empty() || !file.starts_with(&context.log_dir) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("no log of container {:?}", path.container)));
    }
    let full = || Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many open streams on this node");
    let open = context.streams.open("logs").ok_or_else(full)?;
    let reader = Reader::open(file, &options).await.map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("failed to open the log of {:?}: {error}", path.container))
    })?;
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    let cri = context.cri.clone();
    tokio::spawn(async move {
        reader.run(&options, &cri, &id, &chunks).await;
        drop(open);
    });
    Ok(streamed(receiver))
}

/// The container whose log is meant: running or ended last, or the one before.
async fn pick(context: &Context, spec: &Spec, previous: bool) -> Result<String, Refusal> {
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
    let (pod, name) = (spec.pod.name(), &spec.container);
    let found = find::containers(context, &spec.pod, name).await?;
    let ended = |c: &Container| c.state == ContainerState::ContainerExited as i32;
    let started = |c: &Container| c.state != ContainerState::ContainerCreated as i32;
    if previous {
        // What runs now, or would, is not the previous one.
        let before = found.iter().skip(1).find(|c| ended(c));
        let none = || bad(format!("previous terminated container {name:?} in pod {pod:?} not found"));
        return before.map(|c| c.id.clone()).ok_or_else(none);
    }
    if let Some(newest) = found.iter().find(|c| started(c)) {
        return Ok(newest.id.clone());
    }
    let dir = PodDir::new(&context.root, spec.pod.uid());
    let status = tokio::task::spawn_blocking(move || checkpoint::load(&dir)).await.ok().flatten().unwrap_or_default();
    let all = [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
    let mut all = all.into_iter().flatten().flatten();
    let waiting = all.find(|c| c.name == *name).and_then(|c| c.state?.waiting?.reason);
    Err(bad(match waiting.as_deref() {
        Some("ErrImagePull") => {
            format!("container {name:?} in pod {pod:?} is waiting to start: image can't be pulled")
        }
        Some("ImagePullBackOff") => {
            format!("container {name:?} in pod {pod:?} is waiting to start: trying and failing to pull image")
        }
        Some(reason) => format!("container {name:?} in pod {pod:?} is waiting to start: {reason}"),
        None => format!("container {name:?} in pod {pod:?} is waiting to start - no logs yet"),
    }))
}
