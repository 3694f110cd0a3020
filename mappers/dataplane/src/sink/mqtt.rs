//! MQTT 3.1.1: each value is a message in the text that KubeEdge's mappers publish, over one connection.
//!
//! With QoS 1 and 2 a value is taken when the broker has acknowledged it; with QoS 0 when it was written. One task
//! turns the event loop and ends with the connection; dropping the sink ends it.
//!
//! MQTT 3.1.1 does not let a broker say how many messages of QoS 2 it takes at once, and one that gets more ends the
//! connection. So there are few of them at once, after a failure one, then twice as many each time.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{AsyncClient, EventLoop, MqttOptions, PublishNotice, PublishOptions, QoS, TlsConfiguration, Transport};
use skerry_mapper_sdk::chain;
use tokio::task::JoinSet;

use super::{Means, Sent};
use crate::address::Address;
use crate::record::Record;
use crate::route::Route;

/// A broker that is silent for longer is gone.
const KEEP_ALIVE_SECONDS: u16 = 20;
/// Messages on their way to the broker at once: acknowledged well within the deadline of a batch.
const OUTBOUND: usize = 100;
/// The same with QoS 2: what mosquitto takes, if it is not told otherwise.
const OUTBOUND_EXACTLY_ONCE: usize = 20;
/// Longest message: a value, with room for base64 and the topic.
const MAX_PACKET: u32 = 256 * 1024;
/// The event loop ends at once when its connection has.
const FAREWELL: Duration = Duration::from_secs(1);

/// See the module documentation.
pub(crate) struct Mqtt {
    address: Address,
    means: Means,
    session: Option<Session>,
    /// Messages of QoS 2 at once.
    exactly_once: usize,
}

struct Session {
    client: AsyncClient,
    /// The event loop, which says why it ended.
    turning: JoinSet<String>,
}

impl Mqtt {
    pub(crate) fn new(address: Address, means: &Means) -> Self {
        Self { address, means: means.clone(), session: None, exactly_once: OUTBOUND_EXACTLY_ONCE }
    }

    pub(crate) async fn send(&mut self, records: &[Record]) -> Sent {
        // A call that is dropped half-way leaves no session: what it sent would be in front of what comes next.
        let mut session = match self.session.take().filter(|session| !session.turning.is_empty()) {
            Some(session) => session,
            None => match self.open() {
                Ok(session) => session,
                Err(words) => return Sent::away(0, words),
            },
        };
        let most = if records.iter().any(is_exactly_once) { self.exactly_once } else { OUTBOUND };
        let records = records.get(..most).unwrap_or(records);
        let mut notices = Vec::with_capacity(records.len());
        let mut problem = None;
        for record in records {
            match publish(&session.client, record).await {
                Ok(notice) => notices.push(notice),
                Err(words) => {
                    problem = Some(words);
                    break;
                }
            }
        }
        let mut taken = 0;
        for notice in notices {
            // Of what the event loop has not yet looked at when it ends, nobody says anything.
            let failed = tokio::select! {
                done = notice.wait_completion_async() => done.err().map(|error| error.to_string()),
                ended = session.turning.join_next() => ended.map(|ended| ended.unwrap_or_default()),
            };
            if failed.is_some() {
                problem = failed;
                break;
            }
            taken += 1;
        }
        match problem {
            None => {
                self.exactly_once = (self.exactly_once * 2).min(OUTBOUND_EXACTLY_ONCE);
                self.session = Some(session);
                Sent::all(records)
            }
            Some(words) => {
                self.exactly_once = 1;
                // It knows why.
                let ended = tokio::time::timeout(FAREWELL, session.turning.join_next()).await;
                let words = if let Ok(Some(Ok(ended))) = ended { ended } else { words };
                Sent::away(taken, words)
            }
        }
    }

    fn open(&self) -> Result<Session, String> {
        let id = format!("skerry-{:016x}", rand::random::<u64>());
        let mut options = MqttOptions::new(id, (self.address.host.clone(), self.address.port));
        options.set_clean_session(true);
        options.set_keep_alive(KEEP_ALIVE_SECONDS);
        options.set_max_packet_size(MAX_PACKET as usize, MAX_PACKET as usize);
        if self.address.tls {
            let config = TlsConfiguration::Rustls(Arc::clone(&self.means.tls.config()?));
            options.set_transport(Transport::tls_with_config(config));
        }
        let secrets = &self.means.secrets;
        match (&secrets.mqtt_username, &secrets.mqtt_password) {
            (Some(user), Some(password)) => {
                options.set_credentials(user.clone(), password.clone().into_bytes());
            }
            (Some(user), None) => {
                options.set_username(user.clone());
            }
            (None, _) => {}
        }
        let (client, events) = AsyncClient::builder(options).capacity(OUTBOUND).build();
        let mut turning = JoinSet::new();
        turning.spawn(turn(events));
        Ok(Session { client, turning })
    }
}

/// Turns the event loop until the connection ends.
async fn turn(mut events: EventLoop) -> String {
    loop {
        if let Err(error) = events.poll().await {
            return chain(&error);
        }
    }
}

fn is_exactly_once(record: &Record) -> bool {
    matches!(record.target.route, Route::Mqtt { qos: 2, .. })
}

async fn publish(client: &AsyncClient, record: &Record) -> Result<PublishNotice, String> {
    let Route::Mqtt { topic, qos, retain } = &record.target.route else {
        return Err("the value is not for MQTT".to_owned());
    };
    let qos = match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    let options = PublishOptions::new(qos).retain(*retain);
    let published = client.publish_tracked(topic.clone(), payload(topic, record), options).await;
    published.map_err(|error| error.to_string())
}

/// `time is <time>  <topic>: <value>`.
fn payload(topic: &str, record: &Record) -> String {
    format!("time is {}  {topic}: {}", record.local_time(), record.value.to_text())
}
