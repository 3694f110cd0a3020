//! Redis: each value is a member of the sorted set of its device, with its time as the score; a batch is a pipeline.
//!
//! The key is the device's name and the member JSON, as the readers of KubeEdge's mappers expect it. All of it is
//! sent as arguments. A member that is sent twice is there once.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisError,
};
use serde::Serialize;

use super::{Means, Sent};
use crate::address::Address;
use crate::record::Record;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the answer to a pipeline may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// See the module documentation.
pub(crate) struct Redis {
    address: Address,
    db: i64,
    means: Means,
    connection: Option<MultiplexedConnection>,
}

/// KubeEdge's `DataModel`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Member<'a> {
    device_name: &'a str,
    property_name: &'a str,
    namespace: &'a str,
    value: String,
    r#type: String,
    time_stamp: i64,
}

impl Redis {
    pub(crate) fn new(address: Address, db: i64, means: &Means) -> Self {
        Self { address, db, means: means.clone(), connection: None }
    }

    pub(crate) async fn send(&mut self, records: &[Record]) -> Sent {
        // A call that is dropped half-way leaves no connection behind.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.connect().await {
                Ok(connection) => connection,
                Err(words) => return Sent::away(0, words),
            },
        };
        let mut pipeline = ::redis::pipe();
        for record in records {
            let Ok(member) = serde_json::to_string(&member(record)) else {
                return Sent::refused(0, "the value is no JSON");
            };
            pipeline.zadd(&record.target.device, member, record.unix_ms).ignore();
        }
        match pipeline.query_async::<()>(&mut connection).await {
            Ok(()) => {
                self.connection = Some(connection);
                Sent::all(records)
            }
            // The key is there and is something else.
            Err(error) if code(&error).as_deref() == Some("WRONGTYPE") => {
                self.connection = Some(connection);
                Sent::refused(0, words(&error))
            }
            Err(error) => Sent::away(0, words(&error)),
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let mut settings = RedisConnectionInfo::default().set_db(self.db);
        if let Some(password) = &self.means.secrets.password {
            settings = settings.set_password(password);
        }
        let Address { tls, host, port, .. } = self.address.clone();
        let address = if tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let info = address.into_connection_info().map_err(|error| words(&error))?.set_redis_settings(settings);
        let client = if tls {
            let root_cert = self.means.tls.own_pem()?;
            Client::build_with_tls(info, ::redis::TlsCertificates { client_tls: None, root_cert })
        } else {
            Client::open(info)
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let client = client.map_err(|error| words(&error))?;
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| words(&error))
    }
}

fn member(record: &Record) -> Member<'_> {
    let target = &record.target;
    Member {
        device_name: &target.device,
        property_name: &target.property,
        namespace: &target.namespace,
        value: record.value.to_text(),
        r#type: target.data_type.to_ascii_lowercase(),
        time_stamp: record.unix_ms,
    }
}

/// The code of a server's error: in a pipeline, of the first one.
fn code(error: &RedisError) -> Option<String> {
    let all = error.clone().into_server_errors()?;
    all.first().map(|(_, error)| error.code().to_owned())
}

/// The code of a server's error, whose text may have arguments in it; other errors as they are.
fn words(error: &RedisError) -> String {
    match code(error) {
        Some(code) => format!("the answer was {code}"),
        None => skerry_mapper_sdk::chain(error),
    }
}
