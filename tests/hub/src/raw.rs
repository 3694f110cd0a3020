//! A client that says what it likes: for what must be refused.

use anyhow::Context as _;
use skerry_identity::Credentials;
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::sink_client::SinkClient;
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_rpc::{Channel, ClientLimits, Connection, Target, connect_once};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

/// A connection with any certificate, or none.
pub struct Raw {
    /// The connection.
    pub connection: Connection,
}

/// A stream of subscriptions.
pub struct RawStream {
    requests: mpsc::Sender<pb::SubscribeRequest>,
    answers: Streaming<pb::SubscribeResponse>,
}

impl Raw {
    /// Connects to a hub.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn connect(hub: std::net::SocketAddr, credentials: Credentials) -> anyhow::Result<Self> {
        let target = Target::tcp([hub.to_string()], "cloudhub", crate::watch(credentials)?)?;
        Ok(Self { connection: connect_once(&target, &ClientLimits::node()).await? })
    }

    /// Opens a stream and says hello.
    ///
    /// # Errors
    /// When the stream is refused at once.
    pub async fn subscribe(&self, node: &str, session: u64) -> anyhow::Result<RawStream> {
        self.open(pb::Hello { protocols: vec![1], node: node.to_owned(), session, agent: "raw".to_owned() }).await
    }

    /// Opens a stream with a hello of the test's own.
    ///
    /// # Errors
    /// When the stream is refused at once.
    pub async fn open(&self, hello: pb::Hello) -> anyhow::Result<RawStream> {
        let (requests, queue) = mpsc::channel(16);
        let stream = RawStream {
            answers: SourceClient::new(self.connection.channel())
                .subscribe(ReceiverStream::new(queue))
                .await?
                .into_inner(),
            requests,
        };
        stream.send(pb::subscribe_request::Message::Hello(hello)).await?;
        Ok(stream)
    }

    /// Sends one report on a stream of its own and returns what came of it.
    ///
    /// # Errors
    /// With the status that refused it.
    pub async fn report(&self, session: u64, report: pb::Report) -> Result<Option<pb::outcome::Result>, tonic::Status> {
        let (requests, queue) = mpsc::channel(4);
        let hello = pb::Hello { protocols: vec![1], session, ..pb::Hello::default() };
        for message in [pb::report_request::Message::Hello(hello), pb::report_request::Message::Report(report)] {
            // The queue has room for both.
            let _ = requests.try_send(pb::ReportRequest { message: Some(message) });
        }
        let mut client = SinkClient::new(self.connection.channel());
        let mut stream = client.report(ReceiverStream::new(queue)).await?.into_inner();
        while let Some(message) = stream.message().await? {
            if let Some(pb::report_response::Message::Outcome(outcome)) = message.message {
                return Ok(outcome.result);
            }
        }
        Ok(None)
    }
}

impl RawStream {
    /// Sends a message.
    ///
    /// # Errors
    /// When the stream is closed.
    pub async fn send(&self, message: pb::subscribe_request::Message) -> anyhow::Result<()> {
        let request = pb::SubscribeRequest { message: Some(message) };
        self.requests.send(request).await.context("the stream is closed")
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// With the status that ended the stream.
    pub async fn next(&mut self) -> Result<Option<pb::subscribe_response::Message>, tonic::Status> {
        match tokio::time::timeout(crate::PATIENCE, self.answers.message()).await {
            Ok(message) => Ok(message?.and_then(|message| message.message)),
            Err(_) => Err(tonic::Status::deadline_exceeded("nothing came")),
        }
    }
}

/// Calls a method with an empty message and returns the code of its answer.
///
/// # Errors
/// When there was no answer.
pub async fn call(channel: &Channel, path: &str) -> anyhow::Result<Code> {
    use tower::Service as _;
    let body = tonic::body::Body::new(http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5])));
    let request = http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)?;
    let mut channel = channel.clone();
    let asked = tokio::time::timeout(crate::PATIENCE, async {
        let response = channel.call(request).await.map_err(|status| anyhow::anyhow!("{status}"))?;
        if let Some(status) = tonic::Status::from_header_map(response.headers()) {
            return Ok(status.code());
        }
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        let trailers = body.map_err(|status| anyhow::anyhow!("{status}"))?.trailers().cloned();
        let status = trailers.as_ref().and_then(tonic::Status::from_header_map);
        anyhow::Ok(status.map_or(Code::Unknown, |status| status.code()))
    });
    asked.await.context("no answer")?
}
