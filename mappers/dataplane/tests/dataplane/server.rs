//! An HTTP server that keeps what it is sent and answers as the test wants.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::eventually;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub(crate) fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The fields of a form.
    pub(crate) fn fields(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(&self.body).into_owned().collect()
    }
}

/// What a request is answered with.
type Answer = Arc<dyn Fn(&Got) -> StatusCode + Send + Sync>;

#[derive(Clone)]
struct Kept {
    got: Arc<Mutex<Vec<Got>>>,
    answer: Answer,
}

/// See the module documentation.
pub(crate) struct Server {
    pub(crate) port: u16,
    kept: Kept,
    task: JoinHandle<()>,
}

impl Server {
    /// On any port; takes everything.
    pub(crate) async fn open() -> Self {
        Self::on(0, |_| StatusCode::NO_CONTENT).await
    }

    pub(crate) async fn on(port: u16, answer: impl Fn(&Got) -> StatusCode + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let kept = Kept { got: Arc::default(), answer: Arc::new(answer) };
        let router = router(kept.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, kept, task }
    }

    /// What came so far.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.kept.got.lock().unwrap().clone()
    }

    /// Waits for so many requests.
    pub(crate) async fn until(&self, count: usize) -> Vec<Got> {
        let got = eventually(async || Some(self.got()).filter(|got| got.len() >= count)).await;
        got.unwrap_or_else(|| panic!("{} of {count} requests came", self.got().len()))
    }

    /// The numbers in the forms, without those that came twice in a row's place.
    pub(crate) fn numbers(&self) -> Vec<i64> {
        self.got().iter().map(|got| got.fields()[0].1.parse().unwrap()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn router(kept: Kept) -> Router {
    Router::new().fallback(take).with_state(kept)
}

/// The same router behind another listener.
pub(crate) fn behind() -> (Router, Arc<Mutex<Vec<Got>>>) {
    let kept = Kept { got: Arc::default(), answer: Arc::new(|_| StatusCode::NO_CONTENT) };
    let got = Arc::clone(&kept.got);
    (router(kept), got)
}

async fn take(State(kept): State<Kept>, request: Request) -> axum::response::Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 16 * 1024 * 1024).await.unwrap();
    let got = Got { target: head.uri.to_string(), headers: head.headers, body };
    let status = (kept.answer)(&got);
    if status.is_success() {
        kept.got.lock().unwrap().push(got);
    }
    status.into_response()
}

/// Without what came more than once, which at-least-once may bring.
pub(crate) fn once(numbers: Vec<i64>) -> Vec<i64> {
    let mut seen = std::collections::HashSet::new();
    numbers.into_iter().filter(|number| seen.insert(*number)).collect()
}
