//! The sinks: each takes a batch of values over a connection that it keeps.
//!
//! Called by the sink's task only, one batch at a time, which has a deadline: a call may be dropped where it waits,
//! and the next one begins with what the sink has then. A sink opens its connection when it needs it and again after
//! a failure; it never retries by itself.

mod client;
mod http;
mod influxdb2;
mod line;
#[cfg(feature = "mqtt")]
mod mqtt;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(feature = "redis")]
mod redis;
mod tdengine;

use crate::record::Record;
use crate::route::SinkKey;
use crate::secrets::Secrets;
use crate::tls::Tls;

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// So many, from the first on, are the sink's now.
    pub(crate) taken: usize,
    /// Why it did not take the others.
    pub(crate) trouble: Option<Trouble>,
}

/// Why a sink did not take values. The words are for logs: they have no values and no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Not now: it cannot be reached, is overloaded, or does not know our credentials.
    Away(String),
    /// It will never take the first of the values that are left; if there are several, perhaps another one of them.
    Refused(String),
}

impl Sent {
    /// The sink has taken everything.
    pub(crate) fn all(records: &[Record]) -> Self {
        Self { taken: records.len(), trouble: None }
    }

    pub(crate) fn away(taken: usize, words: impl Into<String>) -> Self {
        Self { taken, trouble: Some(Trouble::Away(words.into())) }
    }

    pub(crate) fn refused(taken: usize, words: impl Into<String>) -> Self {
        Self { taken, trouble: Some(Trouble::Refused(words.into())) }
    }
}

/// A sink of any kind.
pub(crate) enum Sink {
    Http(http::Http),
    Influxdb2(influxdb2::Influxdb2),
    Tdengine(tdengine::Tdengine),
    #[cfg(feature = "mqtt")]
    Mqtt(mqtt::Mqtt),
    #[cfg(feature = "mysql")]
    Mysql(mysql::Mysql),
    #[cfg(feature = "otlp")]
    Otlp(otlp::Otlp),
    #[cfg(feature = "redis")]
    Redis(redis::Redis),
}

/// What all sinks are made with.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    pub(crate) secrets: Secrets,
    pub(crate) tls: Tls,
    /// See `DataPlaneConfig`.
    pub(crate) influxdb2_text: bool,
}

impl Sink {
    /// Nothing is connected yet. `None`: this build has no such sink, which [`crate::route::read`] has said.
    pub(crate) fn new(key: &SinkKey, means: &Means) -> Option<Self> {
        match key.clone() {
            SinkKey::Http(address) => Some(Self::Http(http::Http::new(address, means))),
            SinkKey::Influxdb2 { address, org, bucket } => {
                Some(Self::Influxdb2(influxdb2::Influxdb2::new(&address, &org, &bucket, means)))
            }
            SinkKey::Tdengine { address, database } => {
                Some(Self::Tdengine(tdengine::Tdengine::new(&address, &database, means)))
            }
            #[cfg(feature = "mqtt")]
            SinkKey::Mqtt(address) => Some(Self::Mqtt(mqtt::Mqtt::new(address, means))),
            #[cfg(feature = "mysql")]
            SinkKey::Mysql { address, database, user } => {
                Some(Self::Mysql(mysql::Mysql::new(address, database, user, means)))
            }
            #[cfg(feature = "otlp")]
            SinkKey::Otlp(address) => Some(Self::Otlp(otlp::Otlp::new(&address, means))),
            #[cfg(feature = "redis")]
            SinkKey::Redis { address, db } => Some(Self::Redis(redis::Redis::new(address, db, means))),
            #[allow(unreachable_patterns, reason = "with all features there is no other")]
            _ => None,
        }
    }

    /// Sends values, in their order.
    pub(crate) async fn send(&mut self, records: &[Record]) -> Sent {
        match self {
            Self::Http(sink) => sink.send(records).await,
            Self::Influxdb2(sink) => sink.send(records).await,
            Self::Tdengine(sink) => sink.send(records).await,
            #[cfg(feature = "mqtt")]
            Self::Mqtt(sink) => sink.send(records).await,
            #[cfg(feature = "mysql")]
            Self::Mysql(sink) => sink.send(records).await,
            #[cfg(feature = "otlp")]
            Self::Otlp(sink) => sink.send(records).await,
            #[cfg(feature = "redis")]
            Self::Redis(sink) => sink.send(records).await,
        }
    }
}
