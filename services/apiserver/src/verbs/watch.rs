//! Watch: a stream of events from the resource's ring.
//!
//! Runs as the body of the response, pulled by the connection. Invariants: a watcher that does not read is
//! ended alone when the ring has passed it; a bookmark comes only when nothing before it is missing.
//! Limits: `state::MAX_WATCHERS`, `MAX_WATCH_TIME`. Ends when the server drains; the client resumes.

use super::list::filter;
use crate::call::Call;
use crate::http::{Form, Reply, metadata_only};
use crate::state::{BOOKMARK_EVERY, MAX_WATCH_TIME, WATCH_TIME};
use crate::view;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use skerry_apimachinery::{ApiError, Cursor, Entry, EventType, Resource, table, table_row, watch_line};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

struct Watcher {
    api: Arc<crate::state::Api>,
    resource: Arc<Resource>,
    form: Form,
    include: String,
    cursor: Cursor,
    /// Objects that existed at the start.
    initial: VecDeque<Arc<Entry>>,
    /// The version to say when the initial objects are sent.
    initial_end: Option<u64>,
    ready: VecDeque<Bytes>,
    bookmarks: bool,
    next_bookmark: Instant,
    ends: Instant,
    columns_sent: bool,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

pub(crate) fn watch(call: &Call) -> Result<Reply, ApiError> {
    let query = &call.query;
    let filter = filter(call)?;
    let permit = call
        .api
        .watchers
        .clone()
        .try_acquire_owned()
        .map_err(|_| ApiError::TooManyRequests { message: "too many watches are open".into(), retry_after: 5 })?;
    let cache = call.api.storage.cache(&call.resource.storage);
    let start = match query.resource_version.as_str() {
        "" | "0" => None,
        text => {
            Some(text.parse::<u64>().map_err(|_| call.bad_request(format!("invalid resource version \"{text}\"")))?)
        }
    };
    let send_initial = query.send_initial_events == Some(true);
    if query.send_initial_events.is_some() && query.version_match != "NotOlderThan" {
        return Err(call.bad_request("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
    }
    if send_initial && !query.bookmarks {
        return Err(call.bad_request("sendInitialEvents requires setting allowWatchBookmarks to true"));
    }
    let opened = match start {
        Some(version) if !send_initial => cache.cursor(version, filter).map(|cursor| (VecDeque::new(), cursor, None)),
        None if query.send_initial_events == Some(false) => {
            cache.cursor(cache.version(), filter).map(|cursor| (VecDeque::new(), cursor, None))
        }
        _ => {
            let snapshot = cache.snapshot(&filter);
            let end = send_initial.then_some(snapshot.version);
            cache.cursor(snapshot.version, filter).map(|cursor| (snapshot.entries.into(), cursor, end))
        }
    };
    // A version that is too old is an event in the stream, as in Kubernetes: clients list again when they see
    // it there, and some (kube-rs) try the same version for ever when the request itself fails.
    let (initial, cursor, initial_end) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok(Reply::Raw(stream_response(Body::from(error_line(&error))))),
    };
    let time = query.timeout_seconds.map_or(WATCH_TIME, |s| Duration::from_secs(s).min(MAX_WATCH_TIME));
    let now = Instant::now();
    call.api.metrics.watchers.inc();
    let watcher = Watcher {
        api: call.api.clone(),
        resource: call.resource.clone(),
        form: call.form,
        include: call.include.clone(),
        cursor,
        initial,
        initial_end,
        ready: VecDeque::new(),
        bookmarks: query.bookmarks,
        next_bookmark: now + BOOKMARK_EVERY,
        ends: now + time,
        columns_sent: false,
        over: false,
        _permit: permit,
    };
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((Ok::<Bytes, Infallible>(line), watcher))
    });
    Ok(Reply::Raw(stream_response(Body::from_stream(lines))))
}

fn stream_response(body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.api.metrics.watchers.dec();
    }
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            if let Some(entry) = self.initial.pop_front() {
                return Some(self.line(EventType::Added, &entry));
            }
            if let Some(version) = self.initial_end.take() {
                return Some(self.bookmark(version, true));
            }
            self.wait().await;
        }
    }

    /// Waits for something to happen and fills `ready`.
    async fn wait(&mut self) {
        let bookmark = if self.bookmarks { self.next_bookmark } else { self.ends };
        tokio::select! {
            biased;
            () = self.api.stopping.cancelled() => self.over = true,
            () = tokio::time::sleep_until(self.ends) => {
                self.over = true;
                if self.bookmarks {
                    self.ready.push_back(self.bookmark(self.cursor.position(), false));
                }
            }
            // Before the changes: a watcher whose changes are all filtered out must learn newer versions too.
            () = tokio::time::sleep_until(bookmark) => {
                self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                // Take what is there first: the position then covers everything up to now.
                match self.cursor.take() {
                    Ok(events) => {
                        for event in events {
                            let line = self.line(event.kind, &event.entry);
                            self.ready.push_back(line);
                        }
                        self.ready.push_back(self.bookmark(self.cursor.position(), false));
                    }
                    Err(error) => {
                        self.ready.push_back(error_line(&error));
                        self.over = true;
                    }
                }
            }
            () = self.cursor.changed() => match self.cursor.take() {
                Ok(events) => {
                    for event in events {
                        let line = self.line(event.kind, &event.entry);
                        self.ready.push_back(line);
                    }
                }
                Err(error) => {
                    self.api.metrics.watchers_expired.inc();
                    self.ready.push_back(error_line(&error));
                    self.over = true;
                }
            },
        }
    }

    fn line(&mut self, kind: EventType, entry: &Entry) -> Bytes {
        let object = match self.form {
            Form::Json | Form::Discovery => return view::line(&self.resource, kind, entry),
            Form::Metadata => metadata_only(&view::value(&self.resource, entry)),
            Form::Table => {
                // Printers know the stored form.
                let row = table_row(&self.resource, &entry.value(), &self.include, jiff::Timestamp::now());
                let meta = json!({"resourceVersion": entry.version.to_string()});
                let first = !std::mem::replace(&mut self.columns_sent, true);
                table(&self.resource, vec![row], meta, first)
            }
        };
        watch_line(kind, &serde_json::to_vec(&object).unwrap_or_default())
    }

    fn bookmark(&self, version: u64, initial_end: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if initial_end && let Some(map) = meta.as_object_mut() {
            map.insert("annotations".into(), json!({"k8s.io/initial-events-end": "true"}));
        }
        let object = match self.form {
            Form::Table => table(&self.resource, Vec::new(), meta, false),
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta})
            }
            Form::Json | Form::Discovery => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": meta})
            }
        };
        event_line("BOOKMARK", &object)
    }
}

fn event_line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

fn error_line(error: &ApiError) -> Bytes {
    event_line("ERROR", &error.status())
}
